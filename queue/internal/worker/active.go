package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// active is a worker whose database is open. It has the parts, and runs their tasks.
type active struct {
	db        db.DB
	log       *zap.Logger
	configs   *configs
	book      *book
	pacer     *pacer
	store     *store
	lanes     *lanes
	finisher  *finisher
	peers     *peers
	snapshot  *snapshot
	retention *retention
	contact   contact
	tracing   tracing

	stopping  atomic.Bool
	interrupt context.CancelCauseFunc // ends the context of all running deliveries

	running      sync.WaitGroup // the tasks
	cancel       context.CancelFunc
	ctx          context.Context // ends the tasks
	heartbeatNow chan struct{}   // makes the heartbeats' task send one at once
	surveyNow    chan struct{}   // makes the lanes' task run at once

	failing   bool            // the last heartbeat has failed; only for heartbeat
	announced bool            // only for survey
	warned    map[string]bool // endpoints that a warning was logged for; only for survey
}

const (
	reconcileInterval = 2 * time.Second
	pausesInterval    = time.Second
	surveyInterval    = 10 * time.Second

	// taskTimeout bounds each task that runs once per interval.
	taskTimeout = 5 * time.Second

	// interruptTimeout is how long deliveries may take to end after their context has ended.
	interruptTimeout = 5 * time.Second
)

func newActive(database db.DB, log *zap.Logger, configs *configs) *active {
	a := &active{
		db: database, log: log, configs: configs, book: newBook(), pacer: newPacer(),
		heartbeatNow: make(chan struct{}, 1), surveyNow: make(chan struct{}, 1), warned: make(map[string]bool),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	deliverCtx, interrupt := context.WithCancelCause(context.Background())
	a.interrupt = interrupt
	a.peers = &peers{db: database, config: configs.current, changed: func() { a.lanes.reconsider() }}
	a.finisher = newFinisher(database, log, a.written)
	deliverer := &deliverer{ctx: deliverCtx, instance: database.Instance(), endpoint: configs.endpoint, peers: a.peers, tracing: &a.tracing}
	a.lanes = newLanes(&laneParts{
		db: database, log: log, book: a.book, pacer: a.pacer, deliver: deliverer.deliver,
		finish: a.finisher.finish, mayDeliver: a.mayDeliver, memoryFree: a.memoryFree,
	})
	a.store = newStore(database, a.book, a.pacer, a.lanes.get, a.contact.note)
	a.snapshot = &snapshot{db: database, log: log}
	a.retention = &retention{db: database, log: log, config: configs.current, answerTime: a.store.answerTime}
	return a
}

// start starts the tasks. Nothing is claimed before the first heartbeat, and nothing of a
// paused lane.
func (a *active) start(ctx context.Context) error {
	if err := a.lanes.applyPauses(ctx); err != nil {
		return err
	}
	a.heartbeat(ctx)
	a.every(heartbeatInterval, a.heartbeatNow, a.heartbeat)
	a.every(reconcileInterval, nil, func(ctx context.Context) { _ = a.reconcile(ctx) }) // heartbeat logs that the database is away
	a.every(pausesInterval, nil, func(ctx context.Context) { _ = a.lanes.applyPauses(ctx) })
	a.every(surveyInterval, a.surveyNow, a.survey)
	a.every(retentionInterval, nil, func(context.Context) { a.retention.run(a.ctx) })
	a.every(paceWindow, nil, func(context.Context) {
		if a.pacer.adjust(time.Now()) {
			a.lanes.refill(false)
		}
	})
	a.finisher.start()
	a.store.start(committers)
	return nil
}

// every runs a task once per interval, and each time it can read from now, until close.
func (a *active) every(interval time.Duration, now <-chan struct{}, task func(context.Context)) {
	a.running.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-a.ctx.Done():
				return
			case <-ticker.C:
			case <-now:
			}
			ctx, cancel := context.WithTimeout(a.ctx, taskTimeout)
			task(ctx)
			cancel()
		}
	})
}

// configChanged makes this instance work on the lanes of the current config. The others know of
// the config before anything is stored with it, if they can.
func (a *active) configChanged() {
	if len(a.configs.current()) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(a.ctx, taskTimeout)
	defer cancel()
	_ = a.peers.exchange(ctx) // if it fails, heartbeat logs it
	a.update()
	a.snapshot.expire()
	wake(a.surveyNow) // takes over what no config has any more
}

// update makes this instance work on the lanes of the current config, and on the orphaned
// ones that it takes over.
func (a *active) update() {
	config := a.configs.current()
	wanted := make(map[db.Lane]int)
	for _, lane := range a.peers.orphaned(time.Now()) {
		if e := config[lane.Endpoint]; e != nil {
			wanted[lane] = e.workers(lane.Name)
		}
	}
	for _, lane := range config.lanes() {
		wanted[lane.Lane] = lane.workers
	}
	if a.lanes.update(wanted) {
		wake(a.heartbeatNow) // tells the other instances
	}
}

// mayDeliver reports whether deliveries may start. They may not while the heartbeat is late,
// because other instances may take over what this one holds. They may not while outcomes
// cannot be written, because they would be made again.
func (a *active) mayDeliver() bool {
	return !a.stopping.Load() && !a.peers.late() && !a.finisher.behind()
}

// memoryFree makes all lanes claim if one of them was refused memory.
func (a *active) memoryFree() {
	if a.book.takeRefused() {
		a.lanes.refill(false)
	}
}

// written removes deliveries whose outcomes are written from the book. Their lanes may go on,
// and claim what was released.
func (a *active) written(batch finished) {
	a.book.remove(batch.deliveries)
	more := make(map[db.Lane]bool)
	for i, d := range batch.deliveries {
		more[d.lane] = more[d.lane] || batch.outcomes[i].State == db.Waiting
	}
	for name, more := range more {
		if lane := a.lanes.get(name); lane != nil {
			lane.refill(more)
		}
	}
	a.memoryFree()
}

// heartbeat sends one heartbeat. It logs when that begins to fail and when it succeeds again.
// Then it takes over what instances that are gone have left.
func (a *active) heartbeat(ctx context.Context) {
	late := a.peers.late()
	sent := time.Now()
	err := a.peers.exchange(ctx)
	if err == nil && late {
		err = a.reconcile(ctx) // others may have taken over what this instance held
	}
	if a.ctx.Err() != nil {
		return
	}
	switch {
	case err != nil && !a.failing:
		a.log.Error("the queue's database cannot be reached: notifications are answered 503 until it can", zap.Error(err))
	case err == nil && a.failing:
		a.log.Info("the queue's database can be reached again")
	}
	a.failing = err != nil
	a.contact.note(err)
	if err != nil {
		return
	}
	a.peers.onTime(sent)
	if late {
		a.lanes.refill(true) // this also starts the deliveries that had to wait
	}
	released, err := a.db.TakeOver(ctx)
	if err != nil {
		a.log.Debug("taking over from instances that are gone failed, and will be tried again", zap.Error(err))
	} else if released > 0 {
		a.log.Warn("took over the deliveries of an instance that is gone", zap.Int64("deliveries", released))
		a.lanes.refill(true)
	}
}

// reconcile compares the book with the database, and releases what was claimed for this
// instance without its knowing.
func (a *active) reconcile(ctx context.Context) error {
	asked := time.Now()
	rows, err := a.db.Held(ctx)
	if err != nil {
		return err
	}
	lost := a.book.reconcile(rows, asked)
	if len(lost) == 0 {
		return nil
	}
	applied, err := a.db.Finish(ctx, lost)
	if len(applied) > 0 {
		a.log.Warn("released deliveries that were claimed for this Caddy without its knowing: the database's reply to the claim was lost", zap.Int("deliveries", len(applied)))
		a.lanes.refill(true)
	}
	return err
}

// survey looks at what is in the whole database. It takes over lanes that no live instance
// has, and warns of endpoints that none has.
func (a *active) survey(ctx context.Context) {
	config, counts := a.configs.current(), a.snapshot.get(ctx)
	if len(config) == 0 || counts.taken.IsZero() {
		return
	}
	a.announce(config, counts)
	var unfinished []db.Lane
	for lane := range counts.byLane {
		if counts.unfinished(lane) > 0 {
			unfinished = append(unfinished, lane)
		}
	}
	for _, endpoint := range a.peers.noteUnfinished(unfinished, time.Now()) {
		a.warnOfStranded(endpoint, unfinished, counts)
	}
	a.update()
	a.lanes.reconsider()
	for _, lane := range a.lanes.all() {
		if e := config[lane.Endpoint]; e != nil && counts.unfinished(lane.Lane) == 0 {
			tellHealth(e, Label(lane.Lane), lane.health.idle(counts.taken), nil)
		}
	}
}

// announce logs, once, what there is to deliver.
func (a *active) announce(config Config, counts counts) {
	if a.announced {
		return
	}
	a.announced = true
	var lanes []string
	var waiting, retrying int64
	for _, lane := range config.lanes() {
		lanes = append(lanes, Label(lane.Lane))
	}
	for _, states := range counts.byLane {
		waiting += states[db.Waiting]
		retrying += states[db.Retrying]
	}
	a.log.Info("queue is open", zap.Strings("lanes", lanes), zap.Int64("waiting", waiting), zap.Int64("retrying", retrying))
}

// warnOfStranded logs, once, that no live instance has an endpoint with unfinished
// deliveries.
func (a *active) warnOfStranded(endpoint string, unfinished []db.Lane, counts counts) {
	if a.warned[endpoint] {
		return
	}
	a.warned[endpoint] = true
	var n int64
	for _, lane := range unfinished {
		if lane.Endpoint == endpoint {
			n += counts.unfinished(lane)
		}
	}
	a.log.Warn("deliveries belong to an endpoint that no config has: give the queue its old name with `name`, or rename the endpoint in the database as docs/queue.md shows",
		zap.String("endpoint", endpoint), zap.Int64("deliveries", n))
}

// ready returns an error if no notification could be stored now.
func (a *active) ready() error {
	switch {
	case a.stopping.Load():
		return errStopping
	case a.book.full():
		return errNoMemory
	default:
		return a.contact.check(time.Now())
	}
}

// stop starts no further deliveries, releases all that have not begun, and returns when the
// running ones have ended. When the context ends it interrupts them; interrupted deliveries do
// not count as attempts.
func (a *active) stop(ctx context.Context) {
	a.stopping.Store(true)
	a.lanes.stop()
	ended := make(chan struct{})
	go func() {
		a.lanes.shared.delivering.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	a.interrupt(errStopping)
	select {
	case <-ended:
	case <-time.After(interruptTimeout):
		a.log.Error("deliveries did not end in time: the next process will make them again")
	}
}

// close stops storing, writes the last outcomes, and closes the database. It must be called
// after stop.
func (a *active) close() error {
	a.store.stop()
	a.lanes.shared.claiming.Wait()
	a.finisher.stop()
	a.cancel()
	a.interrupt(errStopping)
	a.running.Wait()
	return a.db.Close()
}
