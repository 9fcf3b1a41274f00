package main

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	_ "github.com/caddy-intercom/caddy-intercom-webhook/queue"
)

func init() {
	caddy.RegisterModule(new(subject))
}

// subject is a Caddy app in the place of the intercom_webhook handler, so that the
// queue is measured, and not HTTP.
type subject struct {
	QueueRaw json.RawMessage `json:"queue,omitempty" caddy:"namespace=http.intercom_webhook.queues inline_key=engine"`

	queue     intercomwebhook.Queue
	body      []byte
	request   *http.Request
	lanes     []string
	gate      chan struct{} // deliveries wait until it is closed
	ended     chan struct{} // those that wait fail once it is closed
	room      chan struct{} // has what is not delivered yet; nil if that may be any number
	delivered atomic.Int64
}

// CaddyModule returns the Caddy module information.
func (*subject) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "intercom_queue_bench",
		New: func() caddy.Module { return new(subject) },
	}
}

// Provision implements caddy.Provisioner.
func (q *subject) Provision(ctx caddy.Context) error {
	q.gate, q.ended = make(chan struct{}), make(chan struct{})
	q.body = notification()
	q.request = request(q.body)
	for lane := range options.lanes {
		q.lanes = append(q.lanes, "lane"+strconv.Itoa(lane))
	}
	module, err := ctx.LoadModule(q, "QueueRaw")
	if err != nil {
		return err
	}
	q.queue = module.(intercomwebhook.Queue)
	started = q
	return q.queue.Attach(q)
}

// started is the app of the config that was loaded last.
var started *subject

// start runs Caddy in this process.
func start(database string) (*subject, error) {
	queue := map[string]any{"engine": options.engine, "delivery_timeout": "1h"}
	if options.engine == "postgres" {
		queue["url"], queue["schema"] = options.url, schema
	} else {
		queue["path"] = database
	}
	config, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}},
		"apps":    map[string]any{"intercom_queue_bench": map[string]any{"queue": queue}},
	})
	if err != nil {
		return nil, err
	}
	if err := caddy.Load(config, true); err != nil {
		return nil, err
	}
	return started, nil
}

// Start implements caddy.App.
func (*subject) Start() error { return nil }

// Stop implements caddy.App.
func (*subject) Stop() error { return nil }

// Lanes implements intercomwebhook.Endpoint.
func (q *subject) Lanes() []string { return slices.Clone(q.lanes) }

// ConfigHash implements intercomwebhook.Endpoint.
func (*subject) ConfigHash() (hash [sha256.Size]byte) { return hash }

// Route implements intercomwebhook.Endpoint.
func (q *subject) Route(r *http.Request, _ []byte, _ int) (lane string, deliver func() intercomwebhook.Delivery) {
	return "", func() intercomwebhook.Delivery { return q.deliver(r) }
}

func (q *subject) deliver(r *http.Request) intercomwebhook.Delivery {
	select {
	case <-q.gate:
	case <-q.ended:
		return intercomwebhook.Delivery{Err: errEnded}
	case <-r.Context().Done():
		return intercomwebhook.Delivery{Err: r.Context().Err()}
	}
	q.delivered.Add(1)
	if q.room != nil {
		<-q.room
	}
	return intercomwebhook.Delivery{}
}

var errEnded = errors.New("the measurement has ended")

// store stores the nth notification.
func (q *subject) store(n int64) error {
	_, err := q.queue.Store(q.request, intercomwebhook.Notification{
		Topic: "conversation.user.replied",
		AppID: "exmpl123",
		ID:    "notif_5b6a1e04-54a5-4d6e-8a13-" + strconv.FormatInt(n, 10),
		Lane:  q.lanes[int(n)%len(q.lanes)],
		Body:  q.body,
	})
	return err
}

func (q *subject) waitForDelivered(n int64) {
	for q.delivered.Load() < n {
		time.Sleep(time.Millisecond)
	}
}

// request is one as Intercom sends it.
func request(body []byte) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "https://hooks.example.com/intercom", nil)
	mac := hmac.New(sha1.New, []byte("bench"))
	mac.Write(body)
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Intercom-Webhook-Version", "2.14")
	r.Header.Set("User-Agent", "intercom-webhook")
	r.Header.Set("X-Hub-Signature", fmt.Sprintf("sha1=%x", mac.Sum(nil)))
	return r
}

// notification is a body of bodySize bytes in the shape of Intercom's.
func notification() []byte {
	const head = `{"type":"notification_event","app_id":"exmpl123","data":{"type":"notification_event_data","item":{"type":"conversation","id":"301744120095518","conversation_parts":[`
	const part = `{"type":"conversation_part","id":"40117733902","part_type":"comment","body":"<p>Could you also send me the invoice?</p>","created_at":1773244812,"assigned_to":null,"author":{"type":"user","id":"68a1c1f29e07d4003b5f1c20","name":"Zoe"}},`
	const tail = `{}]}},"links":{},"id":"notif_5b6a1e04-54a5-4d6e-8a13-7d3a0a6f5b1c","topic":"conversation.user.replied","delivery_status":"pending","delivery_attempts":1,"delivered_at":0,"first_sent_at":1773244813,"created_at":1773244813,"self":null}`
	n := (bodySize - len(head) - len(tail)) / len(part)
	body := head + strings.Repeat(part, n) + tail
	return []byte(body + strings.Repeat(" ", bodySize-len(body)))
}
