package worker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// fakeHandler is a handler whose backends answer as they are told, and else take all.
type fakeHandler struct {
	lane   string // that all notifications are routed to
	answer func(r *http.Request, attempt int) intercomwebhook.Delivery

	mu  sync.Mutex
	got []string // bodies
}

func (f *fakeHandler) route(r *http.Request, body []byte, attempt intercomwebhook.Attempt, to string) (lane string, deliver func() intercomwebhook.Delivery) {
	lane = f.lane
	if to != "" {
		lane = to
	}
	return lane, func() intercomwebhook.Delivery {
		f.mu.Lock()
		f.got = append(f.got, string(body))
		f.mu.Unlock()
		if f.answer == nil {
			return intercomwebhook.Delivery{Status: 200}
		}
		return f.answer(r, attempt.Number)
	}
}

func (f *fakeHandler) bodies() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(slices.Values(f.got))
}

func (f *fakeHandler) endpoint(name string, options Options, lanes ...string) *Endpoint {
	e := &Endpoint{Name: name, Options: options, Logger: zap.NewNop()}
	e.Handler = intercomwebhook.Endpoint{ConfigHash: "hash", Route: f.route}
	for _, lane := range lanes {
		e.Handler.Lanes = append(e.Handler.Lanes, intercomwebhook.Lane{Name: lane})
	}
	return e
}

var testOptions = Options{
	LaneOptions:   LaneOptions{Workers: 16, DeliveryTimeout: 30 * time.Second, MaxAge: 72 * time.Hour},
	KeepDelivered: 24 * time.Hour, KeepDead: 720 * time.Hour,
}

// testWorker is a worker on a fake database.
type testWorker struct {
	*testing.T
	*Worker
	db       *fakeDB
	endpoint *Endpoint
}

func openWorker(t *testing.T, database *fakeDB, e *Endpoint) *testWorker {
	t.Helper()
	w, err := New(Database{Name: "test", Open: func(context.Context, *zap.Logger) (db.DB, error) { return database, nil }})
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	w.Attach(Config{e.Name: e})
	return &testWorker{t, w, database, e}
}

func (w *testWorker) close() {
	w.Helper()
	if err := w.Destruct(); err != nil {
		w.Errorf("closing: %v", err)
	}
}

// put stores a notification whose body is its id.
func (w *testWorker) put(lane, id string, copies ...string) (duplicate bool) {
	w.Helper()
	r := httptest.NewRequest(http.MethodPost, "/intercom", nil)
	stored, err := w.Store(r, w.endpoint, intercomwebhook.Notification{Topic: "a.b", Workspace: "tulip4", ID: id, Lane: lane, Copies: copies, Body: []byte(id)})
	if err != nil {
		w.Fatalf("storing %s: %v", id, err)
	}
	return stored == intercomwebhook.StoredDuplicate
}

func (w *testWorker) eventually(state string, n int) {
	w.Helper()
	for range 100_000 {
		if w.db.states()[state] == n {
			return
		}
		time.Sleep(5 * time.Millisecond) // of a clock that jumps when all wait
	}
	w.Fatalf("states %v, want %d %s", w.db.states(), n, state)
}

// inBubble runs a test with a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T)) { synctest.Test(t, test) }

var errBackend = errors.New("backend answered 500")

func TestWhatIsStoredIsDeliveredOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		handler, database := &fakeHandler{lane: "support"}, newFakeDB()
		w := openWorker(t, database, handler.endpoint("intercom", testOptions, "support"))
		if w.put("support", "a") || w.put("support", "b") {
			t.Error("a new one was taken for a duplicate")
		}
		if !w.put("support", "a") {
			t.Error("a duplicate was taken for a new one")
		}
		w.eventually("support delivered", 2)
		w.close()

		w = openWorker(t, database.open("host-2"), handler.endpoint("intercom", testOptions, "support"))
		defer w.close()
		if !w.put("support", "a") {
			t.Error("a duplicate was taken for a new one after a restart")
		}
		for range 2 {
			if w.put("support", "") {
				t.Error("one without an id was taken for a duplicate")
			}
		}
		w.eventually("support delivered", 4)
		if got := handler.bodies(); !slices.Equal(got, []string{"", "", "a", "b"}) {
			t.Errorf("delivered %q", got)
		}
	})
}

func TestCopiesAreDeliveriesOfTheirOwn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		handler := &fakeHandler{lane: "support"}
		w := openWorker(t, newFakeDB(), handler.endpoint("intercom", testOptions, "support", "copy-a"))
		defer w.close()
		w.put("support", "a", "copy-a")
		w.eventually("support delivered", 1)
		w.eventually("copy-a delivered", 1)
		if !w.put("support", "a", "copy-a") {
			t.Error("a duplicate was taken for a new one")
		}
		if got := w.db.states(); len(got) != 2 {
			t.Errorf("states %v, want one delivery of each", got)
		}
	})
}

func TestWhereANotificationThatFitsNoRouteGoes(t *testing.T) {
	for _, c := range []struct {
		name string
		n    intercomwebhook.Notification
		want string
	}{
		{"a notification is kept", intercomwebhook.Notification{Topic: "a.b"}, "unrouted"},
		{"one for no copies is not", intercomwebhook.Notification{Topic: "ping", CopiesOnly: true}, ""},
		{"one for copies only goes to them", intercomwebhook.Notification{Topic: "ping", CopiesOnly: true, Copies: []string{"one", "two"}}, "one two"},
		{"a ping with a route goes there", intercomwebhook.Notification{Topic: "ping", Lane: "pings"}, "pings"},
	} {
		var lanes []string
		for _, d := range newDeliveries(c.n) {
			lanes = append(lanes, d.Lane)
		}
		if got := strings.Join(lanes, " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTwinsAreDeliveredOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		handler := &fakeHandler{lane: "support"}
		w := openWorker(t, newFakeDB(), handler.endpoint("intercom", testOptions, "support", "sales", "copy-a"))
		defer w.close()
		put := func(id, lane, workspace, once string, copies ...string) intercomwebhook.Stored {
			t.Helper()
			n := intercomwebhook.Notification{
				Topic: "a.b", Workspace: workspace, ID: id, Lane: lane, Copies: copies, Body: []byte(id), Once: once, OnceWithin: time.Hour,
			}
			stored, err := w.Store(httptest.NewRequest(http.MethodPost, "/", nil), w.endpoint, n)
			if err != nil {
				t.Fatal(err)
			}
			return stored
		}
		for _, c := range []struct {
			id, lane, workspace, once string
			copies                    []string
			want                      intercomwebhook.Stored
		}{
			{"first", "support", "tulip4", "part-1", nil, intercomwebhook.StoredNew},
			{"second", "support", "tulip4", "part-1", nil, intercomwebhook.StoredTwin},
			{"with a copy", "support", "tulip4", "part-1", []string{"copy-a"}, intercomwebhook.StoredTwin},
			{"first", "support", "tulip4", "part-1", nil, intercomwebhook.StoredDuplicate},
			{"of another lane", "sales", "tulip4", "part-1", nil, intercomwebhook.StoredNew},
			{"of another workspace", "support", "rose5", "part-1", nil, intercomwebhook.StoredNew},
			{"another", "support", "tulip4", "part-2", nil, intercomwebhook.StoredNew},
			{"without the field", "support", "tulip4", "", nil, intercomwebhook.StoredNew},
			{"also without", "support", "tulip4", "", nil, intercomwebhook.StoredNew},
			{"names that run together", "support", "tulip4 part", "1", nil, intercomwebhook.StoredNew},
		} {
			if got := put(c.id, c.lane, c.workspace, c.once, c.copies...); got != c.want {
				t.Errorf("%s: %v, want %v", c.id, got, c.want)
			}
		}
		w.eventually("copy-a delivered", 1)
		w.eventually("support delivered", 6)
		time.Sleep(time.Hour)
		if got := put("an hour later", "support", "tulip4", "part-1"); got != intercomwebhook.StoredNew {
			t.Errorf("after the time: %v", got)
		}
		w.eventually("support delivered", 7)
		if got := handler.bodies(); slices.Contains(got, "second") || len(got) != 9 {
			t.Errorf("delivered %q", got)
		}
		a, _ := w.opened()
		synctest.Wait()
		a.book.mu.Lock()
		defer a.book.mu.Unlock()
		if len(a.book.deliveries) != 0 || a.book.bytes != 0 {
			t.Errorf("the book still has %d deliveries, and %d bytes", len(a.book.deliveries), a.book.bytes)
		}
	})
}

func TestFailedDeliveriesAreTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		handler := &fakeHandler{lane: "support", answer: func(_ *http.Request, attempt int) intercomwebhook.Delivery {
			if attempt < 3 {
				return intercomwebhook.Delivery{Err: errBackend, Status: 500, Upstream: "10.0.0.1:80"}
			}
			return intercomwebhook.Delivery{}
		}}
		w := openWorker(t, newFakeDB(), handler.endpoint("intercom", testOptions, "support"))
		defer w.close()
		w.put("support", "a")
		w.eventually("support delivered", 1)
		if got := handler.bodies(); len(got) != 3 {
			t.Errorf("%d attempts, want 3", len(got))
		}
		row := w.db.deliveries[db.DeliveryID(1, 0)]
		if h := row.history; len(h) != 2 || h[0].Status != 500 || h[0].Upstream != "10.0.0.1:80" || h[0].Error != errBackend.Error() || h[0].Instance != "host-1" {
			t.Errorf("history %+v", h)
		}
	})
}

func TestDeadLetters(t *testing.T) {
	failing := func(*http.Request, int) intercomwebhook.Delivery {
		time.Sleep(2 * time.Millisecond) // longer than the shortest max_age
		return intercomwebhook.Delivery{Err: errBackend, Status: http.StatusNotFound}
	}
	unrouted := func(*http.Request, int) intercomwebhook.Delivery {
		return intercomwebhook.Delivery{Err: fmt.Errorf("%w: no route", intercomwebhook.ErrUnrouted)}
	}
	for _, c := range []struct {
		name   string
		change func(*Options)
		answer func(*http.Request, int) intercomwebhook.Delivery
		reason db.Reason
	}{
		{"after the last attempt", func(o *Options) { o.MaxAttempts = 1 }, failing, db.Attempts},
		{"after the longest time", func(o *Options) { o.MaxAge = time.Millisecond }, failing, db.Age},
		{"with a status that is refused", func(o *Options) { o.DeadOn = []int{4} }, failing, db.Refused},
		{"where no route fits", func(*Options) {}, unrouted, db.Unrouted},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				options := testOptions
				c.change(&options)
				handler := &fakeHandler{lane: "support", answer: c.answer}
				letters, attempts := deadLettersTotal.WithLabelValues("support", "other"), attemptsTotal.WithLabelValues("support", string(c.reason))
				before := testutil.ToFloat64(letters) + testutil.ToFloat64(attempts)
				w := openWorker(t, newFakeDB(), handler.endpoint("intercom", options, "support"))
				defer w.close()
				w.put("support", "a")
				w.eventually("support dead "+string(c.reason), 1)
				if got := handler.bodies(); len(got) != 1 {
					t.Errorf("%d attempts, want 1", len(got))
				}
				if !w.put("support", "a") {
					t.Error("a duplicate of a dead letter was taken for a new one")
				}
				if n := testutil.ToFloat64(letters) + testutil.ToFloat64(attempts) - before; n != 2 {
					t.Errorf("counted %v, want one dead letter and one attempt", n)
				}
			})
		})
	}
}

func TestLanesFollowTheConfig(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		began, release := make(chan struct{}), make(chan struct{})
		old := &fakeHandler{lane: "sales", answer: func(*http.Request, int) intercomwebhook.Delivery {
			close(began)
			<-release
			return intercomwebhook.Delivery{}
		}}
		options := testOptions
		options.Workers = 1
		w := openWorker(t, newFakeDB(), old.endpoint("intercom", options, "support", "sales"))
		defer w.close()
		w.put("sales", "a")
		w.put("sales", "b") // waits behind a
		<-began

		current := &fakeHandler{lane: "support"}
		options.Lanes = map[string]LaneOptions{"support": {Workers: 2, DeliveryTimeout: time.Minute, MaxAge: time.Hour}}
		first := Config{"intercom": w.endpoint}
		w.endpoint = current.endpoint("intercom", options, "support")
		w.Attach(Config{"intercom": w.endpoint})
		w.Detach(t.Context(), first)
		close(release)
		changed := time.Now()
		w.eventually("sales delivered", 2)
		if took := time.Since(changed); took > 10*time.Second {
			t.Errorf("the lane was taken over after %s, want at once, because nobody else can have the database", took)
		}
		if got := old.bodies(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("the old config delivered %q, want what it had begun", got)
		}
		if got := current.bodies(); !slices.Equal(got, []string{"b"}) {
			t.Errorf("the new config delivered %q, want what was left of the lane that it does not have", got)
		}
		w.put("support", "c")
		w.eventually("support delivered", 1)
		if lanes, err := w.Lanes(t.Context(), "intercom"); err != nil || len(lanes) < 2 || lanes[0].Workers != 2 || lanes[0].Kind != "route" || lanes[1].Lane.Name != UnroutedLane {
			t.Errorf("lanes %+v (%v), want support with 2 workers, and then unrouted", lanes, err)
		}
	})
}

func TestEndpointsThatShareADatabaseAreKeptApart(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		crm, intercom := &fakeHandler{lane: "support"}, &fakeHandler{lane: "support"}
		w := openWorker(t, newFakeDB(), crm.endpoint("crm", testOptions, "support"))
		defer w.close()
		w.put("support", "a")
		w.eventually("crm|support delivered", 1)
		first := w.endpoint
		w.endpoint = intercom.endpoint("intercom", testOptions, "support")
		w.Attach(Config{"crm": first, "intercom": w.endpoint})
		if w.put("support", "a") {
			t.Error("another endpoint's notification was taken for a duplicate")
		}
		w.eventually("support delivered", 1)
		if len(crm.bodies()) != 1 || len(intercom.bodies()) != 1 {
			t.Errorf("crm got %q, intercom %q, want one each", crm.bodies(), intercom.bodies())
		}
	})
}

func TestWhatIsNoLongerKeptIsDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		options := testOptions
		options.KeepDelivered, options.MaxAttempts = time.Hour, 1
		handler := &fakeHandler{lane: "support"}
		w := openWorker(t, newFakeDB(), handler.endpoint("intercom", options, "support"))
		defer w.close()
		for i := range expiryRows + 5 {
			w.put("support", fmt.Sprint("a", i))
		}
		w.eventually("support delivered", expiryRows+5)
		handler.answer = func(*http.Request, int) intercomwebhook.Delivery { return intercomwebhook.Delivery{Err: errBackend} }
		w.put("support", "dead")
		w.eventually("support dead attempts", 1)
		time.Sleep(time.Hour + 2*retentionInterval)
		if states := w.db.states(); len(states) != 1 || states["support dead attempts"] != 1 {
			t.Errorf("left: %v, want the dead letter, which is kept for its own time", states)
		}
		if w.put("support", "a1") {
			t.Error("one that is kept no longer makes duplicates")
		}
	})
}

func TestStopInterruptsWhatTakesTooLong(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		started := make(chan struct{})
		handler := &fakeHandler{lane: "support", answer: func(r *http.Request, _ int) intercomwebhook.Delivery {
			close(started)
			<-r.Context().Done()
			return intercomwebhook.Delivery{Err: r.Context().Err()}
		}}
		w := openWorker(t, newFakeDB(), handler.endpoint("intercom", testOptions, "support"))
		w.put("support", "a")
		<-started
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		w.Detach(ctx, Config{"intercom": w.endpoint})
		w.eventually("support waiting", 1)
		w.close()
		if row := w.db.deliveries[db.DeliveryID(1, 0)]; row.attempts != 0 {
			t.Errorf("%d attempts were counted, want none", row.attempts)
		}
	})
}

func TestPrefetchedDeliveriesAreReleasedWhenDeliveringStops(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		release := make(chan struct{})
		handler := &fakeHandler{lane: "support", answer: func(*http.Request, int) intercomwebhook.Delivery {
			<-release
			return intercomwebhook.Delivery{}
		}}
		options := testOptions
		options.Workers = 2
		w := openWorker(t, newFakeDB(), handler.endpoint("intercom", options, "support"))
		for i := range 10 {
			w.put("support", fmt.Sprint(i))
		}
		synctest.Wait()
		time.AfterFunc(time.Second, func() { close(release) })
		w.Detach(t.Context(), Config{"intercom": w.endpoint})
		w.close()
		if states := w.db.states(); states["support delivered"] != 2 || states["support waiting"] != 8 {
			t.Errorf("states %v, want 2 delivered and 8 waiting", states)
		}
	})
}

func TestALostReplyIsReleased(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		handler, database := &fakeHandler{lane: "support"}, newFakeDB()
		w := openWorker(t, database, handler.endpoint("intercom", testOptions, "support"))
		defer w.close()
		_, err := database.Store(t.Context(), func() []*db.NewNotification {
			return []*db.NewNotification{{
				Notification: &db.Notification{Endpoint: "intercom", NotificationID: "lost", Request: db.Request{URI: "/", Method: "POST"}},
				Deliveries:   []db.NewDelivery{{Lane: "support", Token: 1}},
			}}
		})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		w.eventually("support delivered", 1)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("it took %s, want 30 s at most", took)
		}
	})
}

func TestWhatIsErasedBeforeItsTurnIsNotDelivered(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		release := make(chan struct{})
		handler := &fakeHandler{lane: "support", answer: func(*http.Request, int) intercomwebhook.Delivery {
			<-release
			return intercomwebhook.Delivery{}
		}}
		options := testOptions
		options.Workers = 1
		w := openWorker(t, newFakeDB(), handler.endpoint("intercom", options, "support"))
		defer w.close()
		w.put("support", "a")
		w.put("support", "b")
		time.Sleep(time.Millisecond)
		w.db.mu.Lock()
		delete(w.db.deliveries, db.DeliveryID(2, 0))
		w.db.mu.Unlock()
		w.Changed()
		synctest.Wait()
		close(release)
		w.eventually("support delivered", 1)
		time.Sleep(10 * time.Second)
		if got := handler.bodies(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("delivered %q, want only a", got)
		}
	})
}

func TestAPausedLaneDeliversNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		handler, database := &fakeHandler{lane: "support"}, newFakeDB()
		support := db.Lane{Endpoint: "intercom", Name: "support"}
		database.paused[support] = true // before the start
		w := openWorker(t, database, handler.endpoint("intercom", testOptions, "support"))
		defer w.close()
		w.put("support", "a")
		time.Sleep(time.Minute)
		if got := handler.bodies(); len(got) != 0 {
			t.Errorf("delivered %q", got)
		}
		if lanes, err := w.Lanes(t.Context(), ""); err != nil || lanes[0].State != LanePaused || lanes[0].Counts[db.Waiting] != 1 || lanes[0].Oldest < time.Minute {
			t.Errorf("lanes %+v (%v)", lanes, err)
		}
		if err := w.SetPaused(t.Context(), []db.Lane{support}, false); err != nil {
			t.Fatal(err)
		}
		w.eventually("support delivered", 1)
	})
}

func TestADatabaseThatIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		database := newFakeDB()
		database.heartbeat = func() error {
			if away.Load() {
				return errors.New("connection refused")
			}
			return nil
		}
		database.store, database.finish = database.heartbeat, database.heartbeat
		worker, err := New(Database{Name: "test", Open: func(context.Context, *zap.Logger) (db.DB, error) {
			if away.Load() {
				return nil, errors.New("connection refused")
			}
			return database, nil
		}})
		if err != nil {
			t.Fatalf("a database that is away refuses the config: %v", err)
		}
		handler := &fakeHandler{lane: "support"}
		w := &testWorker{t, worker, database, handler.endpoint("intercom", testOptions, "support")}
		defer w.close()
		w.Attach(Config{"intercom": w.endpoint})
		store := func() error {
			_, err := w.Store(httptest.NewRequest(http.MethodPost, "/", nil), w.endpoint, intercomwebhook.Notification{Topic: "a.b", Lane: "support"})
			return err
		}
		if store() == nil || w.Ready() == nil {
			t.Error("stored without a database")
		}
		away.Store(false)
		time.Sleep(10 * time.Second)
		if err := errors.Join(w.Ready(), store()); err != nil {
			t.Errorf("10 s after the database's return: %v", err)
		}
		w.eventually("support delivered", 1)

		away.Store(true)
		if store() == nil || w.Ready() == nil {
			t.Error("ready right after a commit has failed")
		}
		time.Sleep(lateAfter + heartbeatInterval)
		if a, _ := w.opened(); a.mayDeliver() {
			t.Error("deliveries may start although the heartbeat is late")
		}
		away.Store(false)
		time.Sleep(10 * time.Second)
		if err := errors.Join(w.Ready(), store()); err != nil {
			t.Errorf("10 s after the database's second return: %v", err)
		}
		w.eventually("support delivered", 2)
	})
}

func TestPermanentErrorsRefuseTheConfig(t *testing.T) {
	_, err := New(Database{Name: "test", Open: func(context.Context, *zap.Logger) (db.DB, error) {
		return nil, &db.PermanentError{Err: errors.New("password is wrong")}
	}})
	if !db.IsPermanent(err) {
		t.Errorf("error %v", err)
	}
}

// A lane that is made while delivering stops would claim for ever, and closing the queue
// waits for it.
func TestNoLaneIsMadeAfterDeliveringHasStopped(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		handler := &fakeHandler{lane: "support"}
		w := openWorker(t, newFakeDB(), handler.endpoint("intercom", testOptions, "support"))
		a, _ := w.opened()
		lanes := a.lanes.all()
		w.Detach(t.Context(), Config{"intercom": w.endpoint})
		w.Attach(Config{"intercom": handler.endpoint("intercom", testOptions, "support", "sales")})
		if now := a.lanes.all(); len(now) != 0 || len(lanes) == 0 {
			t.Errorf("%d lanes after the end, and %d before, want none", len(now), len(lanes))
		}
		for _, lane := range lanes {
			if !lane.retired.Load() {
				t.Errorf("lane %s goes on", lane.Name)
			}
		}
		w.close() // hangs if a lane claims on
	})
}

func TestABackendThatHangsWithLargeBodiesStopsNoOtherLane(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		hang := make(chan struct{})
		handler := &fakeHandler{}
		e := handler.endpoint("intercom", testOptions, "support", "sales")
		e.Handler.Route = func(_ *http.Request, body []byte, _ intercomwebhook.Attempt, _ string) (string, func() intercomwebhook.Delivery) {
			lane, _, _ := strings.Cut(string(body), " ")
			return lane, func() intercomwebhook.Delivery {
				if lane == "support" {
					<-hang
				}
				return intercomwebhook.Delivery{}
			}
		}
		w := openWorker(t, newFakeDB(), e)
		defer w.close()
		putLarge := func(lane string, n int) {
			for i := range n {
				body := []byte(lane + " " + strings.Repeat("x", 4*mebibyte))
				r := httptest.NewRequest(http.MethodPost, "/intercom", nil)
				if _, err := w.Store(r, e, intercomwebhook.Notification{Topic: "a.b", ID: fmt.Sprint(lane, i), Lane: lane, Body: body}); err != nil {
					t.Fatal(err)
				}
			}
		}
		putLarge("support", 18) // more than all lanes may hold together
		putLarge("sales", 3)
		w.eventually("sales delivered", 3)
		close(hang)
		w.eventually("support delivered", 18)
		a, _ := w.opened()
		time.Sleep(time.Second)
		a.book.mu.Lock()
		defer a.book.mu.Unlock()
		if b := a.book; b.bytes != 0 || len(b.deliveries) != 0 || len(b.pending) != 0 {
			t.Errorf("the book has %+v in the end", a.book)
		}
	})
}
