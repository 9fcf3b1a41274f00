package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// dispatchers has the dispatchers in use, by the key of their location.
var dispatchers = caddy.NewUsagePool()

// dispatcher stores notifications in one database and delivers them from it, as long as
// any config uses that database. After a reload it delivers to the handlers of the new
// config.
type dispatcher struct {
	location location
	store    *store
	held     *heldJobs
	finisher *finisher
	stats    stats
	tracing  tracing
	prober   prober

	db      jobdb.DB              // must be used only when ready returns nil
	openErr atomic.Pointer[error] // why there is no db; nil if there is one

	ctx     context.Context // ends all background tasks
	cancel  context.CancelFunc
	running sync.WaitGroup

	claiming sync.WaitGroup // the goroutines in which lanes claim

	// deliveries are the goroutines that deliver. giveUp ends their context.
	deliveries sync.WaitGroup
	deliverCtx context.Context
	giveUp     context.CancelCauseFunc
	stopping   atomic.Bool

	mu          sync.RWMutex
	attachments []attachments // of all configs that use the database; the last config is the current one
	configEnded chan struct{} // closed when the current config is replaced, or no longer uses the database
	lanes       map[string]*lane
	orphans     map[string]time.Time // since when no live instance has a lane, by River queue
	fleet       jobdb.Fleet          // the other instances, as of fleetAsked
	fleetAsked  time.Time
	paused      map[string]bool // River queues
	warned      map[string]bool // endpoints that a warning was logged for; only findOrphans uses it, without mu

	fleetAsking  sync.Mutex // for refreshFleet
	pausing      sync.Mutex // for applyPauses
	heartbeat    heartbeat
	clock        *clock
	heartbeatNow chan struct{} // makes sendHeartbeats send one at once
	lanesNow     chan struct{} // makes maintainLanes run at once
}

// attachments are the handlers of one config that use the database, by endpoint name.
type attachments map[string]*attachment

const (
	// openTimeout bounds how long a config waits for its database. If the database cannot
	// be reached in this time, the config starts without it.
	openTimeout = 5 * time.Second

	// How often to try again to open a database that could not be reached, and how long
	// each try may take.
	reopenInterval = time.Second
	reopenTimeout  = 2 * time.Minute

	// giveUpTimeout is how long deliveries may take to end after their context has ended.
	giveUpTimeout = 5 * time.Second

	// flushTimeout bounds how long closing the queue waits until the last outcomes are
	// written.
	flushTimeout = 5 * time.Second
)

var errStopping = errors.New("stopping")

// newDispatcher opens the database. It returns only errors that a person must fix. If the
// database cannot be reached, newDispatcher keeps trying to open it in the background.
func newDispatcher(at location) (*dispatcher, error) {
	d := &dispatcher{
		location:     at,
		held:         newHeldJobs(),
		clock:        newClock(),
		lanes:        make(map[string]*lane),
		orphans:      make(map[string]time.Time),
		warned:       make(map[string]bool),
		configEnded:  make(chan struct{}),
		heartbeatNow: make(chan struct{}, 1),
		lanesNow:     make(chan struct{}, 1),
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.deliverCtx, d.giveUp = context.WithCancelCause(context.Background())
	d.store = newStore(d)
	d.finisher = newFinisher(d)

	ctx, cancel := context.WithTimeout(d.ctx, openTimeout)
	defer cancel()
	err := d.open(ctx)
	if jobdb.IsPermanent(err) {
		d.cancel()
		d.giveUp(nil)
		return nil, err
	}
	if err != nil {
		d.openErr.Store(&err)
		d.log().Warn("the queue's database cannot be reached: notifications are answered 503 until it can", zap.String("database", at.name), zap.Error(err))
		d.running.Go(d.reopen)
	}
	return d, nil
}

func (d *dispatcher) log() *zap.Logger { return caddy.Log().Named(loggerName) }

// open opens the database, and starts the background tasks.
func (d *dispatcher) open(ctx context.Context) error {
	db, err := d.location.open(ctx)
	if err != nil {
		return err
	}
	d.db = db
	d.openErr.Store(nil)
	d.sendHeartbeat(ctx) // nothing is claimed before the first heartbeat
	for _, task := range []func(context.Context){d.sendHeartbeats, d.reconcileHeld, d.maintainLanes, d.expireFinished, d.reclock} {
		d.running.Go(func() { task(d.ctx) })
	}
	d.finisher.start()
	d.store.start(committers)
	return nil
}

// reopen opens a database that could not be reached before, as soon as it can be reached.
func (d *dispatcher) reopen() {
	logged := ""
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-time.After(reopenInterval):
		}
		ctx, cancel := context.WithTimeout(d.ctx, reopenTimeout)
		err := d.open(ctx)
		cancel()
		if err == nil {
			d.log().Info("the queue's database can be reached", zap.String("database", d.location.name))
			d.updateLanes()
			return
		}
		d.openErr.Store(&err)
		if jobdb.IsPermanent(err) && logged != err.Error() {
			logged = err.Error()
			d.log().Error("the queue's database cannot be used: notifications are answered 503 until somebody fixes it", zap.String("database", d.location.name), zap.Error(err))
		}
	}
}

// ready returns an error if the database is not open yet.
func (d *dispatcher) ready() error {
	if err := d.openErr.Load(); err != nil {
		return fmt.Errorf("the database cannot be reached: %w", *err)
	}
	return nil
}

// attach delivers to the handlers of a config from now on. The other instances know of the
// config before anything is stored with it, if they can.
func (d *dispatcher) attach(set attachments) {
	d.mu.Lock()
	d.attachments = append(d.attachments, set)
	d.endConfig()
	d.mu.Unlock()
	if d.ready() == nil {
		ctx, cancel := context.WithTimeout(d.ctx, maintenanceTimeout)
		defer cancel()
		_ = d.exchangePresence(ctx) // if it fails, sendHeartbeats logs it
	}
	d.updateLanes()
}

// detach removes the handlers of a config. If no other config uses the database, no
// further delivery starts, and detach waits for the running ones until the context ends.
func (d *dispatcher) detach(ctx context.Context, set attachments) {
	d.mu.Lock()
	last := len(d.attachments) == 1
	if maps.Equal(d.attachments[len(d.attachments)-1], set) {
		d.endConfig()
	}
	if !last {
		d.attachments = slices.DeleteFunc(d.attachments, func(other attachments) bool { return maps.Equal(other, set) })
	}
	d.mu.Unlock()
	if last {
		d.stopDelivering(ctx)
	} else {
		d.updateLanes()
	}
}

// endConfig ends what whileConfigRuns has returned. The caller must hold mu.
func (d *dispatcher) endConfig() {
	close(d.configEnded)
	d.configEnded = make(chan struct{})
}

// errConfigChanged is the cause for the end of a context of whileConfigRuns.
var errConfigChanged = errors.New("the config has changed: run it again to go on")

// whileConfigRuns returns a context that also ends when the current config does. Caddy waits
// for requests of an admin endpoint when it replaces the config, so they must end by
// themselves.
func (d *dispatcher) whileConfigRuns(ctx context.Context) (context.Context, context.CancelFunc) {
	d.mu.RLock()
	ended := d.configEnded
	d.mu.RUnlock()
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-ended:
			cancel(errConfigChanged)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// stopDelivering starts no further deliveries, releases all jobs whose delivery has not
// started, and returns when the running deliveries have ended. When the context ends it
// interrupts them; interrupted deliveries do not count as attempts.
func (d *dispatcher) stopDelivering(ctx context.Context) {
	d.mu.Lock()
	d.stopping.Store(true) // under the lock, so that updateLanes makes no lane that is not retired here
	d.mu.Unlock()
	for _, lane := range d.allLanes() {
		lane.retire()
	}
	ended := make(chan struct{})
	go func() {
		d.deliveries.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	d.giveUp(errStopping)
	select {
	case <-ended:
	case <-time.After(giveUpTimeout):
		d.log().Error("deliveries did not end in time: the next process will make them again", zap.String("database", d.location.name))
	}
}

// Destruct implements caddy.Destructor. It stops storing and delivering, writes the last
// outcomes, and closes the database.
func (d *dispatcher) Destruct() error {
	if !d.stopping.Load() {
		d.stopDelivering(context.Background())
	}
	d.store.stop()
	d.prober.close()
	d.claiming.Wait()
	d.finisher.stop()
	d.cancel()
	d.giveUp(errStopping)
	d.running.Wait()
	if d.db == nil {
		return nil
	}
	return d.db.Close()
}

// current returns the handlers of the config that was attached last; nil if there is none.
func (d *dispatcher) current() attachments {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if len(d.attachments) == 0 {
		return nil
	}
	return d.attachments[len(d.attachments)-1]
}

// attachmentFor returns the handler that a River queue belongs to, or nil if no config that
// uses the database has it.
func (d *dispatcher) attachmentFor(queue string) *attachment {
	name, _ := splitRiverQueue(queue)
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, set := range slices.Backward(d.attachments) { // the current config first, then older ones that are about to end
		if a := set.owner(name); a != nil {
			return a
		}
	}
	return nil
}

// owner returns the handler of an endpoint, or else the one that has adopted it; nil if
// there is neither.
func (s attachments) owner(endpoint string) *attachment {
	if a := s[endpoint]; a != nil {
		return a
	}
	for _, a := range s {
		if a.options.delivers(endpoint) {
			return a
		}
	}
	return nil
}

// every calls do once per interval, and each time it can read from now, until the context
// ends.
func every(ctx context.Context, interval time.Duration, now <-chan struct{}, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-now:
		}
		do()
	}
}

// Interface guard
var _ caddy.Destructor = (*dispatcher)(nil)
