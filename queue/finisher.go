package queue

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// finisher writes the outcomes of deliveries to the database, in batches. Outcomes that
// arrive while a batch is written are in the next batch.
type finisher struct {
	dispatcher *dispatcher

	mu      sync.Mutex
	pending []finishedJob
	writing []finishedJob

	wake    chan struct{}
	stopped chan struct{}
	ended   sync.WaitGroup
}

// finishedJob is a job whose outcome is not written yet.
type finishedJob struct {
	job     *heldJob
	outcome jobdb.Outcome
	since   time.Time // when it came to the finisher
}

const (
	// finishInterval is the shortest pause between two batches. If the process is killed
	// in the pause, what was delivered in it is delivered again.
	finishInterval = 5 * time.Millisecond
	finishTimeout  = 10 * time.Second

	// No delivery starts while more outcomes than maxUnwritten wait to be written, or one
	// waits for longer than maxUnwrittenAge.
	maxUnwritten    = 5000
	maxUnwrittenAge = 2 * time.Second
)

func newFinisher(d *dispatcher) *finisher {
	return &finisher{dispatcher: d, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
}

func (f *finisher) start() { f.ended.Go(f.writeAll) }

// finish queues an outcome to be written. It fills in the id of the job and the token of
// its claim.
func (f *finisher) finish(job *heldJob, outcome jobdb.Outcome) {
	outcome.ID, outcome.Token = job.id, job.token
	f.mu.Lock()
	f.pending = append(f.pending, finishedJob{job, outcome, time.Now()})
	f.mu.Unlock()
	wake(f.wake)
}

// behind reports whether no delivery should start, because too many outcomes wait to be
// written, or wait for too long.
func (f *finisher) behind() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	oldest := f.pending
	if len(f.writing) > 0 {
		oldest = f.writing
	}
	return len(f.pending) > maxUnwritten || len(oldest) > 0 && time.Since(oldest[0].since) > maxUnwrittenAge
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
			ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
			defer cancel()
			f.write(ctx)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), finishTimeout)
		wait := finishInterval
		if !f.write(ctx) {
			wait = 200 * time.Millisecond
		}
		cancel()
		select {
		case <-time.After(wait):
		case <-f.stopped: // handled at the start of the loop
		}
	}
}

// write writes all pending outcomes. It reports whether that succeeded. If it failed, the
// outcomes are pending again.
func (f *finisher) write(ctx context.Context) bool {
	f.mu.Lock()
	batch := f.pending
	f.pending, f.writing = nil, batch
	f.mu.Unlock()
	if len(batch) == 0 {
		return true
	}
	outcomes := make([]jobdb.Outcome, len(batch))
	for i, finished := range batch {
		outcomes[i] = finished.outcome
	}
	_, err := f.dispatcher.db.Finish(ctx, outcomes)
	f.mu.Lock()
	f.writing = nil
	if err != nil {
		f.pending = append(batch, f.pending...)
	}
	f.mu.Unlock()
	if err != nil {
		f.dispatcher.log().Debug("writing the outcomes of deliveries failed, and will be tried again", zap.Error(err))
		wake(f.wake)
		return false
	}
	f.dispatcher.held.remove(batch)
	f.wakeLanes(batch)
	f.dispatcher.wakeRefused()
	return true
}

// wakeLanes makes the lanes of the jobs claim and deliver: places are free again, and jobs
// that were released can be claimed.
func (f *finisher) wakeLanes(batch []finishedJob) {
	released := make(map[string]bool)
	for _, finished := range batch {
		released[finished.job.queue] = released[finished.job.queue] || finished.outcome.State == jobdb.StateAvailable
	}
	for queue, more := range released {
		if lane := f.dispatcher.lane(queue); lane != nil {
			lane.refill(more)
		}
	}
}
