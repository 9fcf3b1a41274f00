package web

import (
	"cmp"
	"errors"
	"fmt"
	"html/template"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/jsonview"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
)

const (
	maxBodyLines = 3000       // of an indented body
	maxBodyShown = 256 * 1024 // bytes of a body on a page; all of it can be downloaded
)

// life is a notification with all that is known of it.
type life struct {
	First      *adminapi.Details // what all deliveries have in common
	Deliveries []*deliveryLife
	Several    bool // endpoints
}

// deliveryLife is what happened to a delivery.
type deliveryLife struct {
	adminapi.Details
	Attempts []attempt // the oldest first
	Verbs    []manage.Verb
}

// attempt is an attempt, with when it began, and how long it was waited for.
type attempt struct {
	adminapi.Attempt
	Began time.Time
	Wait  time.Duration
}

func newLife(deliveries []adminapi.Details, several bool) *life {
	l := &life{First: &deliveries[0], Several: several}
	for i := range deliveries {
		d := &deliveryLife{Details: deliveries[i]}
		history := d.History
		if d.State == string(db.Delivered) || len(history) == 0 && d.Error != "" {
			at := d.FinishedAt
			if at.IsZero() {
				at = d.StoredAt
			}
			history = append(slices.Clip(history), adminapi.Attempt{At: at, Upstream: d.Upstream, Status: d.Status, Seconds: d.Seconds, Error: d.Error})
		}
		end := d.StoredAt
		for _, a := range history {
			began := a.At.Add(-time.Duration(a.Seconds * float64(time.Second)))
			d.Attempts = append(d.Attempts, attempt{a, began, max(0, began.Sub(end))})
			end = a.At
		}
		for _, verb := range buttons {
			if may(verb, d.State) {
				d.Verbs = append(d.Verbs, verb)
			}
		}
		l.Deliveries = append(l.Deliveries, d)
	}
	return l
}

// The size of the drawing of a life.
const (
	lifeLeft, lifeRight = 170.0, 850.0
	lifeRow             = 30.0
)

// Drawing draws the life over all deliveries, from left to right, on a scale on which the beginning is wide: attempts
// come in ever longer intervals.
func (l *life) Drawing() template.HTML {
	begin, end := l.First.Request.ReceivedAt, l.First.StoredAt
	for _, d := range l.Deliveries {
		if end = maxTime(end, d.FinishedAt); d.FinishedAt.IsZero() {
			end = maxTime(end, time.Now().Truncate(time.Minute))
		}
		for _, a := range d.Attempts {
			end = maxTime(end, a.At)
		}
	}
	const unit = 0.05 // seconds: what is shorter is near the left side
	total := max(end.Sub(begin).Seconds(), unit)
	x := func(t time.Time) float64 {
		since := min(max(t.Sub(begin).Seconds(), 0), total)
		return lifeLeft + (lifeRight-lifeLeft)*math.Log1p(since/unit)/math.Log1p(total/unit)
	}
	height := 34 + lifeRow*float64(len(l.Deliveries))
	d := new(drawing)
	d.add(`<svg class="life" viewBox="0 0 960 %.0f" role="img" aria-label="Time line: %s, from receipt to the end %s later">`,
		height, plural(int64(len(l.Deliveries)), "delivery", "deliveries"), span(end.Sub(begin)))
	last := lifeLeft - 60
	for _, tick := range []float64{0, .1, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 3 * 24 * 3600} {
		at := begin.Add(time.Duration(tick * float64(time.Second)))
		if tick > total || x(at)-last < 55 {
			continue
		}
		last = x(at)
		label := "received"
		if tick > 0 {
			label = "+" + strings.Replace(took(at.Sub(begin)), ".0", "", 1)
		}
		d.add(`<path class="grid" d="M%.1f 6V%.1f"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, last, height-24, last, height-8, label)
	}
	for i, delivery := range l.Deliveries {
		delivery.draw(d, 22+lifeRow*float64(i), x, end)
	}
	return d.html()
}

// draw draws a delivery around a height.
func (l *deliveryLife) draw(d *drawing, y float64, x func(time.Time) float64, end time.Time) {
	name := []rune(plain(l.Lane))
	if len(name) > 22 {
		name = append(name[:21], '…')
	}
	stop := l.FinishedAt
	if stop.IsZero() {
		stop = end
	}
	d.add(`<text x="0" y="%.1f" class="name">%s</text><path class="wait" d="M%.1f %.1fH%.1f"/>`, y+4, template.HTMLEscapeString(string(name)), x(l.StoredAt), y, x(stop))
	for i, a := range l.Attempts {
		class := "failed"
		if a.Error == "" {
			class = "ok"
		}
		what := a.Error
		if a.Status != 0 {
			what = "status " + strconv.Itoa(a.Status)
		}
		d.add(`<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="14" rx="2"><title>%s</title></rect>`, class, x(a.Began), y-7, max(4, x(a.At)-x(a.Began)),
			template.HTMLEscapeString(plain(fmt.Sprintf("attempt %d: %s, %s, %s", i+1, what, took(a.At.Sub(a.Began)), a.Upstream))))
	}
	d.add(`<text class="state %s" x="%.1f" y="%.1f">%s</text>`, l.State, x(stop)+10, y+4, l.State)
}

func maxTime(x, y time.Time) time.Time {
	if x.After(y) {
		return x
	}
	return y
}

// serveNotification shows the notifications that have an id, with their deliveries.
func (p *pages) serveNotification(w http.ResponseWriter, r *http.Request) error {
	found, all, err := p.find(r)
	if err != nil {
		return err
	}
	var lives []*life
	for _, deliveries := range found {
		lives = append(lives, newLife(deliveries, len(all) > 1))
	}
	p.show(w, r, page{Name: "notification", Title: "Notification " + lives[0].First.Notification, Live: true, Data: lives})
	return nil
}

// find returns the notifications that a request names.
func (p *pages) find(r *http.Request) (found [][]adminapi.Details, all []string, err error) {
	e, all, err := p.endpoint(r)
	if err == nil && e.Name == "" {
		err = manage.BadRequest(errors.New("endpoint: give its name"))
	}
	if err == nil {
		found, err = e.Find(r.Context(), strings.TrimSpace(r.FormValue("id")))
	}
	return found, all, err
}

// serveBody sends the body of a notification, as a file.
func (p *pages) serveBody(w http.ResponseWriter, r *http.Request) error {
	found, _, err := p.find(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="notification-%d.json"`, found[0][0].Number))
	_, _ = w.Write(found[0][0].Request.BodyBytes()) //nolint:gosec // a file to save, which no browser shows
	return nil
}

// Size is that of the body.
func (l *life) Size() int { return len(l.First.Request.BodyBytes()) }

// Body is the body, indented, with parts that fold.
func (l *life) Body() template.HTML {
	var out strings.Builder
	text := func(part []byte) { template.HTMLEscape(&out, []byte(plain(string(part)))) }
	open, left := 0, maxBodyShown
	for line := range jsonview.Lines(l.First.Request.BodyBytes(), maxBodyLines) {
		cut := len(line.Text) > left
		line.Text = line.Text[:min(len(line.Text), left)]
		left -= len(line.Text)
		switch {
		case line.Opens && !cut:
			out.WriteString("<details open><summary>")
			text(line.Text)
			out.WriteString("</summary>")
			open++
		case line.Closes && !cut:
			out.WriteString("</details>")
			open--
			fallthrough
		default:
			out.WriteString("<div>")
			text(line.Text)
			out.WriteString("</div>")
		}
		if cut {
			fmt.Fprintf(&out, "<div><b>… The page ends here: download it to see the rest.</b></div>")
			break
		}
	}
	out.WriteString(strings.Repeat("</details>", open))
	return template.HTML(out.String()) //nolint:gosec // what is foreign is escaped
}

// header is a header of the request.
type header struct{ Name, Value string }

// Headers are those of the request, sorted. What can be a secret is not shown.
func (l *life) Headers() (all []header) {
	for name, values := range l.First.Request.Header {
		for _, value := range values {
			if secretHeader(name) {
				value = "(not shown)"
			}
			all = append(all, header{name, value})
		}
	}
	slices.SortFunc(all, func(x, y header) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Value, y.Value)) })
	return all
}

// secretHeader reports whether a header can give access to something. A signature gives none.
func secretHeader(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"authorization", "cookie", "token", "secret", "password", "api-key", "apikey"}, func(part string) bool {
		return strings.Contains(name, part)
	})
}

// command is a command for a shell.
type command struct{ What, Text string }

// Commands do on the command line what the page does.
func (l *life) Commands() []command {
	number := strconv.FormatInt(l.First.Number, 10)
	cli, parameter := number, ""
	if l.Several {
		cli += " --endpoint " + quote(l.First.Endpoint)
		parameter = "&" + string(query("endpoint", l.First.Endpoint))
	}
	path := "http://localhost:2019" + adminapi.DeliveriesPath
	all := []command{
		{"See it", "caddy intercom-webhook queue show " + cli},
		{"Retry it", "caddy intercom-webhook queue retry " + cli},
		{"Retry it, by the admin API", "curl -X POST " + quote(path+"/retry?notification="+number+parameter)},
	}
	r := l.First.Request
	if r.Host == "" || strings.ContainsFunc(r.Host+r.URI, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return all
	}
	lines := []string{"curl " + quote("https://"+r.Host+r.URI)}
	for _, h := range l.Headers() {
		if strings.Contains(strings.ToLower(h.Name), "signature") || h.Name == "Content-Type" {
			lines = append(lines, "-H "+quote(h.Name+": "+plain(h.Value)))
		}
	}
	lines = append(lines, "--data-binary @notification-"+number+".json")
	return append(all, command{"Send the same request, with the downloaded body", strings.Join(lines, " \\\n  ")})
}

// quote makes a text one word for a shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
