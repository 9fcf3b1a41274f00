package queue

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// engines has those in use, by database.
var engines = caddy.NewUsagePool()

// engine stores into one database and delivers from it, for as long as any config
// uses it. A reload only changes what it delivers to.
type engine struct {
	name   string // of the database, for people
	db     database
	store  *store
	client client // nil until the first config is started

	ctx     context.Context // of all that runs on the side
	cancel  context.CancelFunc
	running sync.WaitGroup
	relane  chan struct{} // asks for the lanes to be set anew

	mu        sync.RWMutex
	endpoints []endpoints // of the configs that run, of which the last one counts
	healths   map[string]*laneHealth
	census    census

	lanes map[string]int // workers by River queue; only for the one who sets them
}

// endpoints are those of one config, by name.
type endpoints map[string]*endpoint

const (
	// A lane looks for news so often, at most and at least, besides being told.
	fetchCooldown     = 10 * time.Millisecond
	fetchPollInterval = 500 * time.Millisecond

	// janitorInterval is how often what is no longer kept is erased, and lanes that
	// vanished from the config are looked for.
	janitorInterval = 10 * time.Second

	// openTimeout bounds how long a config waits for its database.
	openTimeout = 30 * time.Second

	// cancelTimeout is how long deliveries may take to end that were told to.
	cancelTimeout = 5 * time.Second
)

// Destruct implements caddy.Destructor: it closes the database, once nobody stores or
// delivers any more.
func (e *engine) Destruct() error {
	e.store.stop()
	e.stopDelivering(context.Background())
	return e.db.close()
}

func newEngine(name string, db database, committers int) *engine {
	e := &engine{
		name:    name,
		db:      db,
		store:   newStore(db.insert, committers),
		relane:  make(chan struct{}, 1),
		healths: make(map[string]*laneHealth),
		lanes:   make(map[string]int),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// use makes the endpoints those to deliver to, and starts to deliver if no config did
// before.
func (e *engine) use(set endpoints) error {
	e.mu.Lock()
	e.endpoints = append(e.endpoints, set)
	e.mu.Unlock()
	if e.client != nil {
		e.askForLanes()
		return nil
	}
	ctx, cancel := context.WithTimeout(e.ctx, openTimeout)
	defer cancel()
	recovered, err := e.db.recover(ctx)
	if err != nil {
		return fmt.Errorf("taking up what was interrupted: %w", err)
	}
	if err := e.start(ctx); err != nil {
		return err
	}
	caddy.Log().Named(loggerName).Info("delivering from the queue", zap.String("database", e.name),
		zap.Strings("lanes", slices.Sorted(maps.Keys(e.lanes))), zap.Int64("interrupted", recovered))
	for _, task := range []func(context.Context){e.db.keepUp, e.keepLanes, e.keepHouse} {
		e.running.Go(func() { task(e.ctx) })
	}
	return nil
}

func (e *engine) start(ctx context.Context) error {
	workers := river.NewWorkers()
	river.AddWorker(workers, &deliverer{engine: e})
	var err error
	if e.lanes, err = e.wantedLanes(ctx); err != nil {
		return err
	}
	queues := make(map[string]river.QueueConfig)
	for queue, n := range e.lanes {
		queues[queue] = river.QueueConfig{MaxWorkers: n}
	}
	client, err := e.db.newClient(&river.Config{
		CancelledJobRetentionPeriod: -1, // keepHouse does this, by the running config
		CompletedJobRetentionPeriod: -1,
		DiscardedJobRetentionPeriod: -1,
		FetchCooldown:               fetchCooldown,
		FetchPollInterval:           fetchPollInterval,
		JobTimeout:                  -1, // the deliverer's counts
		Logger:                      newRiverLogger(),
		Queues:                      queues,
		ReindexerSchedule:           river.NeverSchedule(),
		RescueStuckJobsAfter:        2 * time.Hour, // longer than any delivery; database.recover comes long before
		Workers:                     workers,
	})
	if err != nil {
		return err
	}
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("starting to deliver: %w", err)
	}
	e.client = client
	return nil
}

// leave takes endpoints out that use has put in. If there are no others, it ends
// deliveries instead, which need them to their end: those that run have until the
// context ends.
func (e *engine) leave(ctx context.Context, set endpoints) {
	e.mu.Lock()
	last := len(e.endpoints) == 1
	if !last {
		e.endpoints = slices.DeleteFunc(e.endpoints, func(other endpoints) bool { return maps.Equal(other, set) })
	}
	e.mu.Unlock()
	if last {
		e.stopDelivering(ctx)
	} else {
		e.askForLanes()
	}
}

func (e *engine) stopDelivering(ctx context.Context) {
	e.cancel()
	e.running.Wait()
	if e.client == nil {
		return
	}
	if err := e.client.Stop(ctx); err != nil {
		// those that still run are ended, and will be delivered by the next process
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
		defer cancel()
		if err := e.client.StopAndCancel(ctx); err != nil {
			caddy.Log().Named(loggerName).Error("deliveries could not be stopped", zap.Error(err))
		}
	}
	e.client = nil
}

// current returns the endpoints of the running config.
func (e *engine) current() endpoints {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if len(e.endpoints) == 0 {
		return nil
	}
	return e.endpoints[len(e.endpoints)-1]
}

// endpoint returns the endpoint of a River queue, or nil if the running config does
// not have it.
func (e *engine) endpoint(queue string) *endpoint {
	name, _ := splitRiverQueue(queue)
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, set := range slices.Backward(e.endpoints) { // an older config while it ends
		if endpoint := set[name]; endpoint != nil {
			return endpoint
		}
	}
	return nil
}

func (e *engine) health(queue string) *laneHealth {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.healths[queue] == nil {
		e.healths[queue] = new(laneHealth)
	}
	return e.healths[queue]
}

func (e *engine) askForLanes() {
	select {
	case e.relane <- struct{}{}:
	default: // it is asked for already
	}
}

// wantedLanes returns the River queues to work on, with their workers: those of the
// running config, and those that it does not have any more but that are not yet
// empty.
func (e *engine) wantedLanes(ctx context.Context) (map[string]int, error) {
	wanted := make(map[string]int)
	current := e.current()
	for name, endpoint := range current {
		for _, lane := range append(endpoint.target.Lanes(), unroutedLane) {
			wanted[riverQueue(name, lane)] = endpoint.options.workers(lane)
		}
	}
	counts, err := e.db.count(ctx)
	if err != nil {
		return nil, fmt.Errorf("counting what is stored: %w", err)
	}
	for _, c := range counts {
		name, lane := splitRiverQueue(c.queue)
		if endpoint := current[name]; endpoint != nil && wanted[c.queue] == 0 && unfinished(c.state) {
			wanted[c.queue] = endpoint.options.workers(lane)
		}
	}
	return wanted, nil
}

// keepLanes adds, changes and removes lanes while all others are at work. Removing
// one waits for its deliveries, so this is not done while a config is loaded.
func (e *engine) keepLanes(ctx context.Context) {
	every(ctx, janitorInterval, e.relane, func() {
		if err := e.setLanes(ctx); err != nil && ctx.Err() == nil {
			caddy.Log().Named(loggerName).Error("lanes could not be set up, and will be tried again", zap.Error(err))
			time.AfterFunc(time.Second, e.askForLanes)
		}
	})
}

func (e *engine) setLanes(ctx context.Context) error {
	wanted, err := e.wantedLanes(ctx)
	if err != nil {
		return err
	}
	for queue, n := range wanted { // first those that nobody works on
		if e.lanes[queue] == 0 {
			if err := e.addLane(queue, n); err != nil {
				return err
			}
		}
	}
	for queue, n := range e.lanes {
		if wanted[queue] == n {
			continue
		}
		if err := e.client.Queues().Remove(ctx, queue); err != nil {
			return fmt.Errorf("stopping lane %s: %w", queue, err)
		}
		delete(e.lanes, queue)
		if wanted[queue] > 0 {
			if err := e.addLane(queue, wanted[queue]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *engine) addLane(queue string, workers int) error {
	if err := e.client.Queues().Add(queue, river.QueueConfig{MaxWorkers: workers}); err != nil {
		return fmt.Errorf("starting lane %s: %w", queue, err)
	}
	e.lanes[queue] = workers
	return nil
}

// keepHouse erases what is no longer kept.
func (e *engine) keepHouse(ctx context.Context) {
	every(ctx, janitorInterval, nil, func() {
		if err := e.erase(ctx); err != nil && ctx.Err() == nil {
			caddy.Log().Named(loggerName).Error("what is no longer kept could not be erased, and will be tried again", zap.Error(err))
		}
	})
}

// every does something time and again, and when it is asked for, until the context ends.
func every(ctx context.Context, interval time.Duration, asked <-chan struct{}, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-asked:
		}
		do()
	}
}

func (e *engine) erase(ctx context.Context) error {
	counts, err := e.db.count(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	for name, endpoint := range e.current() {
		var queues []string
		for _, c := range counts {
			if owner, _ := splitRiverQueue(c.queue); owner == name && !unfinished(c.state) && !slices.Contains(queues, c.queue) {
				queues = append(queues, c.queue)
			}
		}
		for n := portion; n == portion && len(queues) > 0; {
			dead := now.Add(-time.Duration(endpoint.options.KeepDead))
			n, err = e.db.executor().JobDeleteBefore(ctx, &riverdriver.JobDeleteBeforeParams{
				CancelledDoDelete: true, CancelledFinalizedAtHorizon: dead,
				CompletedDoDelete: true, CompletedFinalizedAtHorizon: now.Add(-time.Duration(endpoint.options.KeepDelivered)),
				DiscardedDoDelete: true, DiscardedFinalizedAtHorizon: dead,
				Max:            portion,
				QueuesIncluded: queues,
				Schema:         e.db.schema(),
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
