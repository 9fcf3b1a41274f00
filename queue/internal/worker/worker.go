// Package worker stores notifications and delivers them, from one database for any number
// of handlers and configs.
package worker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/history"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// Worker stores and delivers the notifications of one database, for the configs that use it.
type Worker struct {
	database Database
	log      *zap.Logger

	active  atomic.Pointer[active] // nil while the database is not open
	openErr atomic.Pointer[error]  // why it is not

	ctx    context.Context // ends opening, and looking for the metrics
	cancel context.CancelFunc
	opener sync.WaitGroup

	mu      sync.RWMutex
	configs []Config // all that use the database: the last is the current one, the others are about to end
}

const (
	openTimeout     = 5 * time.Second // after which a config starts without its database
	reopenInterval  = time.Second
	reopenTimeout   = 2 * time.Minute
	destructTimeout = 10 * time.Second // for deliveries that Detach has not waited for
)

// New opens the database. It returns only errors that a person must fix. If the database
// cannot be reached, it keeps trying in the background.
func New(database Database) (*Worker, error) {
	w := &Worker{database: database, log: caddy.Log().Named("http.intercom_webhook.queues").With(zap.String("database", database.Name))}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(w.ctx, openTimeout)
	defer cancel()
	err := w.open(ctx)
	if db.IsPermanent(err) {
		w.cancel()
		return nil, err
	}
	if err != nil {
		w.openErr.Store(&err)
		w.log.Warn("the queue's database cannot be reached: notifications are answered 503 until it can", zap.Error(err))
		w.opener.Go(w.reopen)
	}
	sources.Store(w, w.collect)
	return w, nil
}

// open opens the database, and starts to store and to deliver.
func (w *Worker) open(ctx context.Context) error {
	database, err := w.database.Open(ctx, w.log)
	if err != nil {
		return err
	}
	a := newActive(database, w.log, w.Config, w.endpoint)
	if err := a.start(ctx); err != nil {
		return errors.Join(err, database.Close())
	}
	w.active.Store(a)
	a.configChanged()
	return nil
}

// reopen opens a database that could not be reached before, as soon as it can be reached.
func (w *Worker) reopen() {
	for logged := ""; ; {
		select {
		case <-w.ctx.Done():
			return
		case <-time.After(reopenInterval):
		}
		ctx, cancel := context.WithTimeout(w.ctx, reopenTimeout)
		err := w.open(ctx)
		cancel()
		if err == nil {
			w.log.Info("the queue's database can be reached")
			return
		}
		w.openErr.Store(&err)
		if db.IsPermanent(err) && logged != err.Error() {
			logged = err.Error()
			w.log.Error("the queue's database cannot be used: notifications are answered 503 until somebody fixes it", zap.Error(err))
		}
	}
}

// opened returns an error while the database is not open.
func (w *Worker) opened() (*active, error) {
	if a := w.active.Load(); a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("the database cannot be reached: %w", *w.openErr.Load())
}

// Attach delivers to the handlers of a config from now on.
func (w *Worker) Attach(config Config) {
	config.startCounters()
	w.mu.Lock()
	w.configs = append(w.configs, config)
	w.mu.Unlock()
	if a := w.active.Load(); a != nil {
		a.configChanged()
	}
}

// Detach removes the handlers of a config. If no other config uses the database, no further delivery
// starts, and Detach waits for the running ones until the context ends.
func (w *Worker) Detach(ctx context.Context, config Config) {
	w.mu.Lock()
	last := len(w.configs) <= 1 // it stays: the running deliveries need it
	if !last {
		w.configs = slices.DeleteFunc(w.configs, func(other Config) bool { return maps.Equal(other, config) })
	}
	w.mu.Unlock()
	if last {
		w.stop(ctx)
		w.mu.Lock()
		w.configs = nil
		w.mu.Unlock()
	} else if a := w.active.Load(); a != nil { // the config before is the current one again if a start has failed
		a.updateLanes(nil)
		wake(a.surveyNow)
	}
}

// stop stops delivering. A database that is not open is not opened any more.
func (w *Worker) stop(ctx context.Context) {
	w.cancel()
	w.opener.Wait()
	if a := w.active.Load(); a != nil {
		a.stop(ctx)
	}
}

// Destruct implements caddy.Destructor. It stops storing and delivering, writes the last
// outcomes, and closes the database.
func (w *Worker) Destruct() error {
	sources.Delete(w)
	ctx, cancel := context.WithTimeout(context.Background(), destructTimeout)
	defer cancel()
	w.stop(ctx)
	if a := w.active.Load(); a != nil {
		return a.close()
	}
	return nil
}

// Store stores a notification and its copies, and returns once they are durable.
func (w *Worker) Store(r *http.Request, e *Endpoint, n intercomwebhook.Notification) (intercomwebhook.Stored, error) {
	a, err := w.opened()
	if err != nil {
		return 0, err
	}
	deliveries := newDeliveries(n)
	if len(deliveries) == 0 {
		return intercomwebhook.StoredNew, nil
	}
	a.tracing.arrived(r.Context())
	stored := &db.NewNotification{
		Notification: &db.Notification{
			Endpoint: e.Name, Workspace: n.Workspace, Topic: n.Topic, NotificationID: n.ID,
			ReceivedAt: time.Now().UTC(), Request: newRequest(r), Body: n.Body,
		},
		Deliveries: deliveries,
	}
	if n.Once != "" && !n.CopiesOnly {
		stored.Once = newOnce(e.Name, n)
	}
	e.describe(stored)
	result, err := a.store.insert(r.Context(), stored)
	switch {
	case err != nil || result.Duplicate:
		return intercomwebhook.StoredDuplicate, err
	case result.Twin:
		deliveries = deliveries[1:]
	}
	for _, d := range deliveries {
		history.Lane(Label(db.Lane{Endpoint: e.Name, Name: d.Lane})).Count(time.Now(), history.Accepted)
	}
	if result.Twin {
		return intercomwebhook.StoredTwin, nil
	}
	return intercomwebhook.StoredNew, nil
}

// newOnce returns what makes twins of a notification. The key is a hash, so that nothing of a body stays in
// the database when it is erased.
func newOnce(endpoint string, n intercomwebhook.Notification) db.Once {
	of := fmt.Appendf(nil, "%q %q %q %q", endpoint, n.Lane, n.Workspace, n.Once)
	return db.Once{Key: fmt.Sprintf("%x", sha256.Sum256(of)), Within: n.OnceWithin}
}

// newDeliveries returns the deliveries of a notification. One that fits no route goes to
// UnroutedLane, unless it is for copies only.
func newDeliveries(n intercomwebhook.Notification) []db.NewDelivery {
	deliveries := make([]db.NewDelivery, 0, 1+len(n.Copies))
	if !n.CopiesOnly {
		deliveries = append(deliveries, db.NewDelivery{Lane: cmp.Or(n.Lane, UnroutedLane)})
	}
	for _, lane := range n.Copies {
		deliveries = append(deliveries, db.NewDelivery{Lane: lane, Fixed: true})
	}
	return deliveries
}

// Ready returns an error that says why no notification could be stored now: the last
// commit or heartbeat is older than 10 s, or something since has failed. It does not wait.
func (w *Worker) Ready() error {
	a, err := w.opened()
	if err != nil {
		return err
	}
	return a.ready()
}

// Database returns where the database is.
func (w *Worker) Database() Database { return w.database }

// DB returns the database, or an error while it is not open.
func (w *Worker) DB() (db.DB, error) {
	a, err := w.opened()
	if err != nil {
		return nil, err
	}
	return a.db, nil
}

// Config returns the config that was attached last; nil if there is none.
func (w *Worker) Config() Config {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if len(w.configs) == 0 {
		return nil
	}
	return w.configs[len(w.configs)-1]
}

// endpoint returns an endpoint of the current config or else of an older one; nil if no
// config has it.
func (w *Worker) endpoint(name string) (e *Endpoint) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	for _, config := range w.configs {
		if config[name] != nil {
			e = config[name]
		}
	}
	return e
}

// Lanes returns the status of all lanes of an endpoint, or of all endpoints for an empty name: those
// of the config, in the order of the routes, and all others that have deliveries, or that another
// live instance works on. The numbers are as of now; if the database does not answer in time, they are
// the last known ones, and there is an error, too.
func (w *Worker) Lanes(ctx context.Context, endpoint string) ([]LaneStatus, error) {
	a, err := w.opened()
	if err != nil {
		return nil, err
	}
	counts, err := a.counter.count(ctx)
	if err != nil {
		err = fmt.Errorf("the database has not counted what waits, so the numbers are old: %w", err)
	}
	return statuses(endpoint, w.Config(), counts, a.lanes, a.peers.lanes()), err
}

// collect returns the lanes of the config's endpoints, for the metrics.
func (w *Worker) collect() []LaneStatus {
	config := w.Config()
	all, _ := w.Lanes(w.ctx, "") // there are none while the database is not open
	return slices.DeleteFunc(all, func(status LaneStatus) bool { return config[status.Lane.Endpoint] == nil })
}

// Instances returns the live instances that share the database, this one first.
func (w *Worker) Instances() ([]db.Presence, error) {
	a, err := w.opened()
	if err != nil {
		return nil, err
	}
	self := w.Config().presence()
	self.Instance = a.db.Instance()
	return append([]db.Presence{self}, a.peers.others()...), nil
}

// SetPaused pauses or resumes lanes: on this instance at once, on others within two seconds.
func (w *Worker) SetPaused(ctx context.Context, lanes []db.Lane, paused bool) error {
	a, err := w.opened()
	if err != nil {
		return err
	}
	for _, lane := range lanes {
		if err := a.db.SetPaused(ctx, lane, paused); err != nil {
			return err
		}
	}
	return a.lanes.applyPauses(ctx)
}

// Changed must be called when a person has changed deliveries: it makes this instance claim what
// was put back, and drop what was deleted, soon. It does not wait.
func (w *Worker) Changed() {
	if a := w.active.Load(); a != nil {
		wake(a.reconcileNow)
		a.lanes.refill(true)
	}
}

// AnswerTime returns about how long Intercom waits for answers now; near 0 if none is given.
// Whoever loads the database for other reasons pauses for longer while it is high.
func (w *Worker) AnswerTime() time.Duration {
	if a := w.active.Load(); a != nil {
		return a.pacer.answerTime()
	}
	return 0
}

// Now returns the time by the database's clock, about; by this process's while the database is
// not open.
func (w *Worker) Now() time.Time {
	if a := w.active.Load(); a != nil {
		return a.peers.now()
	}
	return time.Now()
}

// Interface guard
var _ caddy.Destructor = (*Worker)(nil)
