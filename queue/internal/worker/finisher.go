package worker

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// finisher writes the outcomes of deliveries to the database, in batches. Outcomes that
// arrive while a batch is written are in the next batch.
type finisher struct {
	db      db.DB
	log     *zap.Logger
	written func(finished) // is called after each batch

	mu      sync.Mutex
	pending finished
	oldest  time.Time // since when the oldest outcome that is not written waits; zero if there is none
	writing bool

	wake    chan struct{}
	stopped chan struct{}
	ended   sync.WaitGroup
}

// finished are deliveries with their outcomes, in the same order.
type finished struct {
	deliveries []*delivery
	outcomes   []db.Outcome
}

const (
	// finishInterval is the shortest pause between two batches. If the process is killed
	// in the pause, what was delivered in it is delivered again.
	finishInterval = 10 * time.Millisecond
	finishTimeout  = 10 * time.Second
	finishRetry    = 200 * time.Millisecond

	// flushTimeout bounds how long stop waits until the last outcomes are written.
	flushTimeout = 5 * time.Second

	// No delivery starts while more outcomes than maxUnwritten wait to be written, or one
	// waits for longer than maxUnwrittenAge.
	maxUnwritten    = 5000
	maxUnwrittenAge = 2 * time.Second
)

func newFinisher(database db.DB, log *zap.Logger, written func(finished)) *finisher {
	return &finisher{db: database, log: log, written: written, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
}

func (f *finisher) start() { f.ended.Go(f.writeAll) }

// finish queues an outcome to be written. It fills in the id of the delivery and the token of
// its claim.
func (f *finisher) finish(d *delivery, outcome db.Outcome) {
	outcome.ID, outcome.Token = d.id, d.token
	f.mu.Lock()
	first := len(f.pending.outcomes) == 0
	if first && !f.writing {
		f.oldest = time.Now()
	}
	f.pending.deliveries = append(f.pending.deliveries, d)
	f.pending.outcomes = append(f.pending.outcomes, outcome)
	f.mu.Unlock()
	if first {
		wake(f.wake)
	}
}

// behind reports whether no delivery should start, because too many outcomes wait to be
// written, or wait for too long.
func (f *finisher) behind() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pending.outcomes) > maxUnwritten || !f.oldest.IsZero() && time.Since(f.oldest) > maxUnwrittenAge
}

// stop tries once more to write the outcomes that wait, and returns when that is done.
// Outcomes that come to finish later are not written.
func (f *finisher) stop() {
	close(f.stopped)
	f.ended.Wait()
}

func (f *finisher) writeAll() {
	for {
		select {
		case <-f.wake:
		case <-f.stopped:
			f.write(flushTimeout)
			return
		}
		pause := finishInterval
		if !f.write(finishTimeout) {
			pause = finishRetry
		}
		select {
		case <-time.After(pause):
		case <-f.stopped: // handled at the start of the loop
		}
	}
}

// write writes all pending outcomes. It reports whether that succeeded. If it failed, the
// outcomes are pending again.
func (f *finisher) write(timeout time.Duration) bool {
	f.mu.Lock()
	batch := f.pending
	f.pending, f.writing = finished{}, len(batch.outcomes) > 0
	f.mu.Unlock()
	if len(batch.outcomes) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := f.db.Finish(ctx, batch.outcomes)
	f.mu.Lock()
	f.writing = false
	switch {
	case err != nil:
		f.pending = finished{append(batch.deliveries, f.pending.deliveries...), append(batch.outcomes, f.pending.outcomes...)}
	case len(f.pending.outcomes) > 0:
		f.oldest = time.Now()
	default:
		f.oldest = time.Time{}
	}
	f.mu.Unlock()
	if err != nil {
		f.log.Debug("writing the outcomes of deliveries failed, and will be tried again", zap.Error(err))
		wake(f.wake)
		return false
	}
	f.written(batch)
	return true
}

// wake makes a loop run once more. It never blocks: one signal that waits is enough.
func wake(loop chan<- struct{}) {
	select {
	case loop <- struct{}{}:
	default:
	}
}
