package worker

import (
	"context"
	"slices"
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
	now     chan<- struct{}   // makes a task call write

	mu        sync.Mutex
	unwritten []*delivery
	since     time.Time // when the oldest of them came, or the last batch was written
}

const (
	// finishInterval is the shortest pause between two batches. If the process is killed
	// in the pause, what was delivered in it is delivered again.
	finishInterval  = 10 * time.Millisecond
	orderedInterval = time.Millisecond       // after a batch that the next one of an object waits for
	finishRetry     = 200 * time.Millisecond // how soon a batch that failed is written again

	// No delivery starts while an outcome waits for longer to be written: it would be made again
	// if the process ended.
	maxUnwrittenAge = 2 * time.Second
)

// finish writes the outcome of a delivery soon, with its id and the token of its claim.
func (f *finisher) finish(d *delivery, outcome db.Outcome) {
	outcome.ID, outcome.Token, outcome.Ordered = d.id, d.token, d.ordered
	d.outcome = outcome
	f.mu.Lock()
	if len(f.unwritten) == 0 {
		f.since = time.Now()
	}
	f.unwritten = append(f.unwritten, d)
	f.mu.Unlock()
	wake(f.now)
}

// behind reports whether no delivery should start, because outcomes are not written in time.
func (f *finisher) behind() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.unwritten) > 0 && time.Since(f.since) > maxUnwrittenAge
}

// write writes all outcomes that wait, and pauses: for longer if that has failed, however many come meanwhile.
func (f *finisher) write(ctx context.Context) {
	f.mu.Lock()
	batch := f.unwritten
	f.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	outcomes, began, ordered := make([]db.Outcome, len(batch)), time.Now(), false
	for i, d := range batch {
		outcomes[i] = d.outcome
		ordered = ordered || d.ordered
	}
	if _, err := f.db.Finish(ctx, outcomes); err != nil {
		f.log.Debug("writing the outcomes of deliveries failed, and will be tried again", zap.Error(err))
		time.Sleep(finishRetry)
		return
	}
	f.mu.Lock()
	f.unwritten, f.since = slices.Clone(f.unwritten[len(batch):]), time.Now()
	f.mu.Unlock()
	f.written(batch)
	pause := finishInterval
	if ordered { // the next one of the object waits for its turn
		pause = min(orderedInterval, time.Since(began))
	}
	time.Sleep(pause)
}
