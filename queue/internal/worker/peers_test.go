package worker

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func newTestPeers(e *Endpoint, others ...db.Presence) *peers {
	config := Config{e.Name: e}
	return &peers{
		db: newFakeDB(), config: func() Config { return config },
		known: db.Peers{Others: others}, asked: time.Now().Add(time.Hour),
	}
}

func TestDeliveriesThatAnotherConfigMakes(t *testing.T) {
	e := new(fakeHandler).endpoint("intercom", testOptions, "support")
	other := db.Presence{Configs: map[string]string{"intercom": "another"}, Lanes: []db.Lane{named("billing")}}
	same := db.Presence{Configs: map[string]string{"intercom": "hash"}, Lanes: []db.Lane{named("billing")}}
	elsewhere := db.Presence{Configs: map[string]string{"crm": "another"}, Lanes: []db.Lane{named("billing")}}
	for _, c := range []struct {
		name         string
		lane, routed string
		fixed        bool
		other        db.Presence
		left         bool
	}{
		{"one for the lane that it is routed to", "billing", "billing", false, other, false},
		{"one that fits no route here", "support", "", false, other, true},
		{"one that fits no route here, nor there", "support", "", false, same, false},
		{"one that fits no route here, of an endpoint that the other has not", "support", "", false, elsewhere, false},
		{"one that is routed to another lane here", "billing", "support", false, other, true},
		{"one of a lane that the other has not", "old", "support", false, other, false},
		{"one that fitted no route when it was stored", UnroutedLane, "support", false, other, false},
		{"one that is fixed to a lane that the other has", "billing", "", true, other, true},
		{"one that is fixed to a lane that nobody has", "staging", "", true, other, false},
		{"one that is fixed to a lane that is here", "support", "support", true, other, false},
	} {
		if left := newTestPeers(e, c.other).belongsToOther(named(c.lane), c.routed, c.fixed); left != c.left {
			t.Errorf("%s: left to the other is %t, want %t", c.name, left, c.left)
		}
	}
}

// Two Caddys with different configs left it to each other for ever.
func TestWhatFitsNoRouteOfAnyConfigIsADeadLetterInTheEnd(t *testing.T) {
	e := new(fakeHandler).endpoint("intercom", testOptions, "support")
	e.Handler.Route = func(*http.Request, []byte, intercomwebhook.Attempt, string) (string, func() intercomwebhook.Delivery) {
		return "", func() intercomwebhook.Delivery { return intercomwebhook.Delivery{Err: intercomwebhook.ErrUnrouted} }
	}
	other := db.Presence{Configs: map[string]string{"intercom": "another"}, Lanes: []db.Lane{named("support"), named("staging")}}
	v := &deliverer{ctx: context.Background(), endpoint: func(string) *Endpoint { return e }, peers: newTestPeers(e, other), tracing: new(tracing)}
	for _, c := range []struct {
		name, lane string
		fixed      bool
		age        time.Duration
		want       db.State
	}{
		{"a young one is left to the other", UnroutedLane, false, time.Hour, db.Waiting},
		{"an old one is a dead letter", UnroutedLane, false, testOptions.MaxAge, db.Dead},
		{"an old one for a lane of the other is left to it", "staging", true, testOptions.MaxAge, db.Waiting},
	} {
		l := laneNamed(c.lane)
		d := &delivery{
			id: 1, lane: l, fixed: c.fixed, claimed: time.Now(), age: c.age,
			note: &db.Notification{Request: db.Request{Method: "POST", URI: "/"}},
		}
		if got, ok := v.deliver(d); !ok || got.State != c.want || l.leftToOthers[1] != (c.want == db.Waiting) {
			t.Errorf("%s: %s, want %s", c.name, got.State, c.want)
		}
	}
}

func TestLanesThatNoInstanceHasAreTakenOver(t *testing.T) {
	e := new(fakeHandler).endpoint("intercom", testOptions, "support")
	other := db.Presence{Lanes: []db.Lane{named("billing")}, Configs: map[string]string{"shop": "another"}}
	p := newTestPeers(e, other)
	lanes := []db.Lane{named("support"), named("billing"), named("old"), {Endpoint: "crm", Name: "a"}, {Endpoint: "crm", Name: "b"}, {Endpoint: "shop", Name: "a"}}
	now := time.Now()
	if got := p.orphaned(lanes, now); len(got) != 0 {
		t.Errorf("taken over %v at once", got)
	}
	if got := p.orphaned(lanes, now.Add(orphanedAfter-time.Second)); len(got) != 0 {
		t.Errorf("taken over %v within a minute", got)
	}
	if got := p.orphaned(lanes, now.Add(orphanedAfter)); !slices.Equal(got, []db.Lane{named("old")}) {
		t.Errorf("taken over %v, want old", got)
	}
	p.orphaned(lanes[:2], now.Add(orphanedAfter))
	if got := p.orphaned(lanes, now.Add(orphanedAfter)); len(got) != 0 {
		t.Errorf("taken over %v, which somebody had again", got)
	}
	p.known.Exclusive = true
	if got := p.orphaned(lanes, now.Add(orphanedAfter)); !slices.Equal(got, []db.Lane{named("old")}) {
		t.Errorf("taken over %v, want old at once where nobody else can have the database", got)
	}
}
