package worker

import (
	"context"
	"maps"
	"slices"
	"sync"
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

// The kinds of lanes.
const (
	kindRoute = "route"
	kindCopy  = "copy"
)

// Label returns the name of a lane in metrics and logs: endpoint|lane, or the lane alone for
// the default endpoint.
func Label(lane db.Lane) string {
	if lane.Endpoint == DefaultEndpoint {
		return lane.Name
	}
	return lane.Endpoint + "|" + lane.Name
}

// workers returns how many deliveries of a lane may run at the same time.
func (e *Endpoint) workers(lane string) int {
	if n, ok := e.Options.LaneWorkers[lane]; ok {
		return n
	}
	return e.Options.Workers
}

// configLane is a lane of a config.
type configLane struct {
	db.Lane
	kind    string
	workers int
}

// lanes returns the lanes of the endpoint: those of the routes, those of the copies, and
// UnroutedLane.
func (e *Endpoint) lanes() []configLane {
	var lanes []configLane
	for _, lane := range append(slices.Clip(e.Handler.Lanes), intercomwebhook.Lane{Name: UnroutedLane}) {
		kind := kindRoute
		if lane.Copy {
			kind = kindCopy
		}
		lanes = append(lanes, configLane{db.Lane{Endpoint: e.Name, Name: lane.Name}, kind, e.workers(lane.Name)})
	}
	return lanes
}

// lanes returns the lanes of all endpoints, by the names of the endpoints.
func (c Config) lanes() []configLane {
	var lanes []configLane
	for _, name := range slices.Sorted(maps.Keys(c)) {
		lanes = append(lanes, c[name].lanes()...)
	}
	return lanes
}

// presence returns what an instance with this config tells the others.
func (c Config) presence() db.Presence {
	p := db.Presence{Version: version(), Configs: make(map[string]string, len(c))}
	for _, lane := range c.lanes() {
		p.Lanes = append(p.Lanes, lane.Lane)
	}
	for name, e := range c {
		p.Configs[name] = e.Handler.ConfigHash
	}
	return p
}

// configs are all configs that use the database. The last one is the current one; the
// others are about to end.
type configs struct {
	mu  sync.RWMutex
	all []Config
}

func (c *configs) add(config Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, config)
}

// remove removes a config. It keeps the last one, whose running deliveries still need it, and
// reports that.
func (c *configs) remove(config Config) (last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) <= 1 {
		return true
	}
	c.all = slices.DeleteFunc(c.all, func(other Config) bool { return maps.Equal(other, config) })
	return false
}

// current returns the config that was added last; nil if there is none.
func (c *configs) current() Config {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if len(c.all) == 0 {
		return nil
	}
	return c.all[len(c.all)-1]
}

// endpoint returns an endpoint of the current config or else of an older one; nil if no
// config has it.
func (c *configs) endpoint(name string) *Endpoint {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, config := range slices.Backward(c.all) {
		if e := config[name]; e != nil {
			return e
		}
	}
	return nil
}

// version returns the version of Caddy, which the program was built with.
var version = sync.OnceValue(func() string {
	short, _ := caddy.Version()
	return short
})
