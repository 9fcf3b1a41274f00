package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(UI))
}

// UI serves River's web UI of a queue: what is stored, dead letters with their errors,
// and the means to try again, cancel, delete, and pause a lane.
//
// Whoever can reach it can read and delete all that is stored, so put it behind
// authentication. It asks for none itself.
type UI struct {
	// The path under which it is mounted, as in `/queue`. Default: the root.
	Prefix string `json:"prefix,omitempty"`

	// The queue, as the handler that uses it has it; of its options only those count
	// that say where the database is. Default: the only one of the config.
	QueueRaw json.RawMessage `json:"queue,omitempty" caddy:"namespace=http.intercom_webhook.queues inline_key=engine"`

	location *location // nil for the only one
	handler  http.Handler
	started  chan struct{} // closed once there is a handler
	cancel   context.CancelFunc
}

// CaddyModule returns the Caddy module information.
func (*UI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.intercom_queue_ui",
		New: func() caddy.Module { return new(UI) },
	}
}

var errPrefix = errors.New("the path prefix must begin with / and be a plain path, as in /queue")

func checkPrefix(prefix string) error {
	if prefix != "" && (!strings.HasPrefix(prefix, "/") || strings.ContainsAny(prefix, "*?#%{} ") || path.Clean(prefix) != prefix) {
		return errPrefix
	}
	return nil
}

// Provision sets up the handler, which is of use once the config is started.
func (u *UI) Provision(ctx caddy.Context) error {
	if err := checkPrefix(u.Prefix); err != nil {
		return err
	}
	u.started = make(chan struct{})
	if u.QueueRaw != nil {
		module, err := ctx.LoadModule(u, "QueueRaw")
		if err != nil {
			return fmt.Errorf("loading queue: %w", err)
		}
		at, err := module.(interface{ location() (location, error) }).location()
		if err != nil {
			return err
		}
		u.location = &at
	}
	app, err := appOf(ctx)
	if err != nil {
		return err
	}
	app.uis = append(app.uis, u)
	return nil
}

// start finds the queue among those of the config.
func (u *UI) start(a *app) error {
	var of *endpoint
	for _, e := range a.queues {
		switch {
		case u.location != nil && u.location.key != e.location.key:
		case of != nil && of.location.key != e.location.key:
			return errors.New("intercom_queue_ui: the config has several queues: name one in its block, as in `queue sqlite`")
		default:
			of = e
		}
	}
	if of == nil {
		return errors.New("intercom_queue_ui: no intercom_webhook of the config has such a queue")
	}
	river, err := of.engine.db.newUI(u.Prefix, newRiverLogger())
	if err != nil {
		return fmt.Errorf("intercom_queue_ui: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	u.cancel = cancel
	if err := river.Start(ctx); err != nil {
		return fmt.Errorf("intercom_queue_ui: %w", err)
	}
	// River takes an order whatever its Content-Type is. Without this, a form on anybody's
	// page could give one, in the name of who is logged in here.
	u.handler = http.NewCrossOriginProtection().Handler(river)
	close(u.started)
	return nil
}

func (u *UI) stop() {
	if u.cancel != nil {
		u.cancel()
	}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. Orders are only given under /api/;
// what else is sent is not for the UI, as the notifications of a site at whose root it is.
func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead && !strings.HasPrefix(r.URL.Path, u.Prefix+"/api/") {
		return next.ServeHTTP(w, r)
	}
	select {
	case <-u.started:
	case <-r.Context().Done():
		return r.Context().Err()
	}
	u.handler.ServeHTTP(w, r)
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*UI)(nil)
	_ caddyhttp.MiddlewareHandler = (*UI)(nil)
)
