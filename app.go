package intercomwebhook

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
)

func init() {
	caddy.RegisterModule(new(app))
}

var (
	errShuttingDown = errors.New("caddy is shutting down")
	errStarting     = errors.New("the config is being started")
	errNoConfig     = errors.New("no config runs yet")
)

// app knows the handlers of a config, for those that are asked about all of them. Handlers
// load it; it has no config of its own.
type app struct {
	started  atomic.Bool
	handlers []appHandler
}

// appHandler is what the app has of a Handler.
type appHandler struct {
	router *router
	queue  Queue             // nil without one
	server *caddyhttp.Server // nil outside of a server
}

// appID is the name of the app.
const appID = "intercom_webhook_handlers"

// CaddyModule returns the Caddy module information.
func (*app) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  appID,
		New: func() caddy.Module { return new(app) },
	}
}

// loadApp returns the app of the config that is being loaded.
func loadApp(ctx caddy.Context) (*app, error) {
	loaded, err := ctx.App(appID)
	if err != nil {
		return nil, err
	}
	return loaded.(*app), nil
}

// activeApp returns the app of the config that runs.
func activeApp() (*app, error) {
	active := caddy.ActiveContext()
	switch {
	case active.Context == nil && caddy.Exiting(): // Caddy forgets the config before it stops it
		return nil, errShuttingDown
	case active.Context == nil:
		return nil, errNoConfig
	}
	loaded, err := active.AppIfConfigured(appID)
	if err != nil { // no handler has loaded it
		running := new(app)
		running.started.Store(true)
		return running, nil //nolint:nilerr // this is no error
	}
	return loaded.(*app), nil
}

// add adds a handler while the config is loaded.
func (a *app) add(router *router, s *storer, server *caddyhttp.Server) {
	one := appHandler{router: router, server: server}
	if s != nil {
		one.queue = s.queue
	}
	a.handlers = append(a.handlers, one)
}

// ready returns an error that says why a notification could not be stored now.
func (a *app) ready() error {
	switch {
	case caddy.Exiting():
		return errShuttingDown
	case !a.started.Load():
		return errStarting
	}
	for _, handler := range a.handlers {
		if handler.queue == nil {
			continue
		}
		if err := handler.queue.Ready(); err != nil {
			return err
		}
	}
	return nil
}

// explain says for each handler where a notification goes.
func (a *app) explain(topic, workspace string) []adminapi.Route {
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

// Start implements caddy.App.
func (a *app) Start() error {
	a.started.Store(true)
	return nil
}

// Stop implements caddy.App.
func (*app) Stop() error { return nil }

// Interface guard
var _ caddy.App = (*app)(nil)
