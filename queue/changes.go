package queue

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// verb is what to do with jobs.
type verb string

const (
	verbRetry  verb = "retry"  // delivers dead letters again
	verbResend verb = "resend" // delivers again what was delivered
	verbDrop   verb = "drop"   // deletes dead letters
	verbErase  verb = "erase"  // deletes without a trace
)

// defaultStates are the states of the jobs to change if the selection names none.
var defaultStates = map[verb][]jobdb.State{
	verbRetry:  {jobdb.StateDiscarded, jobdb.StateCancelled},
	verbResend: {jobdb.StateCompleted},
	verbDrop:   {jobdb.StateDiscarded, jobdb.StateCancelled},
	verbErase:  nil, // all
}

// change says what to do with a selection of jobs.
type change struct {
	verb verb
	selection
	to     string  // the lane that gets a new job in place of each; empty: the jobs themselves are changed
	rate   float64 // jobs a second at most; 0: as many as storing leaves time for
	dryRun bool    // only count
}

// progress is how far a change is.
type progress struct {
	Done    int64  `json:"done"`
	Total   int64  `json:"total"`
	Skipped *int64 `json:"skipped,omitempty"` // at the end: those that were running, or gone
	Running int64  `json:"running,omitempty"` // at the end of erase: those of them that still run
	Note    string `json:"note,omitempty"`
}

const (
	progressInterval = time.Second
	changeTimeout    = 10 * time.Second // of one batch

	eraseRetryWait = 250 * time.Millisecond

	searchAtOnce = 2000 // jobs that are found at once

	// maxFoundAge is how long ago, about, a job was found at most when it is changed.
	maxFoundAge = 5 * time.Second
)

// eraseWait is how long erase waits for running deliveries to end. Tests shorten it.
var eraseWait = 30 * time.Second

// work is a change that is being made.
type work struct {
	change
	endpoint endpoint
	done     progress
	running  []int64 // ids of jobs to erase that could not be deleted yet
	report   func(progress)
	reported time.Time
}

// change makes a change in small batches, and pauses after each for as long as it took, so
// that storing and delivering go first. It calls report about once a second, and at the end.
// The selection is fixed at the start: jobs that are stored later are not changed. After an
// error, change returns where to go on.
func (e endpoint) change(ctx context.Context, c change, report func(progress)) (at cursor, done progress, err error) {
	w := &work{change: c, endpoint: e, report: report, reported: time.Now()}
	if len(w.filter.States) == 0 {
		w.filter.States = defaultStates[c.verb]
	}
	err = w.run(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if len(w.running) > 0 {
		w.cursor.from = min(w.cursor.from, w.running[0])
	}
	if !c.dryRun {
		e.dispatcher.log().Info("notifications were changed by a person", zap.String("database", e.dispatcher.location.name), zap.String("queue", e.name),
			zap.String("change", string(c.verb)), zap.Int64("notifications", w.done.Done), zap.Error(err))
	}
	return w.cursor, w.done, err
}

func (w *work) run(ctx context.Context) error {
	if w.cursor.last == 0 {
		newest, err := w.endpoint.dispatcher.newestID(ctx)
		if err != nil {
			return err
		}
		w.cursor.last = newest
	}
	w.cursor.from = max(1, w.cursor.from)
	if err := w.count(ctx); err != nil {
		return err
	}
	if w.dryRun {
		w.report(w.done)
		return nil
	}
	if err := w.changeAll(ctx); err != nil {
		return err
	}
	if w.verb == verbErase {
		if err := w.finishErasing(ctx); err != nil {
			return err
		}
	}
	w.done.Total = max(w.done.Total, w.done.Done)
	skipped := w.done.Total - w.done.Done
	w.done.Skipped = &skipped
	w.report(w.done)
	return nil
}

// newestID returns the highest id of a job; 0 if there is none.
func (d *dispatcher) newestID(ctx context.Context) (newest int64, err error) {
	page := jobdb.Page{Limit: 1, Newest: true}
	for {
		records, next, err := d.list(ctx, jobdb.Filter{}, page)
		if err != nil || next == 0 && len(records) == 0 {
			return 0, err
		}
		if len(records) > 0 {
			return records[0].ID, nil
		}
		page.From = next
	}
}

// eachPage looks for the selected jobs, the oldest first, and calls do with their ids. It
// pauses after each look for as long as that took. It does not read the arguments of jobs,
// unless their topic is only there.
func (w *work) eachPage(ctx context.Context, size int, do func(ids []int64) error) error {
	enough := func(*jobdb.Record) bool { return true }
	left := w.limit
	for at := w.cursor.from; at != 0 && at <= w.cursor.last; {
		if w.limit > 0 {
			size = min(size, left)
		}
		if size == 0 {
			return nil
		}
		began := time.Now()
		found, next, err := w.endpoint.dispatcher.search(ctx, w.selection, jobdb.Page{From: at, Limit: size}, enough)
		if err != nil {
			return err
		}
		if err := sleep(ctx, time.Since(began)); err != nil {
			return err
		}
		var ids []int64
		for _, job := range found {
			if job.ID <= w.cursor.last {
				ids = append(ids, job.ID)
			}
		}
		if err := do(ids); err != nil {
			return err
		}
		w.tell()
		at = next
		left -= len(ids)
	}
	return nil
}

// tell reports the progress, but not more often than once per progressInterval.
func (w *work) tell() {
	if time.Since(w.reported) >= progressInterval {
		w.reported = time.Now()
		w.report(w.done)
	}
}

func (w *work) count(ctx context.Context) error {
	return w.eachPage(ctx, searchAtOnce, func(ids []int64) error {
		w.done.Total += int64(len(ids))
		return nil
	})
}

func (w *work) changeAll(ctx context.Context) error {
	most, page := maxChangeBatch, searchAtOnce
	if w.to != "" {
		most = sendAtOnce
	}
	if w.rate > 0 { // so that what was found is not too old when its turn comes
		page = max(1, min(page, int(w.rate*maxFoundAge.Seconds())))
	}
	p := newPace(most, w.rate)
	return w.eachPage(ctx, page, func(ids []int64) error {
		for len(ids) > 0 {
			batch := ids[:min(p.size, len(ids))]
			began := time.Now()
			done, err := w.changeBatch(ctx, batch)
			w.done.Done += int64(done)
			if err != nil {
				w.cursor.from = batch[0]
				return err
			}
			w.cursor.from = batch[len(batch)-1] + 1
			w.tell()
			if err := p.wait(ctx, len(batch), time.Since(began), w.endpoint.dispatcher.store.recentLatency()); err != nil {
				return err
			}
			ids = ids[len(batch):]
		}
		return nil
	})
}

// changeBatch changes jobs, and returns how many it has changed.
func (w *work) changeBatch(ctx context.Context, ids []int64) (done int, err error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	d := w.endpoint.dispatcher
	switch {
	case w.to != "":
		return w.endpoint.sendTo(ctx, w.to, ids)
	case w.verb == verbRetry || w.verb == verbResend:
		changed, err := d.db.Retry(ctx, ids)
		if len(changed) > 0 {
			d.claimOnAllLanes()
		}
		return len(changed), err
	case w.verb == verbDrop:
		deleted, err := d.db.Delete(ctx, ids)
		return len(deleted), err
	case w.verb == verbErase:
		deleted, err := d.db.Delete(ctx, ids)
		w.running = append(w.running, without(ids, deleted)...)
		return len(deleted), err
	default:
		return 0, fmt.Errorf("change %q is not implemented", w.verb)
	}
}

// without returns the ids that are not among the others.
func without(ids, others []int64) []int64 {
	drop := make(map[int64]bool, len(others))
	for _, id := range others {
		drop[id] = true
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return drop[id] })
}

// finishErasing deletes the jobs that were running, as soon as they have ended, and then
// makes unreadable what was deleted.
func (w *work) finishErasing(ctx context.Context) error {
	d := w.endpoint.dispatcher
	for end := time.Now().Add(eraseWait); len(w.running) > 0 && time.Now().Before(end); w.tell() {
		if err := sleep(ctx, eraseRetryWait); err != nil {
			return err
		}
		var still []int64
		for ids := range slices.Chunk(w.running, maxChangeBatch) {
			rest, err := w.deleteEnded(ctx, ids)
			if err != nil {
				return err
			}
			still = append(still, rest...)
		}
		w.running = still
	}
	if err := d.db.Scrub(ctx); err != nil {
		return fmt.Errorf("the notifications are deleted, but the database's files may still have them: run it again: %w", err)
	}
	w.done.Note, w.done.Running = d.location.stillHas, int64(len(w.running))
	return nil
}

// deleteEnded deletes those jobs that are no longer running, and returns the ids of those that
// are.
func (w *work) deleteEnded(ctx context.Context, ids []int64) (running []int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	deleted, err := w.endpoint.dispatcher.db.Delete(ctx, ids)
	if err != nil {
		return nil, err
	}
	w.done.Done += int64(len(deleted))
	rest := without(ids, deleted)
	if len(rest) == 0 {
		return nil, nil
	}
	filter := jobdb.Filter{IDs: rest} // some may be gone in other ways
	err = w.endpoint.dispatcher.eachRecord(ctx, filter, jobdb.Page{Limit: len(rest)}, func(record *jobdb.Record) {
		running = append(running, record.ID)
	})
	return running, err
}
