package worker

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/time/rate"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func TestALaneIsDownUntilNothingIsLeftToDeliver(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		options := testOptions
		options.MaxAttempts = 4 // the last one comes about 36 s after the first
		handler := &fakeHandler{lane: "support", answer: func(*http.Request, int) intercomwebhook.Delivery {
			return intercomwebhook.Delivery{Err: errBackend}
		}}
		w := openWorker(t, newFakeDB(), handler.endpoint("intercom", options, "support"))
		defer w.close()
		state := func() LaneStatus {
			lanes, err := w.Lanes(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			return lanes[0]
		}
		w.put("support", "a")
		w.put("support", "b")
		for state().State != LaneDown {
			time.Sleep(time.Second)
		}
		if got := state(); got.Error != errBackend.Error() || time.Since(got.DownSince) < downAfter || time.Since(got.DownSince) > time.Minute {
			t.Errorf("down since %s: %s", got.DownSince, got.Error)
		}
		w.eventually("support dead attempts", 2)
		time.Sleep(surveyInterval)
		if got := state(); got.State != LaneFailing || got.Error != "" {
			t.Errorf("with nothing left to deliver, the lane is %s (%s)", got.State, got.Error)
		}
		time.Sleep(buckets * bucketTime)
		if got := state(); got.State != LaneActive {
			t.Errorf("five minutes later, the lane is %s", got.State)
		}
	})
}

func TestAPausedLaneIsLogged(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	database := newFakeDB()
	book := newBook()
	s := &lanes{byName: map[db.Lane]*lane{}, shared: &laneParts{db: database, log: zap.New(core), book: book, pacer: newPacer(), mayDeliver: func() bool { return false }}}
	defer s.stop()
	pause := func(lane string, paused bool) {
		t.Helper()
		if err := errors.Join(database.SetPaused(t.Context(), named(lane), paused), s.applyPauses(t.Context()), s.applyPauses(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want string) {
		t.Helper()
		var got []string
		for _, entry := range logs.TakeAll() {
			got = append(got, entry.Level.String()+" "+entry.ContextMap()["lane"].(string))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("logged %q, want %q", got, want)
		}
	}
	pause("support", true)
	expect("") // it is not known yet
	s.update(map[db.Lane]*LaneOptions{named("support"): {Workers: 1}, named("sales"): {Workers: 1}})
	expect("warn support")
	pause("sales", true)
	expect("warn sales")
	pause("support", false)
	expect("info support")
}

// A second Caddy on the same database gets its part of a lane's rate once the first one knows of it.
func TestTheRateOfALaneHoldsOverAllInstances(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const perSecond = 10
		var mu sync.Mutex
		began := make(map[string][]time.Time) // by instance
		endpoint := func(instance string) *Endpoint {
			options := testOptions
			options.Lanes = map[string]LaneOptions{"support": options.LaneOptions}
			slow := options.Lanes["support"]
			slow.Rate = perSecond
			options.Lanes["support"] = slow
			handler := &fakeHandler{lane: "support", answer: func(*http.Request, int) intercomwebhook.Delivery {
				mu.Lock()
				defer mu.Unlock()
				began[instance] = append(began[instance], time.Now())
				return intercomwebhook.Delivery{}
			}}
			return handler.endpoint("intercom", options, "support")
		}
		first := newFakeDB()
		second := first.open("host-2")
		one := openWorker(t, first, endpoint("one"))
		defer one.close()
		for i := range 600 {
			one.put("support", fmt.Sprint(i))
		}
		time.Sleep(10 * time.Second)
		others := func(database *fakeDB) {
			first.mu.Lock()
			defer first.mu.Unlock()
			database.peers = db.Peers{Others: []db.Presence{{Lanes: []db.Lane{named("support")}}}, Now: time.Now()}
		}
		others(second)
		two := openWorker(t, second, endpoint("two"))
		defer two.close()
		time.Sleep(lateAfter - heartbeatInterval - time.Second) // the first one learns with its next heartbeat that there is another one
		others(first)
		one.eventually("support delivered", 600)

		all := slices.SortedFunc(slices.Values(slices.Concat(began["one"], began["two"])), time.Time.Compare)
		for i := range all[perSecond:] {
			if took := all[i+perSecond].Sub(all[i]); took < 990*time.Millisecond {
				t.Fatalf("%d attempts began within %s: %v", perSecond+1, took, all[i:i+perSecond+1])
			}
		}
		if took := all[599].Sub(all[0]); took > 70*time.Second {
			t.Errorf("600 took %s, want about a minute", took)
		}
		if n := len(began["two"]); n < 100 || n > 300 {
			t.Errorf("the second one made %d of 600", n)
		}
	})
}

// limited returns a lane without a worker.
func limited(perSecond float64, deliver func(*delivery) (db.Outcome, bool)) *lane {
	l := &lane{limiter: rate.NewLimiter(0, 1), shared: &laneParts{
		pacer: newPacer(), deliver: deliver, mayDeliver: func() bool { return true }, sharing: func(db.Lane) (int, time.Duration) { return 1, 0 },
	}}
	l.options.Store(&LaneOptions{Workers: 1, Rate: perSecond})
	return l
}

func TestANewRateHoldsAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		delivered := make(chan time.Time, 1)
		l := limited(.001, func(*delivery) (db.Outcome, bool) {
			delivered <- time.Now()
			return db.Outcome{}, false
		})
		began := time.Now()
		l.mayStart()
		l.accept([]*delivery{{note: new(db.Notification)}}, 0) // it waits for 1000 s
		l.options.Store(&LaneOptions{Workers: 1, Rate: 10})
		l.refill(false)
		if took := (<-delivered).Sub(began); took != 100*time.Millisecond {
			t.Errorf("with 10 a second, a delivery waited for %s", took)
		}
	})
}

func TestWhatThePaceRefusesTakesNothingOfTheRate(t *testing.T) {
	l := limited(.001, nil)
	l.shared.pacer.limit = 1
	if l.mayStart() {
		t.Error("a delivery may start while the pace allows none")
	}
	l.shared.pacer.tokens = 1
	if !l.mayStart() {
		t.Error("the rate allows no delivery, though none has started")
	}
}
