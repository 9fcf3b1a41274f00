package manage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// Verb is what to do with deliveries.
type Verb string

// The verbs.
const (
	Retry  Verb = "retry"  // delivers dead ones again
	Resend Verb = "resend" // delivers again what was delivered
	Drop   Verb = "drop"   // deletes dead ones
	Erase  Verb = "erase"  // deletes without a trace
)

// verbs has for each verb what it does, and with deliveries of which states if the selection names none.
var verbs = map[Verb]struct {
	action db.Action
	states []db.State
}{
	Retry:  {db.Retry, []db.State{db.Dead}},
	Resend: {db.Retry, []db.State{db.Delivered}},
	Drop:   {db.Drop, []db.State{db.Dead}},
	Erase:  {db.Erase, nil}, // all
}

// Verbs are all verbs.
var Verbs = slices.Sorted(maps.Keys(verbs))

// Change says what to do with a selection of deliveries.
type Change struct {
	Verb
	Selection
	To     string  // the lane of Retry and Resend; empty: that of each delivery
	Rate   float64 // deliveries a second at most; 0: as many as storing leaves time for
	DryRun bool    // only count
	Whole  bool    // Erase rewrites the file, while storing stands still

	Who, What string // for the log: who makes the change, and of what
}

const (
	progressInterval = time.Second
	changeTimeout    = 10 * time.Second // of one batch
	listAtOnce       = 2000
)

// Make makes a change of deliveries of an endpoint in small batches, and pauses after each for at least as long as it
// took, so that storing and delivering go first. It calls report about once a second, and at the end. The selection
// is fixed at the start: what is stored or finished later is not changed. After an error, it returns where to go on.
func Make(ctx context.Context, e Endpoint, c Change, report func(adminapi.Progress)) (at Cursor, done adminapi.Progress, err error) {
	c.fix(e.Worker.Now())
	r := &run{Change: c, endpoint: e, report: report, reported: time.Now()}
	if r.inspector, err = e.inspector(); err == nil {
		err = r.count(ctx)
	}
	if err == nil && !c.DryRun {
		err = r.change(ctx)
	}
	if err == nil {
		report(r.done)
	} else if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if !c.DryRun {
		e.log("a person has changed deliveries", zap.String("who", c.Who), zap.String("change", string(c.Verb)),
			zap.String("filter", c.What), zap.Strings("states", Names(c.Filter.States)), zap.Int64("deliveries", r.done.Done), zap.Error(err))
	}
	return r.Cursor, r.done, err
}

// fix fixes the selection at a time of the database, or at the one at which the change began that goes on.
func (c *Change) fix(now time.Time) {
	if c.Filter.States == nil {
		c.Filter.States = verbs[c.Verb].states
		if c.Verb == Retry && c.Notifications != nil { // by its id, one is meant that waits, too
			c.Filter.States = []db.State{db.Dead, db.Retrying}
		}
	}
	// What was sent to another lane is delivered there, so it is not delivered again unless somebody says so.
	c.Filter.Uncancelled = verbs[c.Verb].action == db.Retry && c.Filter.Reasons == nil && c.ID == 0
	if c.Cursor.AsOf.IsZero() {
		c.Cursor.AsOf = now
	}
	c.Filter.AsOf = c.Cursor.AsOf
	if c.Filter.Until.IsZero() || c.Filter.Until.After(c.Cursor.AsOf) {
		c.Filter.Until = c.Cursor.AsOf
	}
}

// run is a change that is being made.
type run struct {
	Change
	endpoint  Endpoint
	inspector db.Inspector
	done      adminapi.Progress
	report    func(adminapi.Progress)
	reported  time.Time
}

// tell reports the progress, but not more often than once per progressInterval.
func (r *run) tell() {
	if time.Since(r.reported) >= progressInterval {
		r.reported = time.Now()
		r.report(r.done)
	}
}

func (r *run) count(ctx context.Context) error {
	counted := r.Selection
	err := counted.each(ctx, r.inspector, &db.Page{Limit: listAtOnce}, func(found []db.Delivery) error {
		r.done.Total += int64(len(found))
		r.tell()
		return nil
	}, nil)
	if err == nil && r.done.Total == 0 && r.Filter.Lane != "" {
		err = r.endpoint.checkLane(ctx, r.Filter.Lane) // it may be misspelt
	}
	return err
}

func (r *run) change(ctx context.Context) (err error) {
	p := newPace(r.Rate)
	page := &db.Page{Limit: p.size}
	var n int
	var took time.Duration
	err = r.each(ctx, r.inspector, page, func(found []db.Delivery) error {
		began := time.Now()
		err := r.changeBatch(ctx, found)
		n, took = len(found), time.Since(began)
		r.tell()
		return err
	}, func() error {
		if n == 0 {
			return nil
		}
		err := p.wait(ctx, n, took, r.endpoint.Worker.AnswerTime())
		page.Limit = p.size
		return err
	})
	if err == nil && r.Verb == Erase {
		if r.done.Note, err = r.inspector.(db.Eraser).Scrub(ctx, r.Whole); err != nil {
			err = fmt.Errorf("the notifications are deleted, but the database's files may still have them: run it again: %w", err)
		}
	}
	if err != nil {
		return err
	}
	skipped := max(0, r.done.Total-r.done.Done)
	r.done.Total, r.done.Skipped = max(r.done.Total, r.done.Done), &skipped
	return nil
}

func (r *run) changeBatch(ctx context.Context, batch []db.Delivery) error {
	if len(batch) == 0 {
		return nil
	}
	c := db.Change{Action: verbs[r.Verb].action, To: r.To, Filter: r.Filter, IDs: make([]int64, len(batch))}
	for i := range batch {
		c.IDs[i] = batch[i].ID
	}
	if r.To != "" {
		c.Action = db.Send
	}
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	changed, err := r.inspector.Change(ctx, c)
	r.done.Done += int64(len(changed))
	r.endpoint.Worker.Changed()
	return err
}

const (
	// A batch of a change has the size that takes about batchTime. So the database is never kept from storing for
	// longer.
	batchTime  = 15 * time.Millisecond
	firstBatch = 20
	maxBatch   = 500

	// A pause is at least answerTimes times as long as Intercom waits for an answer, so that few answers wait for a
	// batch when the disk or the processors are busy.
	answerTimes = 4
)

// pace makes a change that consists of many batches slow enough for what is stored and delivered at the same time.
type pace struct {
	size  int     // of the next batch
	rate  float64 // a second; 0: without limit
	began time.Time
	done  int
}

func newPace(rate float64) *pace {
	p := &pace{rate: rate, began: time.Now()}
	p.resize(firstBatch)
	return p
}

// wait adapts the size of the next batch to how long the last one of n deliveries took. Then it pauses for as long as
// that, and for longer while answers to Intercom take long, or if the batch was too large for the rate.
func (p *pace) wait(ctx context.Context, n int, took, answer time.Duration) error {
	if took < batchTime/2 {
		p.resize(p.size * 2)
	} else if took > 2*batchTime {
		p.resize(p.size / 2)
	}
	pause := max(took, answerTimes*answer)
	if p.done += n; p.rate > 0 {
		const never = 1e9 // seconds, which a Duration can be
		due := p.began.Add(time.Duration(min(float64(p.done)/p.rate, never) * float64(time.Second)))
		pause = max(pause, time.Until(due))
	}
	return sleep(ctx, pause)
}

func (p *pace) resize(size int) {
	if p.rate > 0 { // a batch is at most what a second may have
		size = min(size, int(p.rate))
	}
	p.size = max(1, min(size, maxBatch))
}
