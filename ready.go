package intercomwebhook

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(Ready))
	caddy.RegisterModule(new(readiness))
}

// Ready tells load balancers and Kubernetes whether to send notifications to this Caddy. It
// answers 200 if every queue of the config could store a notification now, and 503 if one
// could not. It also answers 503 while Caddy is shutting down, so that the global option
// `shutdown_delay` gives others the time to notice. Without a queue in the config it answers
// 200 as long as Caddy runs.
//
// It answers GET and HEAD. For other methods it calls the next handler, so that it can never
// answer a notification in the place of `intercom_webhook`.
//
// The answer says nothing more, because anybody may ask. The log has the reason, and so has
// `GET /intercom_webhook/ready` on Caddy's admin endpoint.
//
// Queues are tried at most about once a second, however often they are asked about. An answer
// takes less than a second, which is how long Kubernetes waits by default.
type Ready struct {
	readiness *readiness
	logger    *zap.Logger
	failing   atomic.Bool // the last answer was 503
}

// CaddyModule returns the Caddy module information.
func (*Ready) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.intercom_ready",
		New: func() caddy.Module { return new(Ready) },
	}
}

// Provision implements caddy.Provisioner.
func (h *Ready) Provision(ctx caddy.Context) (err error) {
	h.logger = ctx.Logger()
	h.readiness, err = readinessOf(ctx)
	return err
}

// ServeHTTP answers whether a notification could be stored now.
func (h *Ready) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return next.ServeHTTP(w, r)
	}
	err := h.readiness.check(r.Context())
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if closing, _ := repl.Get("http.shutting_down"); closing == true {
		err = errShuttingDown
	}
	if r.Context().Err() == nil && h.failing.Swap(err != nil) != (err != nil) {
		if err != nil {
			h.logger.Warn("not ready: a notification could not be stored now", zap.Error(err))
		} else {
			h.logger.Info("ready again")
		}
	}
	status, text := http.StatusOK, "ready\n"
	if err != nil {
		status, text = http.StatusServiceUnavailable, "not ready\n"
	}
	w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
	w.Header()["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(status)
	_, err = io.WriteString(w, text)
	return err
}

// readyTimeout bounds how long it takes to check whether queues are ready.
const readyTimeout = 900 * time.Millisecond

var (
	errShuttingDown = errors.New("caddy is shutting down")
	errNotReadySoon = errors.New("the queue does not answer in time")
)

// readiness is an app that knows the queues of a config. Handlers load it; it has no config
// of its own.
type readiness struct{ queues []Queue }

// readinessID is the name of the app.
const readinessID = "intercom_readiness"

// CaddyModule returns the Caddy module information.
func (*readiness) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  readinessID,
		New: func() caddy.Module { return new(readiness) },
	}
}

func readinessOf(ctx caddy.Context) (*readiness, error) {
	loaded, err := ctx.App(readinessID)
	if err != nil {
		return nil, err
	}
	return loaded.(*readiness), nil
}

// activeReadiness returns the readiness of the config that runs.
func activeReadiness() *readiness {
	loaded, err := caddy.ActiveContext().AppIfConfigured(readinessID)
	if err != nil {
		return new(readiness) // neither a queue nor a handler that asks
	}
	return loaded.(*readiness)
}

// check returns an error that says why a notification could not be stored now.
func (a *readiness) check(ctx context.Context) error {
	if caddy.Exiting() {
		return errShuttingDown
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, errNotReadySoon)
	defer cancel()
	for _, queue := range a.queues {
		if err := queue.Ready(); err != nil {
			return err
		}
	}
	return nil
}

// Start implements caddy.App.
func (*readiness) Start() error { return nil }

// Stop implements caddy.App.
func (*readiness) Stop() error { return nil }

// Interface guards
var (
	_ caddy.Provisioner           = (*Ready)(nil)
	_ caddyhttp.MiddlewareHandler = (*Ready)(nil)
	_ caddy.App                   = (*readiness)(nil)
)
