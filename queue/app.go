package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

func init() {
	caddy.RegisterModule(new(app))
}

// loggerName is that of what belongs to no config.
const loggerName = "http.intercom_webhook.queues"

// app starts the queues of a config together with it. Nothing is opened, locked or
// changed before, so that a config can be validated beside a Caddy that runs. It is
// loaded by the queues themselves.
type app struct {
	ctx    caddy.Context
	queues []*endpoint
	uis    []*UI
	grace  time.Duration // 0 if Caddy waits for as long as it takes
	used   map[*engine]endpoints
}

// CaddyModule returns the Caddy module information.
func (*app) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "intercom_queues",
		New: func() caddy.Module { return new(app) },
	}
}

// Provision implements caddy.Provisioner.
func (a *app) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	return registerMetrics(ctx.GetMetricsRegistry())
}

func appOf(ctx caddy.Context) (*app, error) {
	loaded, err := ctx.App("intercom_queues")
	if err != nil {
		return nil, err
	}
	return loaded.(*app), nil
}

// endpoint is a handler's use of a queue.
type endpoint struct {
	location    location
	options     *Options
	target      intercomwebhook.Endpoint
	logger      *zap.Logger
	floodLogger *zap.Logger // writes each message once a second

	opened chan struct{} // closed once there is an engine
	engine *engine       // set before
	held   bool          // the engine is acquired, and not released
}

// location tells where a database is, and opens it.
type location struct {
	key        string // the same for the same database
	name       string // for people
	committers int    // groups that are stored at once
	open       func(context.Context) (database, error)
}

func newEndpoint(ctx caddy.Context, at location, options *Options) *endpoint {
	logger := ctx.Logger()
	return &endpoint{
		location: at,
		options:  options,
		logger:   logger,
		floodLogger: logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
			return zapcore.NewSamplerWithOptions(core, time.Second, 1, 0)
		})),
		opened: make(chan struct{}),
	}
}

// acquire opens the database, or joins those who have it open.
func (e *endpoint) acquire() error {
	shared, _, err := engines.LoadOrNew(e.location.key, func() (caddy.Destructor, error) {
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		db, err := e.location.open(ctx)
		if err != nil {
			return nil, err
		}
		return newEngine(e.location.name, db, e.location.committers), nil
	})
	if err != nil {
		return fmt.Errorf("queue %s: %w", e.location.name, err)
	}
	e.engine, e.held = shared.(*engine), true
	close(e.opened)
	return nil
}

// release closes the database if nobody else has it open. It comes after all servers
// of the config have stopped.
func (e *endpoint) release() error {
	if e == nil || !e.held {
		return nil
	}
	e.held = false
	_, err := engines.Delete(e.location.key)
	return err
}

// Start implements caddy.App.
func (a *app) Start() error {
	sets, err := a.byDatabase()
	if err != nil {
		return err
	}
	if loaded, err := a.ctx.AppIfConfigured("http"); err == nil {
		a.grace = time.Duration(loaded.(*caddyhttp.App).GracePeriod)
	}
	for _, e := range a.queues {
		if err := e.acquire(); err != nil {
			return a.abandon(err)
		}
	}
	a.used = make(map[*engine]endpoints)
	for _, set := range sets {
		for _, e := range set { // all of which have the same engine
			a.used[e.engine] = set
			if err := e.engine.use(set); err != nil {
				return a.abandon(fmt.Errorf("queue %s: %w", e.location.name, err))
			}
			break
		}
	}
	for _, ui := range a.uis {
		if err := ui.start(a); err != nil {
			return a.abandon(err)
		}
	}
	return nil
}

// abandon undoes what Start has done, as Stop will not be called.
func (a *app) abandon(err error) error {
	return errors.Join(err, a.Stop())
}

// byDatabase sorts the endpoints by their databases. Handlers that are the same, as
// those of a site with several ports, are one endpoint.
func (a *app) byDatabase() (map[string]endpoints, error) {
	sets := make(map[string]endpoints)
	for _, e := range a.queues {
		set := sets[e.location.key]
		if set == nil {
			set = make(endpoints)
			sets[e.location.key] = set
		}
		other := set[e.options.Name]
		if other == nil {
			set[e.options.Name] = e
			continue
		}
		if e.target.ConfigHash() != other.target.ConfigHash() {
			return nil, fmt.Errorf("queue %s: two handlers that are not the same both have the name %q in it: give one of them another with `name`",
				e.location.name, e.options.Name)
		}
	}
	return sets, nil
}

// Stop implements caddy.App. If no other config has taken over, it waits for the
// deliveries that run, as Caddy does for requests.
func (a *app) Stop() error {
	ctx := context.Background()
	if a.grace > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.grace)
		defer cancel()
	}
	for _, ui := range a.uis {
		ui.stop()
	}
	for engine, set := range a.used {
		engine.leave(ctx, set)
	}
	return nil
}

// Interface guards
var (
	_ caddy.App         = (*app)(nil)
	_ caddy.Provisioner = (*app)(nil)
)
