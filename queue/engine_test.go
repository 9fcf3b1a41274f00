package queue

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

// fakeTarget is a handler whose backends answer as they are told, and else take all.
type fakeTarget struct {
	lanes  []string
	answer func(attempt int) intercomwebhook.Delivery

	mu  sync.Mutex
	got []string // bodies
}

func (f *fakeTarget) Lanes() []string { return f.lanes }

func (*fakeTarget) ConfigHash() [sha256.Size]byte { return [sha256.Size]byte{} }

func (f *fakeTarget) Route(_ *http.Request, body []byte, attempt int) (string, func() intercomwebhook.Delivery) {
	return "", func() intercomwebhook.Delivery { return f.deliver(body, attempt) }
}

func (f *fakeTarget) deliver(body []byte, attempt int) intercomwebhook.Delivery {
	f.mu.Lock()
	f.got = append(f.got, string(body))
	f.mu.Unlock()
	if f.answer == nil {
		return intercomwebhook.Delivery{}
	}
	return f.answer(attempt)
}

func (f *fakeTarget) bodies() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(slices.Values(f.got))
}

// testQueue is a queue in a file, without a Caddy around it.
type testQueue struct {
	*testing.T
	user
	engine *engine
}

func openTestQueue(t *testing.T, path string, options Options, target intercomwebhook.Endpoint) *testQueue {
	t.Helper()
	db, err := openSQLite(t.Context(), path)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	q := &testQueue{T: t, engine: newEngine(path, db, 2)}
	q.endpoint = q.config(options, target)
	if err := q.engine.use(endpoints{options.Name: q.endpoint}); err != nil {
		t.Fatalf("starting: %v", err)
	}
	return q
}

func (q *testQueue) config(options Options, target intercomwebhook.Endpoint) *endpoint {
	options.setDefaults()
	e := &endpoint{options: &options, target: target, logger: zap.NewNop(), floodLogger: zap.NewNop(), opened: make(chan struct{}), engine: q.engine}
	close(e.opened)
	return e
}

func (q *testQueue) close() {
	q.Helper()
	if err := q.engine.Destruct(); err != nil {
		q.Errorf("closing: %v", err)
	}
}

// put stores a notification whose body is its id.
func (q *testQueue) put(lane, id string) (duplicate bool) {
	q.Helper()
	r := httptest.NewRequest(http.MethodPost, "/intercom", nil)
	duplicate, err := q.Store(r, intercomwebhook.Notification{Topic: "a.b", AppID: "tulip4", ID: id, Lane: lane, Body: []byte(id)})
	if err != nil {
		q.Fatalf("storing %s: %v", id, err)
	}
	return duplicate
}

// states counts what is stored, as in "support completed".
func (q *testQueue) states() map[string]int64 {
	q.Helper()
	counts, err := q.engine.db.count(q.Context())
	if err != nil {
		q.Fatal(err)
	}
	states := make(map[string]int64)
	for _, c := range counts {
		states[c.queue+" "+string(c.state)] = c.n
	}
	return states
}

func (q *testQueue) eventually(state string, n int64) {
	q.Helper()
	for end := time.Now().Add(20 * time.Second); q.states()[state] != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			q.Fatalf("states %v, want %d %s", q.states(), n, state)
		}
	}
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "queue.db") }

func TestWhatIsStoredIsDeliveredOnce(t *testing.T) {
	target := &fakeTarget{lanes: []string{"support"}}
	path := newPath(t)
	q := openTestQueue(t, path, Options{Name: "intercom"}, target)
	if q.put("support", "a") || q.put("support", "b") {
		t.Error("a new one was taken for a duplicate")
	}
	if !q.put("support", "a") {
		t.Error("a duplicate was taken for a new one")
	}
	q.eventually("support completed", 2)
	if !q.put("support", "b") {
		t.Error("a duplicate of a delivered one was taken for a new one")
	}
	q.close()

	q = openTestQueue(t, path, Options{Name: "intercom"}, target)
	defer q.close()
	if !q.put("support", "a") {
		t.Error("a duplicate was taken for a new one after a restart")
	}
	for range 2 {
		if q.put("support", "") {
			t.Error("one without an id was taken for a duplicate")
		}
	}
	q.eventually("support completed", 4)
	if got := target.bodies(); !slices.Equal(got, []string{"", "", "a", "b"}) {
		t.Errorf("delivered %q", got)
	}
}

func TestFailedDeliveriesAreTriedAgain(t *testing.T) {
	target := &fakeTarget{lanes: []string{"support"}, answer: func(attempt int) intercomwebhook.Delivery {
		if attempt < 2 {
			return intercomwebhook.Delivery{Err: errors.New("backend answered 500")}
		}
		return intercomwebhook.Delivery{}
	}}
	q := openTestQueue(t, newPath(t), Options{Name: "intercom"}, target)
	defer q.close()
	q.put("support", "a")
	q.eventually("support completed", 1)
	if got := target.bodies(); len(got) != 2 {
		t.Errorf("%d attempts, want 2", len(got))
	}
}

func TestDeadLetters(t *testing.T) {
	failing := func(int) intercomwebhook.Delivery {
		return intercomwebhook.Delivery{Err: errors.New("backend answered 500")}
	}
	unrouted := func(int) intercomwebhook.Delivery {
		return intercomwebhook.Delivery{Err: fmt.Errorf("%w: no route", intercomwebhook.ErrUnrouted)}
	}
	for _, c := range []struct {
		name    string
		options Options
		answer  func(int) intercomwebhook.Delivery
		state   string
	}{
		{"after the last attempt", Options{MaxAttempts: 1}, failing, "support discarded"},
		{"after the longest time", Options{MaxAge: caddy.Duration(time.Millisecond)}, failing, "support discarded"},
		{"where no route fits", Options{}, unrouted, "support cancelled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.options.Name = "intercom"
			target := &fakeTarget{lanes: []string{"support"}, answer: c.answer}
			q := openTestQueue(t, newPath(t), c.options, target)
			defer q.close()
			q.put("support", "a")
			q.eventually(c.state, 1)
			if got := target.bodies(); len(got) != 1 {
				t.Errorf("%d attempts, want 1", len(got))
			}
			if !q.put("support", "a") {
				t.Error("a duplicate of a dead letter was taken for a new one")
			}
		})
	}
}

func TestInterruptedDeliveriesAreTakenUpAtTheStart(t *testing.T) {
	path := newPath(t)
	db, err := openSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"runs", "ran its last attempt"} {
		interrupted, err := job(httptest.NewRequest(http.MethodPost, "/", nil), &Options{Name: "intercom", MaxAttempts: 5},
			intercomwebhook.Notification{ID: id, Lane: "support", Body: []byte(id)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.insert(t.Context(), func() []*riverdriver.JobInsertFastParams {
			return []*riverdriver.JobInsertFastParams{interrupted}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.working.ExecContext(t.Context(), "UPDATE river_job SET state = 'running', attempt = CASE id WHEN 1 THEN 1 ELSE 5 END"); err != nil {
		t.Fatal(err)
	}
	if err := db.close(); err != nil {
		t.Fatal(err)
	}
	target := &fakeTarget{lanes: []string{"support"}}
	q := openTestQueue(t, path, Options{Name: "intercom"}, target)
	defer q.close()
	q.eventually("support completed", 1)
	q.eventually("support discarded", 1)
	if got := target.bodies(); !slices.Equal(got, []string{"runs"}) {
		t.Errorf("delivered %q", got)
	}
}

func TestLanesFollowTheConfig(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	old := &fakeTarget{lanes: []string{"support", "sales"}, answer: func(int) intercomwebhook.Delivery {
		close(began)
		<-release
		return intercomwebhook.Delivery{}
	}}
	q := openTestQueue(t, newPath(t), Options{Name: "intercom", Workers: 1}, old)
	defer q.close()
	q.put("sales", "a")
	q.put("sales", "b") // waits behind a
	<-began

	current := &fakeTarget{lanes: []string{"support"}}
	next := endpoints{"intercom": q.config(Options{Name: "intercom", Workers: 3, Lanes: map[string]Lane{"support": {Workers: 2}}}, current)}
	if err := q.engine.use(next); err != nil {
		t.Fatal(err)
	}
	q.engine.leave(t.Context(), endpoints{"intercom": q.endpoint})
	close(release)
	q.eventually("sales completed", 2)
	if got := old.bodies(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("the old config delivered %q, want what it had begun", got)
	}
	if got := current.bodies(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("the new config delivered %q, want what was left of the lane that it does not have", got)
	}
	q.put("support", "c")
	q.eventually("support completed", 1)
}

func TestEndpointsThatShareADatabaseAreKeptApart(t *testing.T) {
	crm, intercom := &fakeTarget{lanes: []string{"support"}}, &fakeTarget{lanes: []string{"support"}}
	q := openTestQueue(t, newPath(t), Options{Name: "crm"}, crm)
	defer q.close()
	q.put("support", "a")
	q.eventually("crm|support completed", 1)

	first := q.endpoint
	q.endpoint = q.config(Options{Name: "intercom"}, intercom)
	if err := q.engine.use(endpoints{"crm": first, "intercom": q.endpoint}); err != nil {
		t.Fatal(err)
	}
	if q.put("support", "a") {
		t.Error("another endpoint's notification was taken for a duplicate")
	}
	q.eventually("support completed", 1)
	if len(crm.bodies()) != 1 || len(intercom.bodies()) != 1 {
		t.Errorf("crm got %q, intercom %q, want one each", crm.bodies(), intercom.bodies())
	}
}

func TestWhatIsNoLongerKeptIsErased(t *testing.T) {
	target := &fakeTarget{lanes: []string{"support"}, answer: func(int) intercomwebhook.Delivery {
		return intercomwebhook.Delivery{}
	}}
	q := openTestQueue(t, newPath(t), Options{Name: "intercom", KeepDelivered: caddy.Duration(time.Millisecond)}, target)
	defer q.close()
	for i := range portion + 5 {
		q.put("support", fmt.Sprint("a", i))
	}
	q.eventually("support completed", portion+5)
	time.Sleep(10 * time.Millisecond)
	if err := q.engine.erase(t.Context()); err != nil {
		t.Fatal(err)
	}
	if states := q.states(); len(states) != 0 {
		t.Errorf("left: %v", states)
	}
	if q.put("support", "a1") {
		t.Error("a duplicate of one that was erased was not taken for a new one")
	}
}

func TestDeadLettersAreKeptForTheirOwnTime(t *testing.T) {
	target := &fakeTarget{lanes: []string{"support"}, answer: func(int) intercomwebhook.Delivery {
		return intercomwebhook.Delivery{Err: errors.New("backend answered 500")}
	}}
	q := openTestQueue(t, newPath(t), Options{Name: "intercom", MaxAttempts: 1, KeepDelivered: caddy.Duration(time.Millisecond)}, target)
	defer q.close()
	q.put("support", "a")
	q.eventually("support discarded", 1)
	time.Sleep(10 * time.Millisecond)
	if err := q.engine.erase(t.Context()); err != nil || q.states()["support discarded"] != 1 {
		t.Errorf("left: %v (%v), want the dead letter", q.states(), err)
	}
}

func TestStopEndsWhatTakesTooLong(t *testing.T) {
	started := make(chan struct{})
	q := openTestQueue(t, newPath(t), Options{Name: "intercom"}, deliverFunc{&fakeTarget{lanes: []string{"support"}}, func(r *http.Request) intercomwebhook.Delivery {
		close(started)
		<-r.Context().Done()
		return intercomwebhook.Delivery{Err: r.Context().Err()}
	}})
	q.put("support", "a")
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	q.engine.leave(ctx, endpoints{"intercom": q.endpoint})
	if states := q.states(); states["support available"] != 1 {
		t.Errorf("states %v, want it ready for the next process", states)
	}
	q.close()
}

// deliverFunc delivers in its own way.
type deliverFunc struct {
	*fakeTarget
	deliver func(*http.Request) intercomwebhook.Delivery
}

func (d deliverFunc) Route(r *http.Request, _ []byte, _ int) (string, func() intercomwebhook.Delivery) {
	return "", func() intercomwebhook.Delivery { return d.deliver(r) }
}

func TestUnfinishedStatesAreThoseThatAreYetToBeDelivered(t *testing.T) {
	var finished []rivertype.JobState
	for _, state := range rivertype.JobStates() {
		if !unfinished(state) {
			finished = append(finished, state)
		}
	}
	want := []rivertype.JobState{rivertype.JobStateCancelled, rivertype.JobStateCompleted, rivertype.JobStateDiscarded}
	slices.Sort(finished)
	if !slices.Equal(finished, want) {
		t.Errorf("finished: %q, want %q", finished, want)
	}
}
