package intercomwebhook

import (
	"io"
	"net/http"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(Ready))
}

// Ready tells load balancers and Kubernetes whether to send notifications to this Caddy. It
// answers 200 if every queue of the config could store a notification now, and 503 if one
// could not. It also answers 503 while Caddy starts, and while it is shutting down, so that
// the global option `shutdown_delay` gives others the time to notice. Without a queue in the
// config it answers 200 as long as Caddy runs.
//
// It answers GET and HEAD. For other methods it calls the next handler, so that it can never
// answer a notification in the place of `intercom_webhook`.
//
// The answer says nothing more, because anybody may ask. The log has the reason, and so has
// `GET /intercom_webhook/ready` on Caddy's admin endpoint.
type Ready struct {
	check   func() error // says why no notification could be stored now
	logger  *zap.Logger
	failing atomic.Bool // the last answer was 503
}

// CaddyModule returns the Caddy module information.
func (*Ready) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.intercom_ready",
		New: func() caddy.Module { return new(Ready) },
	}
}

// Provision implements caddy.Provisioner.
func (h *Ready) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	loaded, err := loadApp(ctx)
	if err != nil {
		return err
	}
	h.check = loaded.ready
	return nil
}

// ServeHTTP answers whether a notification could be stored now.
func (h *Ready) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return next.ServeHTTP(w, r)
	}
	err := h.check()
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

// parseReady sets up the handler from Caddyfile tokens. Syntax:
//
//	intercom_ready [<matcher>]
func parseReady(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // consume the directive name
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	if h.NextBlock(0) {
		return nil, h.Err("intercom_ready takes no block")
	}
	return new(Ready), nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Ready)(nil)
	_ caddyhttp.MiddlewareHandler = (*Ready)(nil)
)
