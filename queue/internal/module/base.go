// Package module is Caddy's side of the queue, which all engines share: options, the app that
// opens databases, the admin API, the handler of the pages, and the mover.
package module

import (
	"context"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// Engine is implemented by the Caddy module of each engine.
type Engine interface {
	// Database returns where the database is, with placeholders expanded. The module need not
	// be provisioned.
	Database() (worker.Database, error)

	// CommonOptions returns the options that all engines have.
	CommonOptions() *Options
}

// Base is what the queues of all engines have in common. The Caddy module of an engine embeds
// it beside Options. Together they implement intercomwebhook.Queue.
type Base struct {
	app      *app
	database worker.Database
	endpoint *worker.Endpoint

	acquired chan struct{} // closed when the app has started, and worker delivers for the config
	worker   *worker.Worker
}

// Provision checks the options, and sets the defaults of those that are not given. The
// database is opened when the config is started.
func (b *Base) Provision(ctx caddy.Context, at worker.Database, o *Options) error {
	if err := o.complete(); err != nil {
		return err
	}
	emitter, err := events.New(ctx)
	if err != nil {
		return err
	}
	b.database = at
	b.endpoint = &worker.Endpoint{Name: o.Name, Options: o.forWorker(), Logger: ctx.Logger(), Events: emitter}
	b.acquired = make(chan struct{})
	b.app, err = appOf(ctx)
	return err
}

// LaneLabel implements intercomwebhook.Queue.
func (b *Base) LaneLabel(lane string) string {
	return worker.Label(db.Lane{Endpoint: b.endpoint.Name, Name: lane})
}

// Attach implements intercomwebhook.Queue.
func (b *Base) Attach(endpoint intercomwebhook.Endpoint) error {
	b.endpoint.Handler = endpoint
	b.app.queues = append(b.app.queues, b)
	return nil
}

// Store implements intercomwebhook.Queue. While the config starts, it waits.
func (b *Base) Store(r *http.Request, n intercomwebhook.Notification) (duplicate bool, err error) {
	select {
	case <-b.acquired:
		return b.worker.Store(r, b.endpoint, n)
	case <-r.Context().Done():
		return false, fmt.Errorf("waiting for the config to start: %w", context.Cause(r.Context()))
	}
}

// Ready implements intercomwebhook.Queue.
func (b *Base) Ready() error {
	select {
	case <-b.acquired:
		return b.worker.Ready()
	default:
		return errStarting
	}
}

// acquire opens the database, or shares it with the configs and handlers that have it open.
func (b *Base) acquire() error {
	shared, _, err := workers.LoadOrNew(b.database.Key, func() (caddy.Destructor, error) {
		return worker.New(b.database)
	})
	if err != nil {
		return fmt.Errorf("queue %s: %w", b.database.Name, err)
	}
	b.worker = shared.(*worker.Worker)
	return nil
}

// Cleanup implements caddy.CleanerUpper. It closes the database if no other config or handler
// uses it.
func (b *Base) Cleanup() error {
	if b.worker == nil { // it was not started
		return nil
	}
	_, err := workers.Delete(b.database.Key)
	return err
}
