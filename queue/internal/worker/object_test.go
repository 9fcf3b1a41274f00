package worker

import (
	"net/http"
	"strings"
	"testing"
	"time"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func TestWhatANotificationIsAbout(t *testing.T) {
	for name, tc := range map[string]struct{ topic, body, want string }{
		"an object":                      {"conversation.user.created", `{"data":{"item":{"type":"conversation","id":"123","tags":[{"type":"tag","id":"7"}],"user":{"type":"user","id":"8"}}}}`, "conversation:123"},
		"an id that is a number":         {"conversation.user.created", `{"data":{"item":{"id":123,"type":"conversation"}}}`, "conversation:123"},
		"no type":                        {"conversation.user.created", `{"data":{"item":{"id":"123"}}}`, ""},
		"no id":                          {"conversation.user.created", `{"data":{"item":{"type":"conversation","id":null}}}`, ""},
		"type and id elsewhere":          {"conversation.user.created", `{"type":"a","id":"1","item":{"type":"b","id":"2"},"data":{"type":"c","id":"3","x":{"type":"d","id":"4"}}}`, ""},
		"an id twice":                    {"conversation.user.created", `{"data":{"item":{"type":"conversation","id":"1","ID":"2"}}}`, ""},
		"an id of 200 bytes":             {"conversation.user.created", `{"data":{"item":{"type":"conversation","id":"` + strings.Repeat("x", 200) + `"}}}`, ""},
		"no data, as in a ping":          {"ping", `{"data":null}`, ""},
		"an event of the Fin Agent API":  {"fin.fin_replied", `{"event_name":"fin_replied","conversation_id":"c-1"}`, "fin:c-1"},
		"a conversation_id of no Fin":    {"conversation.user.created", `{"conversation_id":"c-1"}`, ""},
		"an item in an event of the Fin": {"fin.fin_replied", `{"data":{"item":{"type":"conversation","id":"123"}}}`, ""},
	} {
		n := &db.NewNotification{Notification: &db.Notification{Topic: tc.topic, Body: []byte(tc.body)}}
		if new(Endpoint).describe(n); n.Object != tc.want {
			t.Errorf("%s: %q, want %q", name, n.Object, tc.want)
		}
	}
}

func TestTheOrderOfADelivery(t *testing.T) {
	received := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	e := &Endpoint{Options: Options{Lanes: map[string]LaneOptions{
		"ordered": {Ordered: true, Hold: time.Second}, "by": {Ordered: true, OrderBy: "data.item.conversation_id"}, "plain": {},
	}}}
	for name, tc := range map[string]struct {
		topic, body string
		lane        string
		want        db.Order
	}{
		"its object":                 {"a.b", `{"data":{"item":{"type":"conversation","id":"1"}},"created_at":1764500000}`, "ordered", db.Order{Key: "w conversation:1", CreatedAt: time.Unix(1764500000, 0)}},
		"without an object":          {"a.b", `{"data":{"item":{"id":"1"}},"created_at":1764500000}`, "ordered", db.Order{}},
		"a lane without an order":    {"a.b", `{"data":{"item":{"type":"conversation","id":"1"}},"created_at":1764500000}`, "plain", db.Order{}},
		"another lane":               {"a.b", `{"data":{"item":{"type":"conversation","id":"1"}},"created_at":1764500000}`, "other", db.Order{}},
		"a field":                    {"a.b", `{"data":{"item":{"conversation_id":7}},"created_at":1764500000.25}`, "by", db.Order{Key: "w 7", CreatedAt: time.UnixMilli(1764500000250)}},
		"a field that is not there":  {"a.b", `{"data":{"item":{"type":"conversation","id":"1"}},"created_at":1764500000}`, "by", db.Order{}},
		"Fin":                        {"fin.fin_replied", `{"conversation_id":"c","created_at_ms":"2026-11-30T11:59:59.123Z"}`, "ordered", db.Order{Key: "w fin:c", CreatedAt: time.Date(2026, 11, 30, 11, 59, 59, 123e6, time.UTC)}},
		"created at no time":         {"a.b", `{"data":{"item":{"type":"conversation","id":"1"}},"created_at":0}`, "ordered", db.Order{Key: "w conversation:1", CreatedAt: received}},
		"created at a time too late": {"a.b", `{"data":{"item":{"type":"conversation","id":"1"}},"created_at":1e300}`, "ordered", db.Order{Key: "w conversation:1", CreatedAt: received}},
		"created at an odd time":     {"fin.a", `{"conversation_id":"c","created_at_ms":"soon"}`, "ordered", db.Order{Key: "w fin:c", CreatedAt: received}},
	} {
		n := &db.NewNotification{
			Notification: &db.Notification{Topic: tc.topic, Workspace: "w", Body: []byte(tc.body), ReceivedAt: received},
			Deliveries:   []db.NewDelivery{{Lane: tc.lane}},
		}
		e.describe(n)
		if got := n.Deliveries[0]; got.Order.Key != tc.want.Key || !got.Order.CreatedAt.Equal(tc.want.CreatedAt) || (got.Hold > 0) != (tc.lane == "ordered" && tc.want.Key != "") {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
	if key := orderKey("w", strings.Repeat("x", 1000)); len(key) > db.MaxOrderKey || key == orderKey("v", strings.Repeat("x", 1000)) {
		t.Errorf("the key of a long object is %q", key)
	}
}

// Others take over what an instance holds whose heartbeat is late: what has an order must have
// ended by then.
func TestOrderedDeliveriesEndWhenTheHeartbeatIsLate(t *testing.T) {
	v := &deliverer{ctx: t.Context(), tracing: new(tracing)}
	v.interruptOrdered()
	began := make(chan struct{})
	h := &fakeHandler{lane: "support", answer: func(r *http.Request, _ int) intercomwebhook.Delivery {
		close(began)
		<-r.Context().Done()
		return intercomwebhook.Delivery{Err: r.Context().Err()}
	}}
	e := h.endpoint("intercom", testOptions, "support")
	v.endpoint = func(string) *Endpoint { return e }
	d := &delivery{id: 1, ordered: true, lane: &lane{Lane: db.Lane{Endpoint: "intercom", Name: "support"}}, note: &db.Notification{Request: db.Request{Method: "POST", URI: "/"}}}
	go func() {
		<-began
		v.interruptOrdered()
	}()
	if outcome, ok := v.deliver(d); !ok || outcome.State != db.Waiting || outcome.Attempt != nil {
		t.Errorf("the outcome is %+v (%t), want it released", outcome, ok)
	}
	if err := v.ordered.Load().Err(); err != nil {
		t.Errorf("the next one could not begin: %v", err)
	}
}
