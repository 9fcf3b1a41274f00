package queue

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// clockTolerance is how far a clock that is only corrected, and does not step, may lose
	// between two heartbeats.
	clockTolerance = time.Second

	reclockInterval = 5 * time.Second
	reclockTimeout  = 2 * time.Minute // it may read all jobs that wait for their next attempt
)

// clock watches whether the database's clock is set back. What waits for its next attempt
// would wait so much longer then.
type clock struct {
	mu    sync.Mutex
	last  time.Time // what it was at the last heartbeat
	heard time.Time // when that was, by this process's monotonic clock

	setBack atomic.Bool // and the jobs that wait have not been made due again yet
	changed chan struct{}
}

func newClock() *clock {
	c := &clock{changed: make(chan struct{}, 1)}
	c.setBack.Store(true) // perhaps, while no process looked
	return c
}

// note compares the database's clock with the monotonic one of this process. The question
// for it was sent and answered at the two times.
func (c *clock) note(now, sent, answered time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sent.Before(c.heard) {
		return // a later heartbeat was answered first
	}
	now = now.Round(0) // or two times of this process's clock were compared by the monotonic one
	if !c.last.IsZero() && now.Sub(c.last) < sent.Sub(c.heard)-clockTolerance {
		c.setBack.Store(true)
		wake(c.changed)
	}
	c.last, c.heard = now, answered
}

// now returns the database's clock, or that of this process before the first heartbeat.
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.IsZero() {
		return time.Now()
	}
	return c.last.Add(time.Since(c.heard))
}

// reclock makes jobs that wait for their next attempt due after their own delay, at the
// start and when the clock was set back.
func (d *dispatcher) reclock(ctx context.Context) {
	wake(d.clock.changed)
	every(ctx, reclockInterval, d.clock.changed, func() {
		if !d.clock.setBack.Swap(false) {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, reclockTimeout)
		defer cancel()
		changed, err := d.db.Reclock(ctx)
		if err != nil {
			d.clock.setBack.Store(true) // to be tried again
			return                      // sendHeartbeats logs a database that is away
		}
		if changed > 0 {
			d.log().Warn("the clock was set back: retries that were put off by that are due after their own delay",
				zap.String("database", d.location.name), zap.Int64("notifications", changed))
			d.claimOnAllLanes()
		}
	})
}
