package worker

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sync/semaphore"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// Counts lagged behind by five times what counting took.
func TestCountsAreAsOfNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		database := newFakeDB()
		asked := 0
		var fails error
		database.backlog = func() error {
			asked++
			time.Sleep(time.Second)
			return fails
		}
		put := func(id int64, state db.State) {
			database.mu.Lock()
			defer database.mu.Unlock()
			database.deliveries[id] = &fakeRow{lane: named("support"), state: state, stored: time.Now()}
		}
		c := &counter{db: database, config: func() Config { return nil }, busy: semaphore.NewWeighted(1)}
		count := func() (waiting int64) {
			counts, err := c.count(t.Context())
			if !errors.Is(err, fails) {
				t.Errorf("error %v, want %v", err, fails)
			}
			waiting, _ = counts.unfinished(named("support"))
			return waiting
		}
		put(1, db.Retrying)
		put(2, db.Dead)
		if n := count(); n != 1 {
			t.Errorf("%d are unfinished, want 1", n)
		}
		var looking sync.WaitGroup
		for id := range int64(100) { // one who has stored something sees it, and all of them take little of the database
			looking.Go(func() {
				time.Sleep(time.Duration(id) * 20 * time.Millisecond)
				put(10+id, db.Waiting)
				if n := count(); n < id+2 {
					t.Errorf("%d are unfinished, want at least %d", n, id+2)
				}
			})
		}
		began := time.Now()
		looking.Wait()
		if took := time.Since(began); asked > 4 || took > 7*time.Second {
			t.Errorf("counted %d times in %s for 100 who asked within 2 s", asked-1, took)
		}
		fails = errors.New("connection refused")
		if n := count(); n != 101 {
			t.Errorf("%d are unfinished while the database is away, want the last known 101", n)
		}
	})
}

// Others can write to the database: 20,000 names of lanes cost 690 MiB and 12 MB of metrics.
func TestLanesOfRowsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler, database := &fakeHandler{lane: "support"}, newFakeDB()
		e := handler.endpoint("intercom", testOptions, "support", "sales")
		database.deliveries[1] = &fakeRow{lane: named("support"), state: db.Dead, stored: time.Now()}
		for i := range int64(20_000) {
			lane := named(fmt.Sprintf("valid-%05d", i))
			switch i % 4 {
			case 0:
				lane.Name = fmt.Sprintf("$(reboot) %d \x1b[2J", i)
			case 1:
				lane.Endpoint = fmt.Sprintf("ep %d", i)
			}
			database.deliveries[2+i] = &fakeRow{lane: lane, state: db.Dead, stored: time.Now()}
		}
		database.deliveries[50_000] = &fakeRow{lane: named("zzz-removed"), state: db.Waiting, stored: time.Now()}
		database.notifications[db.NotificationOf(50_000)] = &db.Notification{Endpoint: "intercom", Request: db.Request{Method: "POST", URI: "/"}}
		before := testutil.ToFloat64(attemptsTotal.WithLabelValues("other", "delivered"))
		w := openWorker(t, database, e)
		defer w.close()
		w.eventually("zzz-removed delivered", 1) // also a lane behind all of them is taken over
		lanes, err := w.Lanes(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		for _, lane := range lanes {
			total += lane.Counts[db.Dead]
			if lanename.Check(lane.Lane.Name) != nil || lanename.Check(lane.Lane.Endpoint) != nil {
				t.Errorf("told is %q", lane.Lane)
			}
		}
		if most := 3 + maxForeignLanes + 2; len(lanes) > most || total != 20_001 || lanes[0].Lane.Name != "support" || lanes[0].Counts[db.Dead] != 1 {
			t.Errorf("%d lanes with %d dead letters, the first %+v; want at most %d with all of them", len(lanes), total, lanes[0], most)
		}
		if a, _ := w.opened(); len(a.lanes.all()) > 3+maxForeignLanes {
			t.Errorf("this instance works on %d lanes", len(a.lanes.all()))
		}
		if n := testutil.CollectAndCount(allLanes); n > 8*(3+maxForeignLanes+2) {
			t.Errorf("%d series", n)
		}
		if n := testutil.ToFloat64(attemptsTotal.WithLabelValues("other", "delivered")) - before; n != 1 {
			t.Errorf("%v attempts of other lanes, want that of the one that was taken over", n)
		}
	})
}
