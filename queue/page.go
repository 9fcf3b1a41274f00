package queue

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// page is our own part of the web UI: dead letters in groups, lanes, and the life of a
// notification. It is HTML without scripts. Who may use it is checked before.
type page struct {
	dispatcher *dispatcher
	River      string // the path of River's UI
	Path       string
	changes    *pageChanges
	surveying  chan struct{} // has an element while dead letters are grouped
	http.Handler
}

// The paths of the page, behind the prefix of the UI.
const (
	pagePath       = "/intercom"
	pageStylePath  = pagePath + "/style.css"
	pageJobPath    = pagePath + "/job"
	pageWorkPath   = pagePath + "/changes"
	pageChangePath = pagePath + "/change" // only POST
	pageLanePath   = pagePath + "/lane"   // only POST
)

// isPageForm reports whether a POST to this path is for the page. All others can be for a
// webhook at the same site.
func isPageForm(prefix, path string) bool {
	return path == prefix+pageChangePath || path == prefix+pageLanePath
}

func newPage(ctx context.Context, d *dispatcher, prefix string) *page {
	p := &page{
		dispatcher: d, River: prefix + "/", Path: prefix + pagePath,
		changes: newPageChanges(ctx), surveying: make(chan struct{}, 1),
	}
	mux := http.NewServeMux()
	for pattern, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET " + prefix + pagePath:        p.serveOverview,
		"GET " + prefix + pagePath + "/":  p.serveUnknown,
		"GET " + prefix + pageJobPath:     p.serveJob,
		"GET " + prefix + pageWorkPath:    p.serveWork,
		"GET " + prefix + pageStylePath:   p.serveStyle,
		"POST " + prefix + pageChangePath: p.serveChange,
		"POST " + prefix + pageLanePath:   p.serveLane,
	} {
		mux.HandleFunc(pattern, p.withErrors(serve))
	}
	// A form on a foreign web page must not change anything in the name of a user who is
	// logged in.
	p.Handler = withPageHeaders(http.NewCrossOriginProtection().Handler(mux))
	return p
}

// has reports whether a path is one of the page.
func (p *page) has(path string) bool {
	return path == p.Path || strings.HasPrefix(path, p.Path+"/")
}

// withPageHeaders keeps browsers from running, loading or storing anything, in addition to what
// UI.setHeaders forbids. Without a referrer, browsers would send `Origin: null` with forms,
// which would then be refused.
func withPageHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// withErrors shows errors of handlers. The status is that of a caddy.APIError, or 503.
func (p *page) withErrors(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := p.dispatcher.ready()
		if err == nil {
			err = serve(w, r)
		}
		if err == nil {
			return
		}
		status := http.StatusServiceUnavailable
		if api, ok := errors.AsType[caddy.APIError](err); ok {
			status, err = api.HTTPStatus, api.Err
		}
		p.show(w, status, "error", err.Error())
	}
}

func (*page) serveUnknown(http.ResponseWriter, *http.Request) error {
	return notFound(errors.New("there is no such page"))
}

//go:embed page
var pageFiles embed.FS

func (*page) serveStyle(w http.ResponseWriter, r *http.Request) error {
	http.ServeFileFS(w, r, pageFiles, "page/style.css")
	return nil
}

var pageTemplates = template.Must(template.New("").Funcs(template.FuncMap{
	"plain": plain,
	"age":   func(seconds float64) time.Duration { return time.Duration(seconds) * time.Second },
	"seconds": func(seconds float64) string {
		return strconv.FormatFloat(seconds, 'f', 3, 64)
	},
}).ParseFS(pageFiles, "page/*.html"))

// shown is what a template gets.
type shown struct {
	*page
	Data any
}

// show writes an HTML page.
func (p *page) show(w http.ResponseWriter, status int, name string, data any) {
	var text bytes.Buffer
	if err := pageTemplates.ExecuteTemplate(&text, name, shown{p, data}); err != nil {
		http.Error(w, "the page cannot be shown: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes()) // a client that is gone needs nothing
}

// readForm reads the fields of a form.
func readForm(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxParametersSize)
	if err := r.ParseForm(); err != nil {
		return badRequest(errors.New("the form cannot be read: go back, and try again"))
	}
	return nil
}

// plain returns text of somebody else with its control characters in visible form: also those
// that change the direction of the text after them. Joiners stay, for scripts and emoji.
func plain(text string) string {
	const nonJoiner, joiner = '\u200c', '\u200d'
	var b strings.Builder
	for _, char := range text {
		switch {
		case unicode.IsGraphic(char) || char == '\n' || char == '\t' || char == nonJoiner || char == joiner:
			b.WriteRune(char)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(char), "'"))
		}
	}
	return b.String()
}

// serveOverview shows the lanes and the dead letters.
func (p *page) serveOverview(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := p.dispatcher.whileConfigRuns(r.Context())
	defer cancel()
	select { // one at a time, because it keeps the database busy
	case p.surveying <- struct{}{}:
		defer func() { <-p.surveying }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	from, err := strconv.ParseInt(cmp.Or(r.URL.Query().Get("from"), "0"), 10, 64)
	if err != nil || from < 0 {
		return badRequest(errors.New("from: give the number of a job, as in the links of the list"))
	}
	queues, err := p.dispatcher.allQueues(ctx)
	if err != nil {
		return err
	}
	dead, err := p.dispatcher.surveyDead(ctx, from)
	if err != nil {
		return err
	}
	lanes := p.dispatcher.laneStatuses(queues)
	p.show(w, http.StatusOK, "overview", struct {
		Lanes  []laneStatus
		States []jobdb.State
		Dead   deadSurvey
		From   int64
	}{lanes, countedStates, dead, from})
	return nil
}

// serveLane pauses or resumes a lane.
func (p *page) serveLane(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(w, r); err != nil {
		return err
	}
	action := r.PostForm.Get("action")
	if action != "pause" && action != "resume" {
		return badRequest(errors.New("action: give pause or resume"))
	}
	queues, err := p.dispatcher.allQueues(r.Context())
	if err != nil {
		return err
	}
	queue := riverQueue(r.PostForm.Get("queue"), r.PostForm.Get("lane"))
	for _, known := range queues {
		if known != queue {
			continue
		}
		if err := p.dispatcher.setPaused(r.Context(), []string{queue}, action == "pause"); err != nil {
			return err
		}
		http.Redirect(w, r, p.Path, http.StatusSeeOther)
		return nil
	}
	return notFound(errors.New("there is no such lane any more: go back to the list"))
}
