package module

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

func init() {
	caddy.RegisterModule(new(adminAPI))
}

// adminAPI serves the queues of the running config on Caddy's admin endpoint: their lanes and
// their deliveries. Lists and progress are NDJSON, one JSON object a line. It has no access
// control of its own: whoever can use the admin endpoint can use it.
//
// Caddy provisions it before the apps, and never cleans it up. So it has no state but the
// config's context, and finds the queues anew for each request.
type adminAPI struct {
	ctx caddy.Context // ends long answers
}

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.intercom_webhook_queue",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Provision implements caddy.Provisioner.
func (a *adminAPI) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	return nil
}

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: adminapi.LanesPath, Handler: a.handler(http.MethodGet, a.serveLanes)},
		{Pattern: adminapi.LanesPath + "/", Handler: a.handler(http.MethodPost, a.servePause)},
		{Pattern: adminapi.DeliveriesPath, Handler: a.handler(http.MethodGet, a.serveList)},
		{Pattern: adminapi.DeliveriesPath + "/", Handler: a.handler(http.MethodPost, a.serveChange)},
		{Pattern: adminapi.NotificationsPath + "/", Handler: a.handler(http.MethodGet, a.serveNotification)},
	}
}

var errNotRunning = errors.New("no config runs: Caddy is starting or shutting down; try again")

// handler returns a handler for requests with a method. Their context ends with the config,
// too. An error is the whole answer, with its status.
func (a *adminAPI) handler(method string, serve func(*lines, *http.Request) error) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Method != method {
			w.Header().Set("Allow", method)
			return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("method %s: use %s", r.Method, method)}
		}
		if caddy.ActiveContext().Context == nil && len(openWorkers()) == 0 { // the admin endpoint is there before the apps and after them
			return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: errNotRunning}
		}
		ctx, cancel := manage.WhileConfig(r.Context(), a.ctx)
		defer cancel()
		err := serve(newLines(w), r.WithContext(ctx))
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return caddy.APIError{HTTPStatus: manage.Status(err), Err: err}
	}
}

// parameters reads the parameters of a request. They are in the query; it refuses a body.
func parameters(r *http.Request, known []string) (manage.Parameters, error) {
	if n, _ := io.ReadFull(r.Body, make([]byte, 1)); n > 0 {
		return nil, manage.BadRequest(errors.New("the request has a body: give parameters in the query, as in ?topic=conversation.*&since=2h"))
	}
	return manage.ParseParameters(r.URL.RawQuery, known)
}

// find reads the parameters of a request, and finds the endpoint that they name.
func find(r *http.Request, known []string) (manage.Parameters, manage.Endpoint, error) {
	p, err := parameters(r, known)
	if err != nil {
		return p, manage.Endpoint{}, err
	}
	e, err := manage.FindEndpoint(r.Context(), openWorkers(), p.One("endpoint"))
	return p, e, err
}

func openWorkers() (all []*worker.Worker) {
	workers.Range(func(_, value any) bool {
		if w, ok := value.(*worker.Worker); ok {
			all = append(all, w)
		}
		return true
	})
	return all
}

// serveLanes lists the lanes of all endpoints, or of one. If a database does not answer, the
// lanes in the others are there all the same.
func (*adminAPI) serveLanes(out *lines, r *http.Request) error {
	p, err := parameters(r, manage.EndpointParameters)
	if err != nil {
		return err
	}
	all, err := manage.FindEndpoints(r.Context(), openWorkers(), p.One("endpoint"))
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range all {
		statuses, err := e.Lanes(r.Context())
		if err != nil {
			failed = append(failed, fmt.Errorf("endpoint %q: %w", e.Name, err))
		}
		writeLanes(out, statuses, "")
	}
	if err := errors.Join(failed...); err != nil {
		return out.fail(r.Context(), err, adminapi.Last{})
	}
	return nil
}

// writeLanes writes the status of the lane with a name, or of all lanes if it is empty.
func writeLanes(out *lines, statuses []worker.LaneStatus, name string) {
	var views []adminapi.Lane
	for i := range statuses {
		if name == "" || statuses[i].Lane.Name == name {
			views = append(views, manage.ViewLane(&statuses[i]))
		}
	}
	writeEach(out, views)
}

// servePause pauses or resumes a lane: /lanes/<lane>/pause or /resume.
func (*adminAPI) servePause(out *lines, r *http.Request) error {
	escaped, action, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), adminapi.LanesPath+"/"), "/")
	lane, err := url.PathUnescape(escaped)
	if err != nil || lane == "" || action != "pause" && action != "resume" { // no name would mean all lanes
		return manage.NotFound(fmt.Errorf("there is no such path; a lane has %s/<lane>/pause and %[1]s/<lane>/resume", adminapi.LanesPath))
	}
	_, e, err := find(r, manage.EndpointParameters)
	if err != nil {
		return err
	}
	if err := e.SetPaused(r.Context(), lane, action == "pause", client(r)); err != nil {
		return err
	}
	statuses, err := e.Lanes(r.Context())
	writeLanes(out, statuses, lane)
	return err
}

// serveList lists deliveries, the newest first.
func (*adminAPI) serveList(out *lines, r *http.Request) error {
	p, e, err := find(r, manage.ListParameters)
	if err != nil {
		return err
	}
	s, err := p.List(e)
	if err != nil {
		return err
	}
	more, err := e.List(r.Context(), s, func(found []adminapi.Delivery) { writeEach(out, found) })
	if err != nil {
		return out.fail(r.Context(), err, adminapi.Last{Cursor: more.String()})
	}
	if text := more.String(); text != "" {
		out.write(adminapi.Last{Cursor: text})
	}
	return nil
}

// serveNotification shows the deliveries of the notifications that have an id.
func (*adminAPI) serveNotification(out *lines, r *http.Request) error {
	id := strings.TrimPrefix(r.URL.Path, adminapi.NotificationsPath+"/")
	if id == "" { // it would select all
		return manage.NotFound(fmt.Errorf("there is no such path; a notification has %s/<its id>", adminapi.NotificationsPath))
	}
	_, e, err := find(r, manage.EndpointParameters)
	if err != nil {
		return err
	}
	found, err := e.Find(r.Context(), id)
	writeEach(out, found)
	return err
}

// serveChange makes a change, and writes how far it is.
func (*adminAPI) serveChange(out *lines, r *http.Request) error {
	v := manage.Verb(strings.TrimPrefix(r.URL.Path, adminapi.DeliveriesPath+"/"))
	if !slices.Contains(manage.Verbs, v) {
		return manage.NotFound(fmt.Errorf("there is no such path; below %s/ are %s", adminapi.DeliveriesPath, option.Choices(string(v), manage.Names(manage.Verbs))))
	}
	p, e, err := find(r, manage.ChangeParameters)
	if err != nil {
		return err
	}
	c, err := p.Change(e, v, client(r))
	if err != nil {
		return err
	}
	at, done, err := e.Change(r.Context(), c, func(done adminapi.Progress) { out.write(done) })
	if err != nil {
		return out.fail(r.Context(), err, adminapi.Last{Cursor: at.String(), Progress: &done})
	}
	return nil
}

// writeTimeout bounds how long a client may keep a line from being written. It is shorter than
// the 10s that Caddy waits for requests of an admin endpoint when it replaces the config.
const writeTimeout = 5 * time.Second

// lines writes the answer of the admin API: NDJSON, one JSON object a line.
type lines struct {
	header     http.Header
	encoder    *json.Encoder
	controller *http.ResponseController
	begun      bool
}

func newLines(w http.ResponseWriter) *lines {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return &lines{header: w.Header(), encoder: encoder, controller: http.NewResponseController(w)}
}

// write writes a line, and sends it at once.
func (l *lines) write(line any) { writeEach(l, []any{line}) }

// writeEach writes a line for each element, and sends them at once. Without an element it
// sends nothing, so that an error can still be the whole answer. That the client is gone
// shows in the context of the request.
func writeEach[T any](l *lines, elements []T) {
	if len(elements) == 0 {
		return
	}
	l.header.Set("Content-Type", "application/x-ndjson")
	_ = l.controller.SetWriteDeadline(time.Now().Add(writeTimeout))
	for _, element := range elements {
		l.begun = true
		_ = l.encoder.Encode(element)
	}
	_ = l.controller.Flush()
	_ = l.controller.SetWriteDeadline(time.Time{}) // the end of the answer may come much later
}

// fail ends an answer with an error: as the last line, or as the whole answer if there is no
// line yet and nothing was done.
func (l *lines) fail(ctx context.Context, err error, last adminapi.Last) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if !l.begun && (last.Progress == nil || last.Done == 0) {
		return err
	}
	last.Error = err.Error()
	l.write(last)
	return nil
}

// Interface guards
var (
	_ caddy.AdminRouter = (*adminAPI)(nil)
	_ caddy.Provisioner = (*adminAPI)(nil)
)
