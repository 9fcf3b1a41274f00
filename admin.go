package intercomwebhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/stream"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

func init() {
	caddy.RegisterModule(new(adminAPI))
	caddy.RegisterModule(new(app))
}

// adminAPI is what this module adds to Caddy's admin endpoint: a live stream of verified
// notifications, where a notification would go, and whether one could be stored now. The
// queue adds its own part as another module.
//
// Caddy makes one for each config, before the apps, and never cleans it up. So it keeps no
// state of a config, and looks it up with each request.
type adminAPI struct {
	ctx context.Context // of the config
}

// adminQueueModule is the module that serves adminQueuePaths.
const adminQueueModule = "admin.api.intercom_webhook_queue"

var (
	adminPaths      = []string{adminapi.StreamPath, adminapi.RoutePath, adminapi.ReadyPath}
	adminQueuePaths = []string{adminapi.LanesPath, adminapi.DeliveriesPath, adminapi.NotificationsPath}
)

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.intercom_webhook",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Provision keeps the context, whose end is the end of streams.
func (a *adminAPI) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	return nil
}

// Routes implements caddy.AdminRouter. The patterns have no methods, because one with a
// method would be in conflict with a longer one without, as the queue has them.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: adminapi.Prefix, Handler: caddy.AdminHandlerFunc(serveUnknown)},
		{Pattern: adminapi.StreamPath, Handler: getOnly(a.serveStream)},
		{Pattern: adminapi.RoutePath, Handler: getOnly(serveRoute)},
		{Pattern: adminapi.ReadyPath, Handler: getOnly(serveReady)},
	}
}

// serveStream writes a line of JSON for each verified notification, until the client hangs
// up or the config ends.
func (a *adminAPI) serveStream(w http.ResponseWriter, r *http.Request) error {
	s, err := stream.New(r.URL.Query())
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	}
	if a.ctx.Err() != nil {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Message: "this admin endpoint is being stopped, as with a reload: try again"}
	}
	if err := live.Subscribe(s); err != nil {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	}
	defer live.Unsubscribe(s)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	return s.Serve(ctx, w)
}

func getOnly(serve caddy.AdminHandlerFunc) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Method != http.MethodGet {
			w.Header()["Allow"] = []string{http.MethodGet}
			return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Message: r.URL.Path + " takes only GET"}
		}
		return serve(w, r)
	}
}

// serveUnknown answers 404 and says what there is.
func serveUnknown(_ http.ResponseWriter, r *http.Request) error {
	path := strings.TrimSuffix(r.URL.Path, "/")
	_, noQueue := caddy.GetModule(adminQueueModule)
	ofQueue := slices.ContainsFunc(adminQueuePaths, func(known string) bool {
		return path == known || strings.HasPrefix(path, known+"/")
	})
	if noQueue != nil && ofQueue {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Message: "this Caddy has no queue: build it with " +
			"xcaddy build --with github.com/caddy-intercom/caddy-intercom-webhook/queue"}
	}
	paths := slices.Clone(adminPaths)
	if noQueue == nil {
		paths = append(paths, adminQueuePaths...)
	}
	return caddy.APIError{
		HTTPStatus: http.StatusNotFound,
		Message:    fmt.Sprintf("there is no %s: this Caddy has %s", path, option.Choices(path, paths)),
	}
}

// serveReady answers whether a notification could be stored now, and if not, why.
func serveReady(w http.ResponseWriter, _ *http.Request) error {
	running, err := activeApp()
	if err == nil {
		err = running.ready()
	}
	answer, status := adminapi.Ready{Ready: true}, http.StatusOK
	if err != nil {
		answer, status = adminapi.Ready{Reason: err.Error()}, http.StatusServiceUnavailable
	}
	w.Header()["Content-Type"] = []string{"application/json"}
	w.Header()["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(answer)
}

// serveRoute answers where a notification would go: a line of JSON for each handler of the
// running config.
func serveRoute(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	for name := range query {
		if valid := []string{"topic", "workspace"}; !slices.Contains(valid, name) {
			return badRequest("unknown parameter %q: a route has %s", name, option.Choices(name, valid))
		}
	}
	topic := query.Get("topic")
	if !topicpattern.IsTopic(topic) {
		return badRequest("topic %q is not a dotted name of [A-Za-z0-9_-] segments", topic)
	}
	running, err := activeApp()
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	}
	w.Header()["Content-Type"] = []string{"application/x-ndjson"}
	encoder := json.NewEncoder(w)
	for _, line := range running.explain(topic, query.Get("workspace")) {
		if err := encoder.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

func badRequest(format string, args ...any) error {
	return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: fmt.Errorf(format, args...)}
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

// Interface guards
var (
	_ caddy.Provisioner = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
	_ caddy.App         = (*app)(nil)
)
