package worker

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func TestCountingTakesLittleOfTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		database := newFakeDB()
		asked := 0
		var fails error
		database.backlog = func() error {
			asked++
			time.Sleep(time.Second)
			return fails
		}
		database.deliveries[1] = &fakeRow{lane: named("support"), state: db.Retrying, stored: time.Now()}
		database.deliveries[2] = &fakeRow{lane: named("support"), state: db.Dead, stored: time.Now().Add(-time.Hour)}
		c := &counter{db: database, log: zap.NewNop()}
		counts := c.count(t.Context(), false)
		if n, _ := counts.unfinished(named("support")); n != 1 || counts.byLane[named("support")][db.Dead].Count != 1 {
			t.Errorf("counts %v", counts.byLane)
		}
		delete(database.deliveries, 1)
		time.Sleep(4 * time.Second)
		if counts = c.count(t.Context(), false); asked != 1 {
			t.Errorf("counted %d times within 5 times as long as it took", asked)
		}
		if _, age := counts.unfinished(named("support")); age < 4*time.Second || age > 7*time.Second {
			t.Errorf("the oldest is %s old, want about 5 s, as it grows older while it is not counted", age)
		}
		time.Sleep(2 * time.Second)
		counts = c.count(t.Context(), false)
		if n, age := counts.unfinished(named("support")); asked != 2 || n != 0 || age != 0 {
			t.Errorf("counted %d times, and the oldest is %s old, want 2 and none", asked, age)
		}
		if c.count(t.Context(), true); asked != 3 {
			t.Error("not counted anew")
		}
		fails = errors.New("connection refused")
		time.Sleep(time.Minute)
		if counts = c.count(t.Context(), false); counts.byLane[named("support")][db.Dead].Count != 1 {
			t.Errorf("counts %v, want the last known", counts.byLane)
		}
	})
}
