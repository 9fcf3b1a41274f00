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

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// fakeTarget is a handler whose backends answer as they are told, and else take all.
type fakeTarget struct {
	lanes  []string
	topics map[string][]string // by lane
	answer func(attempt int) intercomwebhook.Delivery

	mu  sync.Mutex
	got []string // bodies
}

func (f *fakeTarget) Lanes() []string { return f.lanes }

func (f *fakeTarget) Topics(lane string) []string { return f.topics[lane] }

func (*fakeTarget) ConfigHash() [sha256.Size]byte { return [sha256.Size]byte{} }

func (f *fakeTarget) Route(_ *http.Request, body []byte, attempt int, _ string) (lane string, deliver func() intercomwebhook.Delivery) {
	return f.lanes[0], func() intercomwebhook.Delivery {
		f.mu.Lock()
		f.got = append(f.got, string(body))
		f.mu.Unlock()
		if f.answer == nil {
			return intercomwebhook.Delivery{}
		}
		return f.answer(attempt)
	}
}

func (f *fakeTarget) bodies() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(slices.Values(f.got))
}

// testQueue is a queue in a file, without a Caddy around it.
type testQueue struct {
	*testing.T
	queueBase
}

func openTestQueue(t *testing.T, path string, options Options, target intercomwebhook.Endpoint) *testQueue {
	t.Helper()
	d, err := newDispatcher(location{name: path, open: func(ctx context.Context) (jobdb.DB, error) {
		return jobdb.OpenSQLite(ctx, path, zap.NewNop())
	}})
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	q := &testQueue{T: t}
	q.attachment = newTestAttachment(d, options, target)
	d.attach(attachments{q.attachment.options.Name: q.attachment})
	return q
}

func newTestAttachment(d *dispatcher, options Options, target intercomwebhook.Endpoint) *attachment {
	options.setDefaults()
	a := &attachment{options: &options, target: target, logger: zap.NewNop(), acquired: make(chan struct{}), dispatcher: d}
	close(a.acquired)
	return a
}

func (q *testQueue) dispatcher() *dispatcher { return q.attachment.dispatcher }

func (q *testQueue) close() {
	q.Helper()
	if err := q.dispatcher().Destruct(); err != nil {
		q.Errorf("closing: %v", err)
	}
}

// put stores a notification whose body is its id.
func (q *testQueue) put(lane, id string) (duplicate bool) {
	q.Helper()
	r := httptest.NewRequest(http.MethodPost, "/intercom", nil)
	duplicate, err := q.Store(r, intercomwebhook.Notification{Topic: "a.b", Kind: "other", AppID: "tulip4", ID: id, Lane: lane, Body: []byte(id)})
	if err != nil {
		q.Fatalf("storing %s: %v", id, err)
	}
	return duplicate
}

// states counts what is stored, as in "support completed".
func (q *testQueue) states() map[string]int64 {
	q.Helper()
	states := make(map[string]int64)
	for _, state := range countedStates {
		counts, err := q.dispatcher().db.Count(q.Context(), state)
		if err != nil {
			q.Fatal(err)
		}
		for queue, n := range counts {
			states[queue+" "+string(state)] = n
		}
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
		time.Sleep(2 * time.Millisecond) // longer than the shortest max_age
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
			before := testutil.ToFloat64(deadLettersTotal.WithLabelValues("support", "other"))
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
			if n := testutil.ToFloat64(deadLettersTotal.WithLabelValues("support", "other")) - before; n != 1 {
				t.Errorf("counted %v dead letters, want 1", n)
			}
		})
	}
}

func TestInterruptedDeliveriesAreNoAttempts(t *testing.T) {
	path := newPath(t)
	db, err := jobdb.OpenSQLite(t.Context(), path, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	options := &Options{Name: "intercom", MaxAttempts: 1}
	note := newNotification(httptest.NewRequest(http.MethodPost, "/", nil), "intercom", intercomwebhook.Notification{Kind: "other", ID: "a", Body: []byte("a")})
	interrupted := note.job("support", options)
	interrupted.Token = 1
	if _, err := db.Store(t.Context(), func() []*jobdb.NewJob { return []*jobdb.NewJob{interrupted} }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil { // with the job running, as after a kill
		t.Fatal(err)
	}
	attempts := make(chan int, 1)
	q := openTestQueue(t, path, *options, &fakeTarget{lanes: []string{"support"}, answer: func(attempt int) intercomwebhook.Delivery {
		attempts <- attempt
		return intercomwebhook.Delivery{}
	}})
	defer q.close()
	q.eventually("support completed", 1)
	if attempt := <-attempts; attempt != 1 {
		t.Errorf("the backend was told of attempt %d, want 1", attempt)
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
	q.dispatcher().attach(attachments{"intercom": newTestAttachment(q.dispatcher(),
		Options{Name: "intercom", Workers: 3, Lanes: map[string]Lane{"support": {Workers: 2}}}, current)})
	q.dispatcher().detach(t.Context(), attachments{"intercom": q.attachment})
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

	first := q.attachment
	q.attachment = newTestAttachment(q.dispatcher(), Options{Name: "intercom"}, intercom)
	q.dispatcher().attach(attachments{"crm": first, "intercom": q.attachment})
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
	for i := range expiryMaxRows + 5 {
		q.put("support", fmt.Sprint("a", i))
	}
	q.eventually("support completed", expiryMaxRows+5)
	time.Sleep(10 * time.Millisecond)
	if err := q.dispatcher().expire(t.Context()); err != nil {
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
	if err := q.dispatcher().expire(t.Context()); err != nil || q.states()["support discarded"] != 1 {
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
	q.dispatcher().detach(ctx, attachments{"intercom": q.attachment})
	q.eventually("support available", 1)
	q.close()
}

// deliverFunc delivers in its own way.
type deliverFunc struct {
	*fakeTarget
	deliver func(*http.Request) intercomwebhook.Delivery
}

func (d deliverFunc) Route(r *http.Request, _ []byte, _ int, _ string) (lane string, deliver func() intercomwebhook.Delivery) {
	return d.lanes[0], func() intercomwebhook.Delivery { return d.deliver(r) }
}

func TestWhatIsNoLongerKeptOfAnAdoptedEndpointIsErased(t *testing.T) {
	target := &fakeTarget{lanes: []string{"support"}}
	q := openTestQueue(t, newPath(t), Options{Name: "old", KeepDelivered: caddy.Duration(time.Millisecond)}, target)
	defer q.close()
	q.put("support", "a")
	q.eventually("old|support completed", 1)
	q.dispatcher().attach(attachments{"new": newTestAttachment(q.dispatcher(),
		Options{Name: "new", Adopt: []string{"old"}, KeepDelivered: caddy.Duration(time.Millisecond)}, target)})
	time.Sleep(10 * time.Millisecond)
	if err := q.dispatcher().expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if states := q.states(); len(states) != 0 {
		t.Errorf("left: %v", states)
	}
}
