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

func init() { caddy.RegisterModule(new(adminAPI)) }

// adminAPI serves the queues of the running config on Caddy's admin endpoint: their lanes and their deliveries. Lists
// and progress are NDJSON, one JSON object a line. It has no access control of its own: whoever can use the admin
// endpoint can use it.
//
// Caddy provisions it before the apps, and never cleans it up. So it has no state but the config's context, and finds
// the queues anew for each request.
type adminAPI struct {
	ctx      caddy.Context // ends long answers
	starting func() bool   // whether the config is being started
}

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.intercom_webhook_queue", New: func() caddy.Module { return new(adminAPI) }}
}

// Provision implements caddy.Provisioner.
func (a *adminAPI) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.starting = func() bool { return caddy.ActiveContext().Context != ctx.Context }
	return nil
}

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		a.route(adminapi.LanesPath, http.MethodGet, manage.LanesParameters, serveLanes),
		a.route(adminapi.LanesPath+"/", http.MethodPost, manage.EndpointParameters, ofEndpoint(servePause)),
		a.route(adminapi.DeliveriesPath, http.MethodGet, manage.ListParameters, ofEndpoint(serveList)),
		a.route(adminapi.DeliveriesPath+"/", http.MethodPost, manage.ChangeParameters, ofEndpoint(serveChange)),
		a.route(adminapi.NotificationsPath+"/", http.MethodGet, manage.EndpointParameters, ofEndpoint(serveNotification)),
	}
}

// call is a request to the admin API.
type call struct {
	*http.Request            // whose context ends with the config, too
	rest          string     // of its path, still escaped
	parameters    url.Values // which it has in the query
	out           *lines
}

// route is for requests with one method. An error is the whole answer, with its status.
func (a *adminAPI) route(pattern, method string, known []string, serve func(call) error) caddy.AdminRoute {
	handle := func(w http.ResponseWriter, r *http.Request) error {
		if r.Method != method {
			w.Header().Set("Allow", method)
			return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("method %s: use %s", r.Method, method)}
		}
		query, err := queryOf(r)
		if err != nil {
			return manage.BadRequest(err)
		}
		ctx, cancel := manage.WhileConfig(r.Context(), a.ctx)
		defer cancel()
		parameters, err := manage.ParseParameters(query, known)
		if err == nil {
			err = serve(call{r.WithContext(ctx), strings.TrimPrefix(r.URL.EscapedPath(), pattern), parameters, &lines{ResponseWriter: w}})
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case errors.Is(err, manage.ErrNoQueue) && a.starting():
			err = errStarting
		}
		return caddy.APIError{HTTPStatus: manage.Status(err), Err: err}
	}
	return caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(handle)}
}

// maxForm bounds the parameters in the body of a POST.
const maxForm = 1 << 20

// queryOf returns the parameters of a request: those of the query and, as thousands of ids are too long for that,
// those of a form in the body of a POST.
func queryOf(r *http.Request) (string, error) {
	form, err := io.ReadAll(io.LimitReader(r.Body, maxForm+1))
	isForm := r.Method == http.MethodPost && r.Header.Get("Content-Type") == "application/x-www-form-urlencoded"
	switch {
	case err != nil:
		return "", errors.New("the body cannot be read")
	case len(form) == 0:
		return r.URL.RawQuery, nil
	case !isForm:
		return "", errors.New("the request has a body: give parameters in the query, as in ?topic=conversation.*&since=2h, or as the form of a POST")
	case len(form) > maxForm:
		return "", fmt.Errorf("the form is larger than %d bytes: make several requests", maxForm)
	default:
		return strings.Trim(r.URL.RawQuery+"&"+string(form), "&"), nil
	}
}

// ofEndpoint finds the endpoint that the parameters name.
func ofEndpoint(serve func(call, manage.Endpoint) error) func(call) error {
	return func(c call) error {
		e, err := manage.FindEndpoint(c.Context(), openWorkers(), c.parameters.Get("endpoint"))
		if err != nil {
			return err
		}
		return serve(c, e)
	}
}

func openWorkers() (all []*worker.Worker) {
	workers.Range(func(_, value any) bool {
		if w, ok := value.(*worker.Worker); ok { // otherwise it is being opened
			all = append(all, w)
		}
		return true
	})
	return all
}

func noSuchPath(format string, args ...any) error {
	return manage.NotFound(fmt.Errorf("there is no such path; "+format, args...))
}

// serveLanes lists the lanes of all endpoints, or of one. If a database does not answer, the lanes in the others are
// there all the same.
func serveLanes(c call) error {
	grouped, err := manage.WantsDeadLetters(c.parameters)
	if err != nil {
		return err
	}
	all, err := manage.FindEndpoints(c.Context(), openWorkers(), c.parameters.Get("endpoint"))
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range all {
		lanes, err := e.Lanes(c.Context())
		if err == nil && grouped {
			err = e.AddDeadLetters(c.Context(), lanes)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("endpoint %q: %w", e.Name, err))
		}
		write(c.out, lanes...)
	}
	return c.out.fail(c.Context(), errors.Join(failed...), adminapi.Last{})
}

// servePause pauses or resumes a lane: /lanes/<lane>/pause or /resume.
func servePause(c call, e manage.Endpoint) error {
	escaped, action, _ := strings.Cut(c.rest, "/")
	lane, err := url.PathUnescape(escaped)
	if err != nil || lane == "" || action != "pause" && action != "resume" { // no name would mean all lanes
		return noSuchPath("a lane has %s/<lane>/pause and %[1]s/<lane>/resume", adminapi.LanesPath)
	}
	if err := e.SetPaused(c.Context(), lane, action == "pause", client(c.Request)); err != nil {
		return err
	}
	lanes, err := e.Lanes(c.Context())
	write(c.out, slices.DeleteFunc(lanes, func(other adminapi.Lane) bool { return other.Lane != lane })...)
	return err
}

// serveList lists deliveries, the newest first.
func serveList(c call, e manage.Endpoint) error {
	s, err := manage.Read(e, c.parameters, "", "")
	if err != nil {
		return err
	}
	more, err := e.List(c.Context(), s.Selection, func(found []adminapi.Delivery) { write(c.out, found...) })
	if text := more.String(); text != "" && err == nil {
		write(c.out, adminapi.Last{Cursor: text})
	}
	return c.out.fail(c.Context(), err, adminapi.Last{Cursor: more.String()})
}

// serveNotification shows the deliveries of the notifications that have an id.
func serveNotification(c call, e manage.Endpoint) error {
	id, err := url.PathUnescape(c.rest)
	if err != nil || id == "" { // it would select all
		return noSuchPath("a notification has %s/<its id>", adminapi.NotificationsPath)
	}
	found, err := e.Find(c.Context(), id)
	write(c.out, slices.Concat(found...)...)
	return err
}

// serveChange makes a change, and writes how far it is.
func serveChange(c call, e manage.Endpoint) error {
	v := manage.Verb(c.rest)
	if !slices.Contains(manage.Verbs, v) {
		return noSuchPath("below %s/ are %s", adminapi.DeliveriesPath, option.Choices(c.rest, manage.Names(manage.Verbs)))
	}
	change, err := manage.Read(e, c.parameters, v, client(c.Request))
	if err != nil {
		return err
	}
	at, done, err := manage.Make(c.Context(), e, change, func(done adminapi.Progress) { write(c.out, done) })
	return c.out.fail(c.Context(), err, adminapi.Last{Cursor: at.String(), Progress: &done})
}

// writeTimeout bounds how long a client may keep a line from being written. It is shorter than the 10s that Caddy
// waits for requests of an admin endpoint when it replaces the config.
const writeTimeout = 5 * time.Second

// lines writes the answer of the admin API: NDJSON, one JSON object a line.
type lines struct {
	http.ResponseWriter
	begun bool
}

// write writes a line for each element, and sends them at once. Without an element it sends nothing, so that an error
// can still be the whole answer. That the client is gone shows in the context of the request.
func write[T any](l *lines, elements ...T) {
	if len(elements) == 0 {
		return
	}
	l.begun = true
	l.Header().Set("Content-Type", "application/x-ndjson")
	controller, encoder := http.NewResponseController(l.ResponseWriter), json.NewEncoder(l)
	encoder.SetEscapeHTML(false)
	_ = controller.SetWriteDeadline(time.Now().Add(writeTimeout))
	for _, element := range elements {
		_ = encoder.Encode(element)
	}
	_ = controller.Flush()
	_ = controller.SetWriteDeadline(time.Time{}) // the end of the answer may come much later
}

// fail ends an answer with an error, if there is one: as the last line, or as the whole answer if there is no line
// yet and nothing was done.
func (l *lines) fail(ctx context.Context, err error, last adminapi.Last) error {
	if err == nil || !l.begun && (last.Progress == nil || last.Done == 0) {
		return err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	last.Error = err.Error()
	write(l, last)
	return nil
}

// Interface guards
var (
	_ caddy.AdminRouter = (*adminAPI)(nil)
	_ caddy.Provisioner = (*adminAPI)(nil)
)
