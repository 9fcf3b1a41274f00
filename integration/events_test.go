package integration

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

func init() {
	caddy.RegisterModule(new(eventRecorder))
}

// eventRecorder is a handler of events that records them for a test.
type eventRecorder struct {
	Config string `json:"config"` // names the config in what is recorded
	ctx    caddy.Context
}

// recorded has the events of the running test.
var recorded struct {
	mu     sync.Mutex
	events []recordedEvent
	hold   func() // called for each event, if not nil
}

type recordedEvent struct {
	name, config, origin string
	cancelled            bool // the config had ended
	data                 map[string]any
}

func (*eventRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_recorder", New: func() caddy.Module { return new(eventRecorder) }}
}

func (r *eventRecorder) Provision(ctx caddy.Context) error {
	r.ctx = ctx
	return nil
}

func (r *eventRecorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.Args(&r.Config)
	return nil
}

func (r *eventRecorder) Handle(_ context.Context, e caddy.Event) error {
	recorded.mu.Lock()
	hold := recorded.hold
	recorded.mu.Unlock()
	if hold != nil {
		hold()
	}
	one := recordedEvent{name: e.Name(), config: r.Config, cancelled: r.ctx.Err() != nil, data: e.Data}
	if e.Origin() != nil {
		one.origin = string(e.Origin().CaddyModule().ID)
	}
	recorded.mu.Lock()
	recorded.events = append(recorded.events, one)
	recorded.mu.Unlock()
	return nil
}

var (
	_ caddyevents.Handler   = (*eventRecorder)(nil)
	_ caddyfile.Unmarshaler = (*eventRecorder)(nil)
)

// recordEvents forgets what was recorded, and calls hold for each event from now on.
func recordEvents(t *testing.T, hold func()) {
	t.Helper()
	set := func(hold func()) {
		recorded.mu.Lock()
		defer recorded.mu.Unlock()
		recorded.events, recorded.hold = nil, hold
	}
	set(hold)
	t.Cleanup(func() { set(nil) })
}

func eventsNamed(name string) []recordedEvent {
	recorded.mu.Lock()
	defer recorded.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(recorded.events), func(e recordedEvent) bool { return e.name != "intercom_webhook."+name })
}

// wantEvent waits for an event, and asserts its data. A value of nil stands for any.
func wantEvent(t *testing.T, name, config, origin string, data map[string]any) {
	t.Helper()
	within(t, longPatience, "event "+name, func() bool { return len(eventsNamed(name)) > 0 })
	got := eventsNamed(name)[0]
	if got.config != config || got.origin != origin || got.cancelled {
		t.Errorf("%s: config %s (ended: %t), origin %s; want %s, %s", name, got.config, got.cancelled, got.origin, config, origin)
	}
	for key, want := range data {
		value, there := got.data[key]
		if !there || want != nil && value != want {
			t.Errorf("%s: %s is %v (there: %t), want %v", name, key, value, there, want)
		}
	}
	if len(got.data) != len(data) {
		t.Errorf("%s: data %v, want %d fields", name, got.data, len(data))
	}
}

func onEvents(config string) string {
	return "events {\non * test_recorder " + config + "\n}"
}

func TestEventsOfTheQueue(t *testing.T) {
	recordEvents(t, nil)
	var back atomic.Bool
	backend := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		if !back.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	s := setup{
		options: onEvents("first"),
		webhook: "route * as talk to " + backend.address + "\nqueue {\npath " + filepath.Join(t.TempDir(), "queue.db") + "\nmax_attempts 3\n}",
	}
	g := start(t, s)
	const origin = "http.intercom_webhook.queues.sqlite"
	within(t, longPatience, "the lane is down", func() bool { // which takes ten seconds of failures
		time.Sleep(200 * time.Millisecond)
		g.expect(200, signed(notification(topic, newID())))
		return len(eventsNamed("lane_down")) > 0
	})
	wantEvent(t, "dead_letter", "first", origin, map[string]any{
		"id": nil, "topic": topic, "app_id": "tulip4", "lane": "talk", "kind": "route", "delivery": nil, "attempt": 3,
		"upstream": backend.address, "status": 500, "reason": "attempts", "error": "backend answered 500",
	})
	wantEvent(t, "lane_down", "first", origin, map[string]any{"lane": "talk", "kind": "route", "failed_attempts": nil, "after": nil, "error": "backend answered 500"})

	s.options = onEvents("second")
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	back.Store(true)
	g.expect(200, signed(notification(topic, newID())))
	wantEvent(t, "lane_up", "second", origin, map[string]any{"lane": "talk", "kind": "route", "failed_attempts": nil, "after": nil})
}

func TestSlowHandlersOfEventsHoldUpNothing(t *testing.T) {
	held, release := make(chan struct{}, 1000), make(chan struct{})
	recordEvents(t, func() {
		held <- struct{}{}
		<-release
	})
	t.Cleanup(sync.OnceFunc(func() { close(release) }))
	taking := newTally(t, 0)
	g := start(t, setup{
		options: "events {\non intercom_webhook.dead_letter test_recorder slow\non intercom_webhook.lane_down test_recorder slow\n}",
		webhook: "route ticket.* as bad { respond 500 }\nroute * as good to " + taking.address + "\nqueue {\npath " + filepath.Join(t.TempDir(), "queue.db") + "\nmax_attempts 1\n}",
	})
	g.expect(200, signed(notification("ticket.created", newID())))
	<-held
	var all []string
	for range 20 {
		g.expect(200, signed(notification("ticket.created", newID())))
		all = append(all, newID())
		g.expect(200, signed(notification(topic, all[len(all)-1])))
	}
	wantAll(t, all, taking)
	within(t, longPatience, "all others are dead letters", func() bool {
		return g.scrape()[`queue_deliveries{lane="bad",state="dead"}`] == 21
	})
	if got := len(eventsNamed("dead_letter")); got != 0 {
		t.Errorf("%d events were handled while a handler was slow", got)
	}
}

func TestEventsOfErrorsAndAddresses(t *testing.T) {
	recordEvents(t, nil)
	publisher := newPublisher(t, publishedAddress)
	g := start(t, setup{
		options: onEvents("first"),
		allow:   "static 127.0.0.1\nallow " + publisher.source("us", "refresh 50ms"),
		webhook: "route ticket.* { respond 500 }\nroute * { respond 200 }",
	})
	g.expect(200, good)
	failing := signed(notification("ticket.created", "notif_1"))
	for range 500 {
		g.send(failing)
	}
	wantEvent(t, "error_budget", "first", module, map[string]any{"consecutive_errors": int64(500), "last_status": 502})
	within(t, longPatience, "the first list", func() bool { return len(eventsNamed("ip_ranges_changed")) > 0 })
	recordEvents(t, nil)
	publisher.publish(publishedAddress, anotherAddress)
	wantEvent(t, "ip_ranges_changed", "first", "http.ip_sources.intercom", map[string]any{"region": "us", "added": nil, "removed": nil, "ranges": nil})
	if data := eventsNamed("ip_ranges_changed")[0].data; !slices.Equal(data["added"].([]string), []string{anotherAddress + "/32"}) {
		t.Errorf("added %v", data["added"])
	}
	for _, e := range g.log() {
		if strings.Contains(e.text("msg"), "context canceled; event") {
			t.Errorf("an event was emitted into a config that had ended: %v", e)
		}
	}
}
