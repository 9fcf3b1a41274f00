// Package module is Caddy's side of the queue, which all engines share: options, the app that opens databases, the
// admin API, the handler of the pages, and the mover.
package module

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

func init() { caddy.RegisterModule(new(app)) }

// workers has the worker of each database that is open, by the key of the database. Configs and their handlers share
// them, so that a reload does not stop deliveries.
var workers = caddy.NewUsagePool()

var errStarting = errors.New("the config is being started")

// strandedInterval is how long after the start of a config it is counted what no endpoint delivers, and how often
// that is tried while the database cannot be used.
const strandedInterval = 5 * time.Second

// app opens the queues of a config when Caddy starts the config. Nothing is opened, locked or changed before, so that
// a config can be validated while another Caddy runs. The queues and their pages load it; it has no config of its
// own.
type app struct {
	ctx    caddy.Context
	log    *zap.Logger
	queues []*Base
	uis    []*UI
	grace  time.Duration                    // Caddy's grace_period; 0: there is no limit
	used   map[*worker.Worker]worker.Config // what Start has attached, for Stop
}

// CaddyModule returns the Caddy module information.
func (*app) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "intercom_queues", New: func() caddy.Module { return new(app) }}
}

// Provision implements caddy.Provisioner.
func (a *app) Provision(ctx caddy.Context) error {
	a.ctx, a.log = ctx, ctx.Logger()
	return worker.Register(ctx.GetMetricsRegistry())
}

func appOf(ctx caddy.Context) (*app, error) {
	loaded, err := ctx.App("intercom_queues")
	if err != nil {
		return nil, err
	}
	return loaded.(*app), nil
}

// Start implements caddy.App.
func (a *app) Start() error {
	configs, err := a.configs()
	if err != nil {
		return err
	}
	if loaded, err := a.ctx.AppIfConfigured("http"); err == nil {
		a.grace = time.Duration(loaded.(*caddyhttp.App).GracePeriod)
	}
	for _, queue := range a.queues {
		if err := queue.acquire(); err != nil {
			return err
		}
	}
	a.used = make(map[*worker.Worker]worker.Config)
	for _, queue := range a.queues {
		if w := queue.worker; a.used[w] == nil {
			a.used[w] = configs[queue.database.Key]
			w.Attach(a.used[w])
			go a.watchStranded(w)
		}
		close(queue.acquired)
	}
	for _, ui := range a.uis {
		if err := ui.start(a.queues); err != nil {
			return errors.Join(err, a.Stop()) // which Caddy does not call if Start fails
		}
	}
	return nil
}

// Stop implements caddy.App. If no other config uses a database, Stop waits until the running deliveries have ended,
// or the grace period is over, and warns of what it leaves there.
func (a *app) Stop() error {
	ctx := context.Background()
	if a.grace > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.grace)
		defer cancel()
	}
	for used, config := range a.used {
		used.Detach(ctx, config)
		if used.Config() == nil && !caddy.Exiting() {
			a.warnOfStranded(context.Background(), used)
		}
	}
	return nil
}

// configs groups the endpoints by the key of their database. Handlers with the same name must have the same config,
// and become one endpoint: a site with several ports has one handler for each.
func (a *app) configs() (map[string]worker.Config, error) {
	configs := make(map[string]worker.Config)
	for _, queue := range a.queues {
		key, name := queue.database.Key, queue.endpoint.Name
		if configs[key] == nil {
			configs[key] = make(worker.Config)
		}
		if other := configs[key][name]; other == nil {
			configs[key][name] = queue.endpoint
		} else if other.Handler.ConfigHash != queue.endpoint.Handler.ConfigHash {
			return nil, fmt.Errorf("queue %s: two different handlers have the name %q: give one of them another name with `name`", queue.database.Name, name)
		}
	}
	return configs, nil
}

// check returns what is wrong with the queues and pages of the config that are known up to now. They are checked as
// they come, so that `caddy validate`, which starts nothing, refuses what Start would.
func (a *app) check() error {
	_, err := a.configs()
	for _, ui := range a.uis {
		_, wrong := ui.find(a.queues)
		err = cmp.Or(err, wrong)
	}
	return err
}

// watchStranded warns of stranded notifications once the database can be used.
func (a *app) watchStranded(w *worker.Worker) {
	for {
		select {
		case <-time.After(strandedInterval): // also for the config before to end
		case <-a.ctx.Done():
			return
		}
		if w.Ready() == nil {
			a.warnOfStranded(a.ctx, w)
			return
		}
	}
}

// warnOfStranded warns of what waits in the database for endpoints that neither the config nor another live instance
// has.
func (a *app) warnOfStranded(ctx context.Context, w *worker.Worker) {
	lanes, err := w.Lanes(ctx, "")
	if err != nil { // the worker logs that the database cannot be used
		return
	}
	config, stranded := w.Config(), make(map[string]int64)
	for _, lane := range lanes {
		if lane.State == worker.LaneOrphaned || config == nil && lane.State == worker.LanePaused {
			stranded[lane.Lane.Endpoint] += lane.Counts[db.Waiting] + lane.Counts[db.Delivering] + lane.Counts[db.Retrying]
		}
	}
	for name, waiting := range stranded {
		if config[name] == nil && waiting > 0 {
			a.log.Warn("notifications wait for an endpoint that no config has in this database: if it has another database now, "+
				"move them with `caddy intercom-webhook queue move --from <old config> --to <new config>`; if it has another name now, give them the new name "+
				"(docs/queue.md#changing-the-name-of-an-endpoint)", // a name that is no text of ours stands in a field only
				zap.String("endpoint", name), zap.String("database", w.Database().Name), zap.Int64("waiting", waiting))
		}
	}
}

// Engine is implemented by the Caddy module of each engine.
type Engine interface {
	// Database returns where the database is, with placeholders expanded. The module need not be provisioned.
	Database() (worker.Database, error)

	// CommonOptions returns the options that all engines have.
	CommonOptions() *Options
}

// Base is what the queues of all engines have in common. The Caddy module of an engine embeds it beside Options.
// Together they implement intercomwebhook.Queue.
type Base struct {
	app      *app
	database worker.Database
	endpoint *worker.Endpoint

	acquired chan struct{} // closed when the app has started, and worker delivers for the config
	worker   *worker.Worker
}

// Provision checks the options, and sets the defaults of those that are not given. The database is opened when the
// config is started.
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

// Attach implements intercomwebhook.Queue. It refuses more copies than a notification can have.
func (b *Base) Attach(endpoint intercomwebhook.Endpoint) error {
	copies := 0
	for _, lane := range endpoint.Lanes {
		if lane.Copy {
			copies++
		}
	}
	if copies > worker.MaxCopies {
		return fmt.Errorf("%d copies are given: a queue can make %d at most; remove some", copies, worker.MaxCopies)
	}
	b.endpoint.Handler = endpoint
	b.app.queues = append(b.app.queues, b)
	return b.app.check()
}

// Store implements intercomwebhook.Queue. While the config starts, it waits.
func (b *Base) Store(r *http.Request, n intercomwebhook.Notification) (intercomwebhook.Stored, error) {
	select {
	case <-b.acquired:
		return b.worker.Store(r, b.endpoint, n)
	case <-r.Context().Done():
		return 0, fmt.Errorf("waiting for the config to start: %w", context.Cause(r.Context()))
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

// Cleanup implements caddy.CleanerUpper. It closes the database if no other config or handler uses it.
func (b *Base) Cleanup() error {
	if b.worker == nil { // it was not started
		return nil
	}
	_, err := workers.Delete(b.database.Key)
	return err
}

// Interface guards
var (
	_ caddy.App         = (*app)(nil)
	_ caddy.Provisioner = (*app)(nil)
)
