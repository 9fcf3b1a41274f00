package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// active is a worker whose database is open. It has the parts, and runs their tasks.
type active struct {
	db        db.DB
	log       *zap.Logger
	config    func() Config // the current one
	book      *book
	pacer     *pacer
	store     *store
	lanes     *lanes
	finisher  *finisher
	deliverer *deliverer
	peers     *peers
	counter   *counter
	contact   atomic.Pointer[contact]
	tracing   tracing

	interrupt context.CancelCauseFunc // ends the context of all running deliveries

	running sync.WaitGroup // the tasks
	ctx     context.Context
	cancel  context.CancelFunc // ends the tasks

	reconcileNow, surveyNow chan<- struct{} // make a task run at once

	failing       bool      // the last heartbeat has failed; only for heartbeat
	expireFailing bool      // only for expire
	expiredAll    time.Time // likewise: when it last looked at all that is finished
	announced     bool      // only for survey
}

const (
	reconcileInterval = 2 * time.Second
	pausesInterval    = time.Second
	surveyInterval    = 10 * time.Second
	retentionInterval = 10 * time.Second
	taskTimeout       = 5 * time.Second // for a task that runs once per interval

	expiryRows    = 500 // that are deleted at once
	expiryTimeout = 10 * time.Second

	expireAllInterval = time.Hour // for what was moved here, which has older times than its neighbours
	answerTimes       = 4         // a pause between two deletions is at least so many times as long as an answer takes

	interruptTimeout = 5 * time.Second  // for deliveries to end after their context has ended
	contactAge       = 10 * time.Second // of the last sign of the database, while a notification could be stored
)

var errNoContact = errors.New("the database has not answered for 10 s")

func newActive(database db.DB, log *zap.Logger, config func() Config, endpoint func(string) *Endpoint) *active {
	a := &active{db: database, log: log, config: config, book: newBook(), pacer: newPacer()}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	deliverCtx, interrupt := context.WithCancelCause(context.Background())
	a.interrupt = interrupt
	a.peers = &peers{db: database, config: config}
	a.finisher = &finisher{db: database, log: log, written: a.written}
	a.deliverer = &deliverer{ctx: deliverCtx, instance: database.Instance(), endpoint: endpoint, peers: a.peers, tracing: &a.tracing}
	a.deliverer.interruptOrdered()
	a.lanes = &lanes{byName: make(map[db.Lane]*lane), shared: &laneParts{
		db: database, log: log, book: a.book, pacer: a.pacer, deliver: a.deliverer.deliver, finish: a.finisher.finish, mayDeliver: a.mayDeliver, sharing: a.peers.sharing,
	}}
	a.store = newStore(database, a.book, a.pacer, a.lanes.get, a.noteContact)
	a.counter = &counter{db: database, config: config, busy: semaphore.NewWeighted(1)}
	return a
}

// start starts the tasks. Nothing is claimed before the first heartbeat, and nothing of a
// paused lane.
func (a *active) start(ctx context.Context) error {
	if err := a.lanes.applyPauses(ctx); err != nil {
		return err
	}
	a.heartbeat(ctx)
	a.every(heartbeatInterval, a.heartbeat)
	a.reconcileNow = a.every(reconcileInterval, func(ctx context.Context) { _ = a.reconcile(ctx) }) // heartbeat logs that the database is away
	a.surveyNow = a.every(surveyInterval, a.survey)
	a.every(pausesInterval, func(ctx context.Context) { _ = a.lanes.applyPauses(ctx) })
	a.every(retentionInterval, func(context.Context) { a.expire() })
	a.every(paceWindow, func(context.Context) {
		if a.pacer.adjust(time.Now()) {
			a.lanes.refill(false)
		}
	})
	a.finisher.now = a.every(finishRetry, a.finisher.write)
	a.store.start(committers)
	return nil
}

// every runs a task once per interval, and when now is woken, until close.
func (a *active) every(interval time.Duration, task func(context.Context)) (now chan<- struct{}) {
	woken := make(chan struct{}, 1)
	a.running.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-a.ctx.Done():
				return
			case <-ticker.C:
			case <-woken:
			}
			ctx, cancel := context.WithTimeout(a.ctx, taskTimeout)
			task(ctx)
			cancel()
		}
	})
	return woken
}

// configChanged makes this instance work on the lanes of the current config. The others know of
// the config before anything is stored with it, if they can.
func (a *active) configChanged() {
	if len(a.config()) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(a.ctx, taskTimeout)
	defer cancel()
	_ = a.peers.exchange(ctx) // if it fails, heartbeat logs it
	a.updateLanes(nil)
	wake(a.surveyNow) // takes over what no config has any more
}

// updateLanes makes this instance work on the lanes of the current config, and on others of its
// endpoints that it takes over.
func (a *active) updateLanes(takeOver []db.Lane) {
	config := a.config()
	wanted := make(map[db.Lane]*LaneOptions)
	for _, lane := range takeOver {
		if e := config[lane.Endpoint]; e != nil {
			wanted[lane] = e.lane(lane.Name)
		}
	}
	for _, lane := range config.lanes() {
		wanted[lane.Lane] = lane.options
	}
	a.lanes.update(wanted)
}

// mayDeliver reports whether deliveries may start. They may not while the heartbeat is late, because
// other instances may take over what this one holds, nor while outcomes cannot be written.
func (a *active) mayDeliver() bool {
	return !a.lanes.stopped.Load() && !a.peers.late() && !a.finisher.behind()
}

// written removes deliveries whose outcomes are written from the book. Their lanes may go on,
// and claim what was released, or has its turn now.
func (a *active) written(deliveries []*delivery) {
	a.book.remove(deliveries)
	released := make(map[*lane]bool)
	for _, d := range deliveries {
		released[d.lane] = released[d.lane] || d.outcome.State == db.Waiting || d.ordered
	}
	for lane, more := range released {
		lane.refill(more)
	}
}

// heartbeat sends one heartbeat. It logs when that begins to fail and when it succeeds again.
// Then it takes over what instances that are gone have left.
func (a *active) heartbeat(ctx context.Context) {
	late, sent := a.peers.late(), time.Now()
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
	a.noteContact(err)
	if err != nil {
		if a.peers.late() {
			a.deliverer.interruptOrdered()
		}
		return
	}
	a.peers.onTime.Store(&sent)
	released, err := a.db.TakeOver(ctx)
	if err != nil {
		a.log.Debug("taking over from instances that are gone failed, and will be tried again", zap.Error(err))
	} else if released > 0 {
		a.log.Warn("took over the deliveries of an instance that is gone", zap.Int64("deliveries", released))
	}
	if late || released > 0 {
		a.lanes.refill(true) // this also starts the deliveries that had to wait
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

// survey looks at what is in the whole database, and logs it once. It takes over lanes that no live
// instance has, and claims again what lanes have left to other instances.
func (a *active) survey(ctx context.Context) {
	config := a.config()
	counts, err := a.counter.count(ctx)
	if err != nil || len(config) == 0 {
		return // heartbeat logs that the database is away
	}
	var waiting, retrying int64
	for _, states := range counts.byLane {
		waiting += states[db.Waiting].Count
		retrying += states[db.Retrying].Count
	}
	a.updateLanes(a.peers.orphaned(counts.working, time.Now()))
	var labels []string
	for _, lane := range a.lanes.all() {
		labels = append(labels, Label(lane.Lane))
		lane.reconsider()
		if e := config[lane.Endpoint]; e != nil && !slices.Contains(counts.working, lane.Lane) {
			tellHealth(e, lane.Name, lane.health.idle(counts.taken))
		}
	}
	if !a.announced {
		a.announced = true
		slices.Sort(labels)
		a.log.Info("queue is open", zap.Strings("lanes", labels), zap.Int64("waiting", waiting), zap.Int64("retrying", retrying))
	}
}

// expire deletes what is no longer kept of all endpoints. It logs when that begins to fail.
func (a *active) expire() {
	var err error
	all := time.Since(a.expiredAll) > expireAllInterval
	if all {
		a.expiredAll = time.Now()
	}
	for name, e := range a.config() {
		expiry := db.Expiry{Endpoint: name, KeepDelivered: e.Options.KeepDelivered, KeepDead: e.Options.KeepDead, Limit: expiryRows, All: all}
		for more := true; more && err == nil; more = expiry.Cursor != 0 {
			began := time.Now()
			ctx, cancel := context.WithTimeout(a.ctx, expiryTimeout)
			_, expiry.Cursor, err = a.db.Expire(ctx, expiry)
			cancel()
			select { // so that storing and delivering are not slowed down
			case <-time.After(max(time.Since(began), answerTimes*a.pacer.answerTime())):
			case <-a.ctx.Done():
				return
			}
		}
	}
	if err != nil && !a.expireFailing {
		a.log.Error("what is no longer kept could not be deleted; this will be tried again", zap.Error(err))
	}
	a.expireFailing = err != nil
}

// contact is the last commit or heartbeat, or its failure.
type contact struct {
	at  time.Time
	err error
}

func (a *active) noteContact(err error) { a.contact.Store(&contact{time.Now(), err}) }

// ready returns an error if no notification could be stored now.
func (a *active) ready() error {
	last := a.contact.Load()
	switch {
	case a.lanes.stopped.Load():
		return errStopping
	case last.err != nil:
		return fmt.Errorf("the database: %w", last.err)
	case time.Since(last.at) > contactAge:
		return errNoContact
	default:
		return nil
	}
}

// stop starts no further deliveries, releases all that have not begun, and returns when the
// running ones have ended. When the context ends it interrupts them; interrupted deliveries do
// not count as attempts.
func (a *active) stop(ctx context.Context) {
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
	a.cancel()
	a.interrupt(errStopping)
	a.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), taskTimeout)
	defer cancel()
	a.finisher.write(ctx)
	return a.db.Close()
}
