package worker

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// maxObject is the longest object that is stored, in bytes.
const maxObject = 200

// objectFields are the fields of a body that tell what a notification is about, and the fields
// by which lanes are ordered.
type objectFields struct {
	made                              sync.Once
	plan                              fields.Plan
	kind, id, conversation, at, finAt int
	by                                map[string]int // by path
}

// read finds the fields in a body. It returns nothing if the same key stands twice, as then
// nobody knows which one counts.
func (o *objectFields) read(lanes map[string]LaneOptions, body []byte) fields.Values {
	o.made.Do(func() {
		o.kind, o.id, o.at = o.plan.Want("data.item.type"), o.plan.Want("data.item.id"), o.plan.Want("created_at")
		o.conversation, o.finAt = o.plan.Want("conversation_id"), o.plan.Want("created_at_ms")
		o.by = make(map[string]int)
		for _, lane := range lanes {
			if lane.OrderBy != "" {
				o.by[lane.OrderBy] = o.plan.Want(lane.OrderBy)
			}
		}
	})
	values, err := o.plan.Read(body)
	if err != nil {
		return fields.Values{}
	}
	return values
}

// describe sets what a notification is about, as in conversation:123, and the orders of its
// deliveries. An event of the Fin Agent API is about a conversation, of which it has the
// customer's own id.
func (e *Endpoint) describe(n *db.NewNotification) {
	o := &e.objectFields
	values := o.read(e.Options.Lanes, n.Body)
	kind, id, at := values.Text(o.kind), values.Text(o.id), values.Text(o.at)
	if strings.HasPrefix(n.Topic, "fin.") {
		kind, id, at = "fin", values.Text(o.conversation), values.Text(o.finAt)
	}
	if kind != "" && id != "" && len(kind)+len(id) < maxObject {
		n.Object = kind + ":" + id
	}
	for i := range n.Deliveries {
		d := &n.Deliveries[i]
		options := e.lane(d.Lane)
		key := n.Object
		if options.OrderBy != "" {
			key = values.Text(o.by[options.OrderBy])
		}
		if options.Ordered && key != "" {
			d.Order, d.Hold = db.Order{Key: orderKey(n.Workspace, key), CreatedAt: createdAt(at, n.ReceivedAt)}, options.Hold
		}
	}
}

// orderKey returns the key of an object. A long one is a hash.
func orderKey(workspace, object string) string {
	key := workspace + " " + object
	if len(key) > db.MaxOrderKey {
		hash := sha256.Sum256([]byte(key))
		key = hex.EncodeToString(hash[:])
	}
	return key
}

// createdAt returns the time that a notification has, in seconds or as text; that of its receipt
// if it has none that can be.
func createdAt(text string, receivedAt time.Time) time.Time {
	at, err := time.Parse(time.RFC3339, text)
	if seconds, numberErr := strconv.ParseFloat(text, 64); numberErr == nil && seconds > 0 && seconds < 1<<33 {
		at, err = time.UnixMicro(int64(seconds*1e6)), nil
	}
	if err != nil || at.Year() <= 1970 || at.Year() >= 2200 {
		return receivedAt
	}
	return at
}
