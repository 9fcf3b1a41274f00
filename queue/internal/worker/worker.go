// Package worker stores notifications and delivers them, from one database for any number
// of handlers and configs.
package worker

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// Database says where a database is, and how to open it.
type Database struct {
	Key  string // equal for equal databases; may have a password in it
	Name string // for logs and errors; without user and password
	Open func(context.Context, *zap.Logger) (db.DB, error)

	// Join opens the database to move notifications into it, while a Caddy may use it.
	Join func(context.Context, *zap.Logger) (db.Joined, error)
}

// Endpoint is a handler with its queue.
type Endpoint struct {
	Name    string
	Handler intercomwebhook.Endpoint
	Options Options
	Logger  *zap.Logger
	Events  *events.Emitter
}

// Options are the options of a queue.
type Options struct {
	DeliveryTimeout time.Duration
	MaxAge          time.Duration
	MaxAttempts     int // 0: there is no limit
	KeepDelivered   time.Duration
	KeepDead        time.Duration
	Workers         int
	LaneWorkers     map[string]int // by lane; Workers for all others
}

// Config are the endpoints of a config that use the database, by name.
type Config map[string]*Endpoint

// UnroutedLane is the lane of notifications that fit no route when they arrive. Every
// instance works on it, whatever its routes are, so no route or copy may have it.
const UnroutedLane = "unrouted"

// DefaultEndpoint is the name of an endpoint that the config does not name. The labels of
// its lanes are their names.
const DefaultEndpoint = "intercom"

// Label returns the name of a lane in metrics and logs: endpoint|lane, or the lane alone for
// the default endpoint.
func Label(lane db.Lane) string {
	if lane.Endpoint == DefaultEndpoint {
		return lane.Name
	}
	return lane.Endpoint + "|" + lane.Name
}

// Worker stores and delivers the notifications of one database.
type Worker struct {
	database Database
}

var errNotWritten = errors.New("not written yet")

// New opens the database. It returns only errors that a person must fix. If the database
// cannot be reached, it keeps trying in the background.
func New(database Database) (*Worker, error) { return nil, errNotWritten }

// Attach delivers to the handlers of a config from now on.
func (w *Worker) Attach(config Config) {}

// Detach removes the handlers of a config. If no other config uses the database, no further
// delivery starts, and Detach waits for the running ones until the context ends.
func (w *Worker) Detach(ctx context.Context, config Config) {}

// Destruct implements caddy.Destructor. It stops storing and delivering, writes the last
// outcomes, and closes the database.
func (w *Worker) Destruct() error { return errNotWritten }

// Store stores a notification and its copies, and returns once they are durable.
func (w *Worker) Store(r *http.Request, e *Endpoint, n intercomwebhook.Notification) (duplicate bool, err error) {
	return false, errNotWritten
}

// Ready returns an error that says why no notification could be stored now: the last
// commit or heartbeat is older than 10 s, or something since has failed.
func (w *Worker) Ready() error { return errNotWritten }

// DB returns the database, or an error while it is not open.
func (w *Worker) DB() (db.DB, error) { return nil, errNotWritten }

// Database returns where the database is.
func (w *Worker) Database() Database { return w.database }

// Config returns the config that was attached last; nil if there is none.
func (w *Worker) Config() Config { return nil }

// LaneState is the health of a lane.
type LaneState string

// The states of a lane.
const (
	LaneActive   LaneState = "active"
	LanePaused   LaneState = "paused" // by a person
	LaneFailing  LaneState = "failing"
	LaneDown     LaneState = "down"
	LaneOrphaned LaneState = "orphaned" // no config of a live instance has it
)

// LaneStatus is how a lane is doing.
type LaneStatus struct {
	Lane    db.Lane
	Kind    string // route or copy; empty if no live config has it
	State   LaneState
	Workers int // of this instance; 0 if it does not work on the lane
	Counts  map[db.State]int64
	Oldest  time.Duration // age of the oldest one that is neither delivered nor dead
}

// Lanes returns the status of all lanes of an endpoint: those of the config, in the order of
// the routes, and all others that have deliveries, or that another live instance works on.
// For an empty endpoint, it returns those of all endpoints in the database. It returns the
// last known numbers if the database does not answer in time.
func (w *Worker) Lanes(ctx context.Context, endpoint string) ([]LaneStatus, error) {
	return nil, errNotWritten
}

// SetPaused pauses or resumes lanes: on this instance at once, on others within two seconds.
func (w *Worker) SetPaused(ctx context.Context, lanes []db.Lane, paused bool) error {
	return errNotWritten
}

// Changed must be called when a person has changed deliveries: what was put back is
// claimed, and what was deleted is not delivered any more.
func (w *Worker) Changed() {}

// AnswerTime returns about how long Intercom waits for answers now; 0 if none was given in
// the last second. Whoever loads the database for other reasons pauses for longer while it
// is high.
func (w *Worker) AnswerTime() time.Duration { return 0 }

// Now returns the time by the database's clock: that of the last heartbeat, and what has
// passed since.
func (w *Worker) Now() time.Time { return time.Now() }

// RegisterMetrics registers the metrics of all workers. It may be called for any number of
// registries.
func RegisterMetrics(registry *prometheus.Registry) error { return nil }
