// Package web has the pages of the queue: HTML, which a script of ours only refreshes. Who may see them is checked
// before.
package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"html/template"
	"maps"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

const maxFormSize = 1 << 20

// pages are the pages for one database.
type pages struct {
	config  context.Context // ends with the config
	worker  *worker.Worker
	prefix  string // of the path
	who     func(*http.Request) string
	webhook func() (host, path string) // of where notifications come in
	changes *changes
	known   known
	dead    dead
}

// New returns the pages for a database, under a path prefix. Changes end with the config. who returns who makes a
// request, for the log; webhook the host and path at which the config takes notifications, as far as that is known.
func New(config context.Context, w *worker.Worker, prefix string, who func(*http.Request) string, webhook func() (host, path string)) http.Handler {
	p := &pages{config: config, worker: w, prefix: prefix, who: who, webhook: webhook, changes: new(changes)}
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
	"GET /lane":         (*pages).serveLane,
	"GET /deliveries":   (*pages).serveDeliveries,
	"GET /dead":         (*pages).serveDead,
	"GET /find":         (*pages).serveFind,
	"GET /notification": (*pages).serveNotification,
	"GET /body":         (*pages).serveBody,
	"GET /confirm":      (*pages).serveConfirm,
	"GET /changes":      (*pages).serveChanges,
	"GET /style.css":    (*pages).serveFile,
	"GET /refresh.js":   (*pages).serveFile,
	"GET /icon.svg":     (*pages).serveFile,
	"POST /change":      (*pages).serveChange,
	"POST /stop":        (*pages).serveStop,
	"POST /lane":        (*pages).servePause,
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

// headers keep browsers from loading anything from elsewhere, running anything but the script, and storing anything,
// and foreign web pages from showing the pages in a frame: a click that they lead onto a button is a request of the
// pages' own origin. Without a referrer, browsers would send `Origin: null` with forms, which would then be refused.
var headers = map[string]string{
	"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; " +
		"form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
	"X-Frame-Options":              "DENY",
	"X-Content-Type-Options":       "nosniff",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "same-origin",
	"Cache-Control":                "no-store",
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
			p.show(w, r, page{Name: "error", Title: "This did not work", Status: manage.Status(err), Data: err.Error()})
		}
	}
}

//go:embed page
var files embed.FS

var templates = template.Must(template.New("").Funcs(functions).ParseFS(files, "page/*.html"))

func (*pages) serveFile(w http.ResponseWriter, r *http.Request) error {
	http.ServeFileFS(w, r, files, "page/"+path.Base(r.URL.Path))
	return nil
}

// page is a page to show.
type page struct {
	Name   string // of its template
	Title  string
	Status int  // 200 if it is 0
	Live   bool // the script refreshes it
	Data   any
}

// show writes a page, or only its main part if the script asks for that. What the client has already is not sent again.
func (p *pages) show(w http.ResponseWriter, r *http.Request, shown page) {
	var main, text bytes.Buffer
	err := templates.ExecuteTemplate(&main, shown.Name, map[string]any{"Path": p.prefix, "Data": shown.Data, "Title": shown.Title})
	sum := sha256.Sum256(main.Bytes())
	tag := `"` + hex.EncodeToString(sum[:12]) + `"`
	if err == nil && r.Header.Get("X-Part") == "" {
		err = templates.ExecuteTemplate(&text, "layout", map[string]any{
			"Path": p.prefix, "Page": shown, "Tag": tag, "Main": template.HTML(main.String()), //nolint:gosec // a template has made it
		})
		main = text
	}
	if err != nil {
		http.Error(w, "the page cannot be shown: "+err.Error(), http.StatusInternalServerError)
		return
	}
	status := max(shown.Status, http.StatusOK)
	if status == http.StatusOK {
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(main.Bytes()) // a client that is gone needs nothing
}

// knownTime is how old the names of endpoints and lanes in forms may be, so that not every page counts all deliveries.
const knownTime = 5 * time.Second

// known are the lanes of the database, as they were lately.
type known struct {
	mu    sync.Mutex
	asked time.Time
	lanes []adminapi.Lane
}

// lanes returns the lanes of the database as they were lately.
func (p *pages) lanes(ctx context.Context) (lanes []adminapi.Lane, err error) {
	p.known.mu.Lock()
	defer p.known.mu.Unlock()
	if time.Since(p.known.asked) < knownTime {
		return p.known.lanes, nil
	}
	if lanes, err = (manage.Endpoint{Worker: p.worker}).Lanes(ctx); err == nil {
		p.known.asked, p.known.lanes = time.Now(), lanes
	}
	return lanes, err
}

// endpoints returns the endpoints of the config, and those of the database that have lanes.
func (p *pages) endpoints(r *http.Request) ([]string, error) {
	found := make(map[string]bool)
	for name := range p.worker.Config() {
		found[name] = true
	}
	lanes, err := p.lanes(r.Context())
	for i := range lanes {
		found[lanes[i].Endpoint] = true
	}
	return slices.Sorted(maps.Keys(found)), err
}

// endpoint returns the endpoint that a request names or, if there is only one, that one. Otherwise it has no name, and
// is all of them.
func (p *pages) endpoint(r *http.Request) (e manage.Endpoint, all []string, err error) {
	all, err = p.endpoints(r)
	e = manage.Endpoint{Worker: p.worker, Name: r.FormValue("endpoint")}
	if e.Name == "" && len(all) == 1 {
		e.Name = all[0]
	}
	return e, all, err
}
