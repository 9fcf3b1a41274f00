// Package web has the pages of the queue: HTML without scripts. Who may see them is checked before.
package web

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"html/template"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/jsonview"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

const (
	maxFormSize = 1 << 20
	listTime    = 5 * time.Second // that a list looks for deliveries, before it shows what it has
)

// pages are the pages for one database.
type pages struct {
	config  context.Context // ends with the config
	worker  *worker.Worker
	prefix  string // of the path
	who     func(*http.Request) string
	changes *changes
}

// New returns the pages for a database, under a path prefix. Changes end with the config. who returns who makes a
// request, for the log.
func New(config context.Context, w *worker.Worker, prefix string, who func(*http.Request) string) http.Handler {
	p := &pages{config: config, worker: w, prefix: prefix, who: who, changes: new(changes)}
	mux := http.NewServeMux()
	for pattern, serve := range routes {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+prefix+path, p.withErrors(func(w http.ResponseWriter, r *http.Request) error { return serve(p, w, r) }))
	}
	mux.HandleFunc(prefix+"/", p.withErrors(func(http.ResponseWriter, *http.Request) error {
		return manage.NotFound(errors.New("there is no such page"))
	}))
	// A form on a foreign web page must not change anything in the name of a user who is logged in.
	protected := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		if foreign(r) {
			http.Error(w, "a page of another site asks for this", http.StatusForbidden)
			return
		}
		protected.ServeHTTP(w, r)
	})
}

// routes are the pages, their files and their forms.
var routes = map[string]func(*pages, http.ResponseWriter, *http.Request) error{
	"GET /{$}":          (*pages).serveOverview,
	"GET /deliveries":   (*pages).serveDeliveries,
	"GET /notification": (*pages).serveNotification,
	"GET /changes":      (*pages).serveChanges,
	"GET /style.css":    (*pages).serveStyle,
	"POST /change":      (*pages).serveChange,
	"POST /lane":        (*pages).serveLane,
}

// Owns reports whether a request is for the pages under a prefix. All others can be for a webhook at the same site: all
// POSTs but the forms and, at the root of a site, all that is no page, and the HEAD with which Intercom validates a URL.
func Owns(prefix string, r *http.Request) bool {
	path, below := strings.CutPrefix(r.URL.Path, prefix)
	switch r.Method {
	case http.MethodPost:
		kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		return below && routes["POST "+path] != nil && kind == "application/x-www-form-urlencoded"
	case http.MethodGet:
		return prefix != "" || path == "/" || routes["GET "+path] != nil
	default:
		return prefix != "" && r.Method == http.MethodHead
	}
}

// foreign reports whether a page of another site has a browser ask for something else than a page that a person then
// sees: a foreign <img> must not make the database work.
func foreign(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return r.Method != http.MethodGet || r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"
}

// headers keep browsers from running, loading or storing anything, and foreign web pages from showing the pages in a
// frame: a click that they lead onto a button is a request of the pages' own origin. Without a referrer, browsers
// would send `Origin: null` with forms, which would then be refused.
var headers = map[string]string{
	"Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
	"X-Frame-Options":         "DENY",
	"X-Content-Type-Options":  "nosniff",
	"Referrer-Policy":         "same-origin",
	"Cache-Control":           "no-store",
}

// withErrors shows errors of handlers, with their status.
func (p *pages) withErrors(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := manage.WhileConfig(r.Context(), p.config)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxFormSize)
		err := serve(w, r.WithContext(ctx))
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			p.show(w, manage.Status(err), "error", err.Error())
		}
	}
}

//go:embed page
var pageFiles embed.FS

func (*pages) serveStyle(w http.ResponseWriter, r *http.Request) error {
	http.ServeFileFS(w, r, pageFiles, "page/style.css")
	return nil
}

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"plain":    plain,
	"age":      func(seconds float64) time.Duration { return time.Duration(seconds) * time.Second },
	"seconds":  func(seconds float64) string { return strconv.FormatFloat(seconds, 'f', 3, 64) },
	"readable": readable,
	"may":      may,
}).ParseFS(pageFiles, "page/*.html"))

// show writes an HTML page.
func (p *pages) show(w http.ResponseWriter, status int, name string, data any) {
	var text bytes.Buffer
	if err := templates.ExecuteTemplate(&text, name, map[string]any{"Path": p.prefix, "Data": data}); err != nil {
		http.Error(w, "the page cannot be shown: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes()) // a client that is gone needs nothing
}

// plain returns text of somebody else with its control characters in visible form: also those that change the
// direction of the text after them. Joiners stay, for scripts and emoji.
func plain(text string) string {
	var b strings.Builder
	for _, char := range text {
		if unicode.IsGraphic(char) || strings.ContainsRune("\n\t\u200c\u200d", char) {
			b.WriteRune(char)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(char), "'"))
		}
	}
	return b.String()
}

// deadGroup is a group of the dead deliveries of an endpoint.
type deadGroup struct {
	Endpoint string
	db.DeadGroup
}

// serveOverview shows the lanes and the dead letters.
func (p *pages) serveOverview(w http.ResponseWriter, r *http.Request) error {
	lanes, err := manage.Endpoint{Worker: p.worker}.Lanes(r.Context())
	if err != nil {
		return err
	}
	var dead []deadGroup
	for _, name := range p.endpoints(lanes) {
		groups, err := manage.Endpoint{Worker: p.worker, Name: name}.DeadGroups(r.Context())
		if err != nil {
			return err
		}
		for _, group := range groups {
			dead = append(dead, deadGroup{name, group})
		}
	}
	p.show(w, http.StatusOK, "overview", map[string]any{"Lanes": lanes, "States": manage.Names(manage.BacklogStates), "Dead": dead})
	return nil
}

// endpoints returns the names of the endpoints of the config, and of those of the lanes.
func (p *pages) endpoints(lanes []adminapi.Lane) []string {
	found := make(map[string]bool)
	for name := range p.worker.Config() {
		found[name] = true
	}
	for i := range lanes {
		found[lanes[i].Endpoint] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// serveLane pauses or resumes a lane.
func (p *pages) serveLane(w http.ResponseWriter, r *http.Request) error {
	action, lane := r.PostFormValue("action"), r.PostFormValue("lane")
	if action != "pause" && action != "resume" || lane == "" {
		return manage.BadRequest(errors.New("give a lane, and the action pause or resume"))
	}
	e := manage.Endpoint{Worker: p.worker, Name: r.PostFormValue("endpoint")}
	if err := e.SetPaused(r.Context(), lane, action == "pause", p.who(r)); err != nil {
		return err
	}
	http.Redirect(w, r, p.prefix+"/", http.StatusSeeOther)
	return nil
}

// endpoint returns the endpoint of a name or, for no name, the first one of the config.
func (p *pages) endpoint(name string) manage.Endpoint {
	if names := p.endpoints(nil); name == "" && len(names) > 0 {
		name = names[0]
	}
	return manage.Endpoint{Worker: p.worker, Name: name}
}

// serveDeliveries lists deliveries by filters, the newest first.
func (p *pages) serveDeliveries(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	maps.DeleteFunc(query, func(_ string, values []string) bool { // fields that were left empty
		return !slices.ContainsFunc(values, func(v string) bool { return v != "" })
	})
	parameters, err := manage.ParseParameters(query.Encode(), manage.ListParameters)
	if err != nil {
		return err
	}
	e := p.endpoint(parameters.Get("endpoint"))
	selected, err := manage.Read(e, parameters, "", "")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), listTime, errors.New("looking for deliveries takes long: go on with older ones"))
	defer cancel()
	var found []adminapi.Delivery
	more, err := e.List(ctx, selected.Selection, func(some []adminapi.Delivery) { found = append(found, some...) })
	if err != nil {
		if ctx.Err() == nil || r.Context().Err() != nil {
			return err
		}
		err = context.Cause(ctx)
	}
	older := ""
	if text := more.String(); text != "" {
		parameters.Set("cursor", text)
		older = p.prefix + "/deliveries?" + parameters.Encode()
	}
	p.show(w, http.StatusOK, "deliveries", map[string]any{
		"Query": query, "States": manage.Names(db.States), "Reasons": manage.Names(db.Reasons), "Endpoint": e.Name, "Endpoints": p.endpoints(nil),
		"Found": found, "Older": older, "Err": err,
	})
	return nil
}

// serveNotification shows the notifications that have an id, with their deliveries.
func (p *pages) serveNotification(w http.ResponseWriter, r *http.Request) error {
	id := strings.TrimSpace(r.URL.Query().Get("id"))
	if id == "" {
		http.Redirect(w, r, p.prefix+"/", http.StatusSeeOther)
		return nil
	}
	e := p.endpoint(r.URL.Query().Get("endpoint"))
	found, err := e.Find(r.Context(), id)
	if err != nil {
		return err
	}
	p.show(w, http.StatusOK, "notification", map[string]any{"ID": id, "Notifications": found})
	return nil
}

// readable returns the body of a request in a form for people.
func readable(request *adminapi.Request) string {
	body := request.BodyBase64
	if request.Body != nil {
		body = []byte(*request.Body)
	}
	text, _ := jsonview.Indent(body)
	return string(text)
}
