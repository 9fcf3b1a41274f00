package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

func init() {
	caddy.RegisterModule(new(app))
}

// loggerName is the logger's name for code that runs for several configs.
const loggerName = "http.intercom_webhook.queues"

// app opens the queues of a config when Caddy starts the config. Nothing is opened, locked
// or changed before, so that a config can be validated while another Caddy runs. The queues
// and their web UIs load it; it has no config of its own.
type app struct {
	ctx    caddy.Context
	queues []*attachment
	uis    []*UI
	grace  time.Duration               // Caddy's grace_period; 0: there is no limit
	used   map[*dispatcher]attachments // what Start has attached, for Stop
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

// attachment is a handler's use of a queue.
type attachment struct {
	location location
	options  *Options
	target   intercomwebhook.Endpoint
	logger   *zap.Logger
	events   *events.Emitter

	acquired   chan struct{} // closed when dispatcher is set and has the config
	dispatcher *dispatcher
	held       bool // whether release must be called for the dispatcher
}

// location is where a database is, and how to open it.
type location struct {
	key  string // equal for equal databases; may have a password in it
	name string // for logs and errors
	file string // empty for a server

	// stillHas says, in whole sentences, where notifications still are after erase has
	// deleted them.
	stillHas string

	open func(context.Context) (jobdb.DB, error)
}

func newAttachment(ctx caddy.Context, at location, options *Options) (*attachment, error) {
	emitter, err := events.New(ctx)
	if err != nil {
		return nil, err
	}
	return &attachment{
		location: at,
		options:  options,
		logger:   ctx.Logger(),
		events:   emitter,
		acquired: make(chan struct{}),
	}, nil
}

// acquire opens the database, or shares it with the configs and handlers that have it open.
func (a *attachment) acquire() error {
	shared, _, err := dispatchers.LoadOrNew(a.location.key, func() (caddy.Destructor, error) {
		return newDispatcher(a.location)
	})
	if err != nil {
		return fmt.Errorf("queue %s: %w", a.location.name, err)
	}
	a.dispatcher, a.held = shared.(*dispatcher), true
	return nil
}

// release closes the database if no other config or handler uses it. It must be called
// after all servers of the config have stopped. Further calls do nothing.
func (a *attachment) release() error {
	if a == nil || !a.held {
		return nil
	}
	a.held = false
	_, err := dispatchers.Delete(a.location.key)
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
	for _, attachment := range a.queues {
		if err := attachment.acquire(); err != nil {
			return a.abandon(err)
		}
	}
	for _, attachment := range a.queues {
		attachment.startCounters()
	}
	a.used = make(map[*dispatcher]attachments)
	for _, set := range sets {
		for _, attachment := range set { // all have the same dispatcher, so one is enough
			a.used[attachment.dispatcher] = set
			attachment.dispatcher.attach(set)
			break
		}
	}
	for _, attachment := range a.queues {
		close(attachment.acquired)
	}
	for _, ui := range a.uis {
		if err := ui.start(a); err != nil {
			return a.abandon(err)
		}
	}
	return nil
}

// abandon undoes what Start has done. Caddy does not call Stop if Start fails.
func (a *app) abandon(err error) error {
	return errors.Join(err, a.Stop())
}

// byDatabase groups the handlers by database. Handlers with the same name must have the
// same config, and become one endpoint: a site with several ports has one handler for each.
func (a *app) byDatabase() (map[string]attachments, error) {
	sets := make(map[string]attachments)
	for _, one := range a.queues {
		set := sets[one.location.key]
		if set == nil {
			set = make(attachments)
			sets[one.location.key] = set
		}
		other := set[one.options.Name]
		if other == nil {
			set[one.options.Name] = one
			continue
		}
		if one.target.ConfigHash() != other.target.ConfigHash() {
			return nil, fmt.Errorf("queue %s: two different handlers have the name %q: give one of them another name with `name`",
				one.location.name, one.options.Name)
		}
	}
	for _, set := range sets {
		if err := set.checkAdopted(); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

// checkAdopted returns an error if two handlers adopt the same endpoint.
func (s attachments) checkAdopted() error {
	adopted := make(map[string]string) // the name of the handler, by endpoint
	for _, name := range slices.Sorted(maps.Keys(s)) {
		for _, endpoint := range s[name].options.Adopt {
			if other, already := adopted[endpoint]; already {
				return fmt.Errorf("queue %s: the handlers %q and %q both adopt %q: let one of them adopt it",
					s[name].location.name, other, name, endpoint)
			}
			adopted[endpoint] = name
		}
	}
	return nil
}

// Stop implements caddy.App. If no other config uses a database, Stop waits until the
// running deliveries have ended, or the grace period is over.
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
	for dispatcher, set := range a.used {
		dispatcher.detach(ctx, set)
	}
	return nil
}

// Interface guards
var (
	_ caddy.App         = (*app)(nil)
	_ caddy.Provisioner = (*app)(nil)
)
