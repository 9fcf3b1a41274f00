package intercomwebhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

func init() {
	caddy.RegisterModule(new(adminAPI))
}

// adminAPI is what this module adds to Caddy's admin endpoint: a live stream of verified
// notifications, and whether a notification could be stored now. The queue adds its own part
// as another module.
//
// Caddy makes one for each config, before the apps, and never cleans it up. So it keeps
// nothing, and looks up the state of the running config with each request.
type adminAPI struct{}

const (
	adminPrefix = "/intercom_webhook/"
	streamPath  = adminPrefix + "notifications/stream"
	readyPath   = adminPrefix + "ready"

	// adminQueueModule is the module that serves adminQueuePaths.
	adminQueueModule = "admin.api.intercom_webhook_queue"

	// streamEndTimeout is how long a slow reader may take for what is being written when the
	// stream ends. Caddy waits 10 s for the requests of its former admin endpoint.
	streamEndTimeout = time.Second
)

var adminQueuePaths = []string{adminPrefix + "lanes", adminPrefix + "deliveries"}

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.intercom_webhook",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements caddy.AdminRouter. The patterns have no methods, because one with a
// method would be in conflict with a longer one without, as the queue has them.
func (*adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: adminPrefix, Handler: caddy.AdminHandlerFunc(serveUnknown)},
		{Pattern: streamPath, Handler: getOnly(serveStream)},
		{Pattern: readyPath, Handler: getOnly(serveReady)},
	}
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
	paths := []string{streamPath, readyPath}
	if noQueue == nil {
		paths = append(paths, adminQueuePaths...)
	}
	return caddy.APIError{
		HTTPStatus: http.StatusNotFound,
		Message:    fmt.Sprintf("there is no %s: this Caddy has %s", path, option.Choices(path, paths)),
	}
}

// serveReady answers whether a notification could be stored now, and if not, why.
func serveReady(w http.ResponseWriter, r *http.Request) error {
	answer := struct {
		Ready  bool   `json:"ready"`
		Reason string `json:"reason,omitempty"`
	}{Ready: true}
	status := http.StatusOK
	if err := activeReadiness().check(r.Context()); err != nil {
		answer.Ready, answer.Reason, status = false, err.Error(), http.StatusServiceUnavailable
	}
	w.Header()["Content-Type"] = []string{"application/json"}
	w.Header()["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(answer)
}

// serveStream writes a line of JSON for each verified notification, until the client hangs
// up or Caddy closes this admin endpoint, as it does with each reload.
func serveStream(w http.ResponseWriter, r *http.Request) error {
	s, err := newStream(r.URL.Query())
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	}
	if err := notifications.subscribe(s); err != nil {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	}
	defer notifications.unsubscribe(s)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stopWatching, ok := shutdowns.cancelOnShutdown(r, cancel)
	if !ok {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Message: "this admin endpoint is being stopped, as with a reload: try again"}
	}
	defer stopWatching()
	writer := http.NewResponseController(w)
	// Caddy's timeout for reading requests would end the request when it has passed.
	if err := writer.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("preparing the stream: %w", err)
	}
	stopWaiting := context.AfterFunc(ctx, func() { _ = writer.SetWriteDeadline(time.Now().Add(streamEndTimeout)) })
	defer stopWaiting()

	w.Header()["Content-Type"] = []string{"application/x-ndjson"}
	w.Header()["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(http.StatusOK)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for {
		if err := writer.Flush(); err != nil {
			return nil // the client has hung up
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		for entry, ok := s.next(); ok && ctx.Err() == nil; entry, ok = s.next() {
			if err := encoder.Encode(entry.line()); err != nil {
				return nil // the client has hung up
			}
		}
	}
}

// line returns the JSON value that tells of the entry.
func (e streamEntry) line() any {
	if e.sighting != nil {
		return e.sighting
	}
	return struct {
		Dropped int `json:"dropped"`
	}{e.lost}
}

var streamParameters = []string{"topic", "workspace", "request"}

// newStream reads the filters of a stream. topic and workspace may be repeated.
func newStream(query url.Values) (*stream, error) {
	for name := range query {
		if !slices.Contains(streamParameters, name) {
			return nil, fmt.Errorf("unknown parameter %q: a stream has %s", name, option.Choices(name, streamParameters))
		}
	}
	s := &stream{topics: query["topic"], workspaces: query["workspace"]}
	for _, pattern := range s.topics {
		if err := topicpattern.Check(pattern); err != nil {
			return nil, err
		}
	}
	if slices.Contains(s.workspaces, "") {
		return nil, errors.New("workspace is empty: give the id of a workspace, or leave it out")
	}
	if !query.Has("request") {
		return s, nil
	}
	var err error
	if s.requests, err = strconv.ParseBool(query.Get("request")); err != nil {
		return nil, fmt.Errorf("request %q is neither true nor false", query.Get("request"))
	}
	return s, nil
}

// Interface guards
var (
	_ caddy.Module      = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)
