package worker

import (
	"context"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

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

	Reach func(context.Context) error // connects to a server, and changes nothing; nil: there is none
}

// Endpoint is a handler with its queue.
type Endpoint struct {
	Name    string
	Handler intercomwebhook.Endpoint
	Options Options
	Logger  *zap.Logger
	Events  *events.Emitter

	objectFields objectFields
}

// Options are the options of a queue.
type Options struct {
	LaneOptions
	Lanes         map[string]LaneOptions // of those that have their own
	KeepDelivered time.Duration
	KeepDead      time.Duration
}

// LaneOptions are the options of a lane.
type LaneOptions struct {
	Workers         int // how many deliveries run at the same time
	DeliveryTimeout time.Duration
	MaxAge          time.Duration
	MaxAttempts     int     // 0: there is no limit
	DeadOn          []int   // statuses, or their first digits
	Rate            float64 // attempts a second, of all instances; 0: there is no limit

	Ordered bool          // deliveries about the same object are made one after the other
	OrderBy string        // the path of the field that names the object; empty: what Notification.Object has
	Hold    time.Duration // how long each of them waits for earlier ones
}

// Config are the endpoints of a config that use the database, by name.
type Config map[string]*Endpoint

const (
	// UnroutedLane is the lane of notifications that fit no route when they arrive. Every
	// instance works on it, whatever its routes are, so no route or copy may have it.
	UnroutedLane = "unrouted"

	// DefaultEndpoint is the name of an endpoint that the config does not name.
	DefaultEndpoint = "intercom"

	// MaxCopies is how many copies an endpoint may have. Half of the deliveries that a notification
	// can have are for those that a person sends to other lanes.
	MaxCopies = db.MaxDeliveries/2 - 1
)

// Label returns the name of a lane in metrics and logs: endpoint|lane, or the lane alone for
// the default endpoint.
func Label(lane db.Lane) string {
	if lane.Endpoint == DefaultEndpoint {
		return lane.Name
	}
	return lane.Endpoint + "|" + lane.Name
}

// lane returns the options of a lane.
func (e *Endpoint) lane(name string) *LaneOptions {
	if own, ok := e.Options.Lanes[name]; ok {
		return &own
	}
	return &e.Options.LaneOptions
}

// kind returns what has a lane: a route or a copy.
func (e *Endpoint) kind(lane string) string {
	if slices.Contains(e.Handler.Lanes, intercomwebhook.Lane{Name: lane, Copy: true}) {
		return "copy"
	}
	return "route"
}

// series returns the name of a lane in metrics. Those that were taken over, of which there can be any number,
// share one.
func (e *Endpoint) series(lane string) string {
	if lane != UnroutedLane && !slices.ContainsFunc(e.Handler.Lanes, func(l intercomwebhook.Lane) bool { return l.Name == lane }) {
		lane = otherLanes
	}
	return Label(db.Lane{Endpoint: e.Name, Name: lane})
}

// configLane is a lane of a config.
type configLane struct {
	db.Lane
	kind    string // route or copy
	options *LaneOptions
}

// lanes returns the lanes of all endpoints, by the names of the endpoints: those of the routes,
// those of the copies, and UnroutedLane.
func (c Config) lanes() []configLane {
	var lanes []configLane
	for _, name := range slices.Sorted(maps.Keys(c)) {
		for _, lane := range append(slices.Clip(c[name].Handler.Lanes), intercomwebhook.Lane{Name: UnroutedLane}) {
			lanes = append(lanes, configLane{db.Lane{Endpoint: name, Name: lane.Name}, c[name].kind(lane.Name), c[name].lane(lane.Name)})
		}
	}
	return lanes
}

// presence returns what an instance with this config tells the others.
func (c Config) presence() db.Presence {
	version, _ := caddy.Version()
	p := db.Presence{Version: version, Configs: make(map[string]string, len(c))}
	for _, lane := range c.lanes() {
		p.Lanes = append(p.Lanes, lane.Lane)
	}
	for name, e := range c {
		p.Configs[name] = e.Handler.ConfigHash
	}
	return p
}
