package queue

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

func TestJobsThatAnotherConfigDelivers(t *testing.T) {
	d := new(dispatcher)
	a := newTestAttachment(d, Options{Name: "intercom"}, &fakeTarget{lanes: []string{"support"}})
	d.attachments = []attachments{{"intercom": a}}
	own := a.configHash()
	other := jobdb.Presence{Configs: map[string]string{"intercom": "another"}, Queues: []string{"billing"}}
	same := jobdb.Presence{Configs: map[string]string{"intercom": own}, Queues: []string{"billing"}}
	for _, c := range []struct {
		name            string
		queue, lane, to string
		other           jobdb.Presence
		left            bool
	}{
		{"one for the lane that it is routed to", "billing", "billing", "", other, false},
		{"one that fits no route here", "support", "", "", other, true},
		{"one that fits no route here, nor there", "support", "", "", same, false},
		{"one that is routed to another lane here", "billing", "support", "", other, true},
		{"one of a lane that the other has not", "old", "support", "", other, false},
		{"one that fitted no route when it was stored", unroutedLane, "support", "", other, false},
		{"one that is to go to a lane that the other has", "billing", "", "billing", other, true},
		{"one that is to go to a lane that nobody has", "staging", "", "staging", other, false},
		{"one that is to go to a lane that is here", "support", "support", "support", other, false},
	} {
		d.fleet.Others = []jobdb.Presence{c.other}
		if left := d.belongsToAnotherConfig(c.queue, c.lane, c.to); left != c.left {
			t.Errorf("%s: left to the other is %t, want %t", c.name, left, c.left)
		}
	}
}

// noRoute is a handler none of whose routes fits.
type noRoute struct{ *fakeTarget }

func (noRoute) Route(*http.Request, []byte, int, string) (lane string, deliver func() intercomwebhook.Delivery) {
	return "", func() intercomwebhook.Delivery { return intercomwebhook.Delivery{Err: intercomwebhook.ErrUnrouted} }
}

// Two Caddys with different configs left it to each other for ever.
func TestWhatFitsNoRouteOfAnyConfigIsADeadLetterInTheEnd(t *testing.T) {
	d := &dispatcher{db: instance{}, deliverCtx: context.Background(), fleetAsked: time.Now().Add(time.Hour)}
	a := newTestAttachment(d, Options{}, noRoute{&fakeTarget{lanes: []string{"support"}}})
	d.attachments = []attachments{{"intercom": a}}
	d.fleet.Others = []jobdb.Presence{{Configs: map[string]string{"intercom": "another"}, Queues: []string{"support", "staging"}}}
	for _, c := range []struct {
		name, queue, to string
		age             time.Duration
		want            jobdb.State
	}{
		{"a young one is left to the other", unroutedLane, "", time.Hour, jobdb.StateAvailable},
		{"an old one is a dead letter", unroutedLane, "", defaultMaxAge, jobdb.StateCancelled},
		{"an old one for a lane of the other is left to it", "staging", "staging", defaultMaxAge, jobdb.StateAvailable},
	} {
		note := newNotification(httptest.NewRequest(http.MethodPost, "/", nil), "intercom", intercomwebhook.Notification{Kind: "other", ID: "a", Body: []byte("a")})
		note.To = c.to
		job := &heldJob{id: 1, queue: c.queue, attempt: 1, claimed: time.Now(), age: c.age, note: note}
		if got := d.deliver(&lane{dispatcher: d, queue: c.queue}, job); got.State != c.want {
			t.Errorf("%s: %s, want %s", c.name, got.State, c.want)
		}
	}
}
