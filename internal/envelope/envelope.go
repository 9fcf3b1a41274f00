// Package envelope reads the top-level fields of a notification.
package envelope

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/romshark/jscan/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// Envelope has the top-level fields of a notification that this module uses. A field other
// than the topic is empty if it is missing, null or not of its documented type, so that no
// notification is lost because of it.
// Source: https://developers.intercom.com/docs/references/webhooks/webhook-models
type Envelope struct {
	Topic            string
	ID               string // "notif_" + UUID; null for ping
	AppID            string // of the workspace
	CreatedAt        int64  // unix seconds
	DeliveryAttempts int64
	Fin              bool // it is an event of the Fin Agent API
}

// MaxHeaderValue is the longest text that becomes a header, in bytes. The longest known
// topic has 37.
const MaxHeaderValue = 255

var (
	errNoObject      = errors.New("body is not a JSON object")
	errTooDeep       = errors.New("body is nested too deeply")
	errTopicMissing  = errors.New("no topic at the top level")
	errTopicInvalid  = errors.New("topic is not a dotted name of [A-Za-z0-9_-] segments")
	errFieldRepeated = errors.New("a top-level field is repeated")
	errFieldCase     = errors.New("a top-level field differs from one of the envelope only in case")
)

// Parse reads the envelope of a notification. The body must be one strictly valid
// JSON object. Only its top level is read, because the data of a notification may have
// fields with the same names. Invalid UTF-8 in strings is accepted, as in encoding/json. The
// same walk finds the values of a plan.
func Parse(body []byte, plan *fields.Plan) (e Envelope, values fields.Values, err error) {
	values, err = scan(body, keys, plan, func(key string, i *jscan.Iterator[[]byte]) (err error) {
		switch key {
		case "topic":
			e.Topic, err = topicValue(i)
		case "id":
			e.ID = idValue(i)
		case "app_id":
			e.AppID = idValue(i)
		case "created_at":
			e.CreatedAt = intValue(i)
		case "delivery_attempts":
			e.DeliveryAttempts = intValue(i)
		}
		return err
	})
	if err == nil && e.Topic == "" {
		err = errTopicMissing
	}
	if err != nil {
		return Envelope{}, fields.Values{}, err
	}
	return e, values, nil
}

// ParseFin reads an event of the Fin Agent API, which has no envelope, as if it had one. The
// topic is intercom.FinPrefix and the event_name, and the id is made from the bytes, so that an event
// that is sent again has the same one. An event without event_name is a test, and becomes a ping.
func ParseFin(body []byte, plan *fields.Plan) (e Envelope, values fields.Values, err error) {
	e = Envelope{Topic: intercom.TopicPing, Fin: true}
	values, err = scan(body, finKeys, plan, func(key string, i *jscan.Iterator[[]byte]) (err error) {
		switch key {
		case "event_name":
			if e.Topic, err = topicValue(i); len(e.Topic) > MaxHeaderValue-len(intercom.FinPrefix) {
				err = errTopicInvalid
			}
			sum := sha256.Sum256(body)
			e.Topic, e.ID = intercom.FinPrefix+e.Topic, "fin_"+hex.EncodeToString(sum[:16])
		case "created_at_ms":
			e.CreatedAt = timeValue(i)
		}
		return err
	})
	if err != nil {
		return Envelope{}, fields.Values{}, err
	}
	return e, values, nil
}

// keys are those that Parse reads, and finKeys those that decide what becomes of a Fin Agent API
// event.
var (
	keys    = []string{"topic", "id", "app_id", "created_at", "delivery_attempts"}
	finKeys = []string{"event_name", "conversation_id", "created_at_ms"}
)

// scan walks over the body, and calls set for the members of the top level that have one of the
// keys.
func scan(body []byte, keys []string, plan *fields.Plan, set func(key string, i *jscan.Iterator[[]byte]) error) (fields.Values, error) {
	walk := plan.Start()
	if walk != nil {
		defer walk.End()
	}
	var seen [5]bool   // of keys
	reach := 1         // the deepest level that is looked at now
	err := errNoObject // until the root value is an object
	syntax := jscan.Scan(body, func(i *jscan.Iterator[[]byte]) (stop bool) {
		level := i.Level()
		if level > reach { // most values are here, so this must be fast
			return level > fields.MaxDepth
		}
		switch {
		case level == 1:
			var found int
			if found, err = find(fields.Text(i.Key()), keys, &seen); found >= 0 && err == nil {
				err = set(keys[found], i)
			}
		case level == 0 && i.ValueType() == jscan.ValueTypeObject:
			err = nil
		}
		if walk != nil && err == nil {
			err = walk.Visit(i)
			reach = max(1, walk.Reach)
		}
		return err != nil
	})
	switch {
	case err != nil:
		return fields.Values{}, err
	case syntax.Code == jscan.ErrorCodeCallback:
		return fields.Values{}, errTooDeep
	case syntax.IsErr():
		// The text of syntax is not used, because it quotes the body.
		return fields.Values{}, fmt.Errorf("body is not valid JSON at byte %d", syntax.Index)
	case walk != nil:
		return walk.Values()
	}
	return fields.Values{}, nil
}

// find returns the place of a name among the keys; -1 if it is none of them. It refuses a
// repeated key, and a name that differs from a key only in case. Parsers differ on which one they
// use, and the backend must not read another topic than the one that decided the route.
func find(name []byte, keys []string, seen *[5]bool) (int, error) {
	text := string(name)
	// As encoding/json, which ignores case: in Unicode, ſ (U+017F) is s, and K (U+212A) is k.
	found := slices.IndexFunc(keys, func(key string) bool { return strings.EqualFold(text, key) })
	switch {
	case found < 0:
		return found, nil
	case text != keys[found]:
		return found, errFieldCase
	case seen[found]:
		return found, errFieldRepeated
	}
	seen[found] = true
	return found, nil
}

func topicValue(i *jscan.Iterator[[]byte]) (string, error) {
	if i.ValueType() != jscan.ValueTypeString {
		return "", errTopicInvalid
	}
	topic := string(fields.Text(i.Value()))
	if len(topic) > MaxHeaderValue || !topicpattern.IsTopic(topic) {
		return "", errTopicInvalid
	}
	return topic, nil
}

// idValue returns the value if it is a string that can be a header value, or else an empty
// string.
func idValue(i *jscan.Iterator[[]byte]) string {
	if i.ValueType() != jscan.ValueTypeString {
		return ""
	}
	id := string(fields.Text(i.Value()))
	if len(id) > MaxHeaderValue {
		return ""
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' {
			return ""
		}
	}
	return id
}

func intValue(i *jscan.Iterator[[]byte]) int64 {
	if i.ValueType() != jscan.ValueTypeNumber {
		return 0
	}
	n, err := strconv.ParseInt(string(i.Value()), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// timeValue returns the value in Unix seconds if it is a time as text.
func timeValue(i *jscan.Iterator[[]byte]) int64 {
	if i.ValueType() != jscan.ValueTypeString {
		return 0
	}
	at, err := time.Parse(time.RFC3339, string(fields.Text(i.Value()))) // a fraction may follow the seconds
	if err != nil {
		return 0
	}
	return at.Unix()
}
