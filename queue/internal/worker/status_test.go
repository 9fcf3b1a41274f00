package worker

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"

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
		c := &counter{db: database, busy: semaphore.NewWeighted(1)}
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
