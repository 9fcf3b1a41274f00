package module

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// NewQueue returns a queue as Provision and Attach leave it.
func NewQueue(at worker.Database, name string, o worker.Options, handler intercomwebhook.Endpoint) *Base {
	return &Base{
		database: at, acquired: make(chan struct{}),
		endpoint: &worker.Endpoint{Name: name, Options: o, Handler: handler, Logger: zap.NewNop()},
	}
}

// NewUI returns a handler as Provision leaves it.
func NewUI(prefix string) *UI {
	return &UI{Prefix: prefix, started: make(chan struct{}), floodLogger: zap.NewNop()}
}

// Config is a config that runs.
type Config struct {
	Starting atomic.Bool // what the admin API is told
	app      *app
	cancel   context.CancelFunc
	stop     sync.Once
}

// Start starts a config. Its warnings go to the log.
func Start(log *zap.Logger, queues []*Base, uis ...*UI) (*Config, error) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	c := &Config{app: &app{ctx: ctx, log: log, queues: queues, uis: uis}, cancel: cancel}
	for _, ui := range uis {
		ui.ctx = ctx
	}
	err := c.app.Start()
	if err != nil {
		c.Stop()
	}
	return c, err
}

// Stop ends it, as Caddy does, once.
func (c *Config) Stop() {
	c.stop.Do(func() {
		_ = c.app.Stop()
		c.cancel()
		for _, queue := range c.app.queues {
			_ = queue.Cleanup()
		}
	})
}

// AdminRoutes returns the routes of the config's admin endpoint.
func (c *Config) AdminRoutes(t *testing.T) []caddy.AdminRoute {
	a := new(adminAPI)
	if err := a.Provision(c.app.ctx); err != nil {
		t.Fatal(err)
	}
	a.starting = c.Starting.Load
	return a.Routes()
}

// DB returns the database of a queue.
func (b *Base) DB(t *testing.T) db.DB {
	t.Helper()
	database, err := b.worker.DB()
	if err != nil {
		t.Fatal(err)
	}
	return database
}

// Database returns where the database of a queue is.
func (b *Base) Database() worker.Database { return b.database }

// WarnOfStranded warns of what waits for endpoints that no config has.
func (c *Config) WarnOfStranded(ctx context.Context) {
	for w := range c.app.used {
		c.app.warnOfStranded(ctx, w)
	}
}
