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
	written func([]*delivery) // is called after each batch

	mu      sync.Mutex
	pending []*delivery
	since   time.Time // when the oldest outcome that is not written came; zero if there is none

	wake    chan struct{}
	stopped chan struct{}
	ended   sync.WaitGroup
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
	// waits for longer than maxUnwrittenAge: they would be made again if the process ended.
	maxUnwritten    = 5000
	maxUnwrittenAge = 2 * time.Second
)

func newFinisher(database db.DB, log *zap.Logger, written func([]*delivery)) *finisher {
	return &finisher{db: database, log: log, written: written, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
}

// finish writes the outcome of a delivery soon, with its id and the token of its claim.
func (f *finisher) finish(d *delivery, outcome db.Outcome) {
	outcome.ID, outcome.Token = d.id, d.token
	d.outcome = outcome
	f.mu.Lock()
	if f.since.IsZero() {
		f.since = time.Now()
	}
	f.pending = append(f.pending, d)
	first := len(f.pending) == 1
	f.mu.Unlock()
	if first {
		wake(f.wake)
	}
}

// behind reports whether no delivery should start, because outcomes are not written in time.
func (f *finisher) behind() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pending) > maxUnwritten || !f.since.IsZero() && time.Since(f.since) > maxUnwrittenAge
}

// stop tries once more to write the outcomes that wait, and returns when that is done.
// Outcomes that come to finish later are not written.
func (f *finisher) stop() {
	close(f.stopped)
	f.ended.Wait()
}

// start starts to write.
func (f *finisher) start() { f.ended.Go(f.writeAll) }

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
	f.pending = nil
	f.mu.Unlock()
	if len(batch) == 0 {
		return true
	}
	outcomes := make([]db.Outcome, len(batch))
	for i, d := range batch {
		outcomes[i] = d.outcome
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if _, err := f.db.Finish(ctx, outcomes); err != nil {
		f.log.Debug("writing the outcomes of deliveries failed, and will be tried again", zap.Error(err))
		f.mu.Lock()
		f.pending = append(batch, f.pending...)
		f.mu.Unlock()
		wake(f.wake)
		return false
	}
	f.mu.Lock()
	f.since = time.Time{}
	if len(f.pending) > 0 {
		f.since = time.Now()
	}
	f.mu.Unlock()
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
