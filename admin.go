package intercomwebhook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/stream"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

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
	defer context.AfterFunc(a.ctx, cancel)() //nolint:contextcheck // the config ends it, too
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

// Interface guards
var (
	_ caddy.Provisioner = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)
