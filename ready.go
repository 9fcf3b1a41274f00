package intercomwebhook

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
)

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

var (
	errShuttingDown = errors.New("caddy is shutting down")
	errStarting     = errors.New("the config is being started")
	errNoConfig     = errors.New("no config runs yet")
)

// handlersApp knows the handlers of a config, for those that are asked about all of them. Handlers
// load it; it has no config of its own.
type handlersApp struct {
	started  atomic.Bool
	handlers []appHandler
}

// appHandler is what the app has of a Handler.
type appHandler struct {
	router *router
	ready  func() error      // of its queue; nil without one
	server *caddyhttp.Server // nil outside of a server
}

const appID = "intercom_webhook_handlers"

// CaddyModule returns the Caddy module information.
func (*handlersApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  appID,
		New: func() caddy.Module { return new(handlersApp) },
	}
}

// loadApp returns the app of the config that is being loaded.
func loadApp(ctx caddy.Context) (*handlersApp, error) {
	loaded, err := ctx.App(appID)
	if err != nil {
		return nil, err
	}
	return loaded.(*handlersApp), nil
}

// activeApp returns the app of the config that runs.
func activeApp() (*handlersApp, error) {
	active := caddy.ActiveContext()
	switch {
	case active.Context == nil && caddy.Exiting(): // Caddy forgets the config before it stops it
		return nil, errShuttingDown
	case active.Context == nil:
		return nil, errNoConfig
	}
	loaded, err := active.AppIfConfigured(appID)
	if err != nil { // no handler has loaded it
		running := new(handlersApp)
		running.started.Store(true)
		return running, nil //nolint:nilerr // this is no error
	}
	return loaded.(*handlersApp), nil
}

// ready returns an error that says why a notification could not be stored now.
func (a *handlersApp) ready() error {
	switch {
	case caddy.Exiting():
		return errShuttingDown
	case !a.started.Load():
		return errStarting
	}
	for _, handler := range a.handlers {
		if handler.ready == nil {
			continue
		}
		if err := handler.ready(); err != nil {
			return err
		}
	}
	return nil
}

// explain says for each handler where a notification goes.
func (a *handlersApp) explain(topic, workspace string) []adminapi.Route {
	var all []adminapi.Route
	for _, handler := range a.handlers {
		r := &http.Request{Method: http.MethodPost, URL: &url.URL{Path: "/"}, Header: make(http.Header)}
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), shield.New(), handler.server)
		newTag(r).setNotification(r.Header, envelope.Envelope{Topic: topic, AppID: workspace})
		explained := handler.router.explain(r, topic)
		if handler.server != nil {
			explained.Server = handler.server.Name()
		}
		if endpoint, _, several := strings.Cut(handler.router.label(""), "|"); several {
			explained.Endpoint = endpoint
		}
		all = append(all, explained)
	}
	return all
}

// Start implements caddy.App. It forgets the places of modules, which may be others in the next config.
func (a *handlersApp) Start() error {
	places.Clear()
	a.started.Store(true)
	return nil
}

// Stop implements caddy.App.
func (*handlersApp) Stop() error { return nil }

// Interface guards
var (
	_ caddy.Provisioner           = (*Ready)(nil)
	_ caddyhttp.MiddlewareHandler = (*Ready)(nil)
	_ caddy.App                   = (*handlersApp)(nil)
)
