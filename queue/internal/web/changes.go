package web

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
)

const (
	// A form is answered when its change has ended, or after changeWait at the latest. Then the change goes on in the
	// background.
	changeWait = time.Second

	// countTime is how long a confirmation counts what it asks about.
	countTime = time.Second

	maxRunningChanges = 4
	maxShownChanges   = 20
	maxExamples       = 5 // of a confirmation
)

// buttons are what the pages can do with deliveries, and buttonStates the states of those that they do it with. The
// first one is meant if a filter names none.
var (
	buttons      = []manage.Verb{manage.Retry, manage.Resend, manage.Drop}
	buttonStates = map[manage.Verb][]db.State{
		manage.Retry:  {db.Dead, db.Retrying},
		manage.Resend: {db.Delivered},
		manage.Drop:   {db.Dead},
	}
)

// may reports whether a button can change a delivery in this state.
func may(verb manage.Verb, state string) bool {
	return slices.Contains(buttonStates[verb], db.State(state))
}

// change is a change that somebody makes with the pages: of one delivery, or of all that a filter selects. Only changes
// may read the last four fields, while it holds its mutex.
type change struct {
	manage.Change
	Number int
	Filter url.Values // what it was asked for with, to ask for it again
	Began  time.Time
	ended  chan struct{}
	stop   context.CancelCauseFunc

	Progress adminapi.Progress
	Skipped  int64 // deliveries that were not changed, as they had changed themselves
	Running  bool
	Err      error
}

// Left is the query of the list of what the change would change now.
func (c *change) Left() template.URL {
	left := maps.Clone(c.Filter)
	for _, name := range []string{"verb", "cursor", "to", "rate"} {
		left.Del(name)
	}
	if !left.Has("state") && !left.Has("delivery") {
		left.Set("state", string(buttonStates[c.Verb][0]))
	}
	return template.URL(left.Encode()) //nolint:gosec // it is escaped
}

// Terms are the filter in words, sorted.
func (c *change) Terms() (terms [][2]string) {
	for _, name := range slices.Sorted(maps.Keys(c.Filter)) {
		if !slices.Contains([]string{"verb", "cursor", "to", "rate", "endpoint", "delivery"}, name) {
			for _, value := range c.Filter[name] {
				terms = append(terms, [2]string{name, value})
			}
		}
	}
	return terms
}

// total counts what the change selects. There are more if that takes long. Groups of dead letters are counted already.
func (c *change) total(ctx context.Context, e manage.Endpoint) (n int64, more bool, err error) {
	f := c.Change.Filter
	grouped := slices.Equal(f.States, []db.State{db.Dead}) && !slices.ContainsFunc(c.Terms(), func(term [2]string) bool {
		return !slices.Contains([]string{"state", "topic", "lane", "reason"}, term[0])
	})
	if grouped {
		groups, err := e.DeadGroups(ctx)
		for _, g := range groups {
			if (f.Topic == "" || topicpattern.Matches(f.Topic, g.Topic)) && (f.Lane == "" || f.Lane == g.Lane) && (f.Reasons == nil || slices.Contains(f.Reasons, g.Reason)) {
				n += g.Count
			}
		}
		return n, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	counting := c.Change
	counting.DryRun = true
	_, counted, err := manage.Make(ctx, e, counting, func(adminapi.Progress) {})
	if ctx.Err() != nil {
		return counted.Total, true, nil
	}
	return counted.Total, false, err
}

// Notification is the number of the notification of a single delivery.
func (c *change) Notification() int64 { return db.NotificationOf(c.ID) }

// changes are the changes that run in the background, and the last ones that have ended.
type changes struct {
	mu    sync.Mutex
	count int
	list  []*change // the newest first
}

// add remembers a change that is to run now.
func (a *changes) add(c *change) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	running := 0
	for _, other := range a.list {
		if other.Running {
			running++
		}
	}
	if running >= maxRunningChanges {
		return caddy.APIError{HTTPStatus: http.StatusTooManyRequests, Err: fmt.Errorf("%d changes are running: wait until one has ended", running)}
	}
	a.count++
	c.Number, c.Began, c.Running, c.ended = a.count, time.Now(), true, make(chan struct{})
	a.list = slices.Insert(a.list, 0, c)
	shown := min(len(a.list), maxShownChanges)
	older := slices.DeleteFunc(a.list[shown:], func(c *change) bool { return !c.Running })
	a.list = a.list[:shown+len(older)]
	return nil
}

// run makes a change, until somebody stops it. It ends with the config at the latest.
func (a *changes) run(config context.Context, e manage.Endpoint, c *change) {
	ctx, cancel := manage.WhileConfig(context.Background(), config)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	a.mu.Lock()
	c.stop = stop
	a.mu.Unlock()
	_, done, err := manage.Make(ctx, e, c.Change, func(so adminapi.Progress) {
		a.mu.Lock()
		defer a.mu.Unlock()
		c.Progress = so
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	c.Progress, c.Running, c.Err = done, false, err
	if done.Skipped != nil {
		c.Skipped = *done.Skipped
	}
	close(c.ended)
}

// serveChanges shows how far the changes are.
func (p *pages) serveChanges(w http.ResponseWriter, r *http.Request) error {
	var shown []*change
	p.changes.mu.Lock()
	for _, c := range p.changes.list {
		copied := *c
		shown = append(shown, &copied)
	}
	p.changes.mu.Unlock()
	p.show(w, r, page{Name: "changes", Title: "Changes", Live: true, Data: map[string]any{
		"Changes": shown, "Running": slices.ContainsFunc(shown, func(c *change) bool { return c.Running }),
	}})
	return nil
}

// serveStop stops a change.
func (p *pages) serveStop(w http.ResponseWriter, r *http.Request) error {
	number := r.PostFormValue("change")
	p.changes.mu.Lock()
	for _, c := range p.changes.list {
		if strconv.Itoa(c.Number) == number && c.Running && c.stop != nil {
			c.stop(fmt.Errorf("%s has stopped it", p.who(r)))
		}
	}
	p.changes.mu.Unlock()
	http.Redirect(w, r, p.prefix+"/changes", http.StatusSeeOther)
	return nil
}

// serveConfirm asks whether to make a change, and says of how many deliveries, and which.
func (p *pages) serveConfirm(w http.ResponseWriter, r *http.Request) error {
	return p.confirm(w, r, r.URL.Query())
}

func (p *pages) confirm(w http.ResponseWriter, r *http.Request, form url.Values) error {
	c, e, err := p.changeOf(r, form)
	if err != nil {
		return err
	}
	if c.Cursor.AsOf.IsZero() { // what is found now is what is changed
		c.Cursor.AsOf = e.Worker.Now().Truncate(time.Microsecond)
		c.Filter.Set("cursor", c.Cursor.String())
	}
	c.Filter.Del("to") // these are fields of the form
	c.Filter.Del("rate")
	data := map[string]any{"Change": c, "Total": int64(1), "More": false}
	if c.ID == 0 {
		if data["Total"], data["More"], err = c.total(r.Context(), e); err != nil {
			return err
		}
		s, examples := c.Selection, list{Query: make(url.Values)}
		s.Limit, s.Cursor = maxExamples, manage.Cursor{}
		if err = p.list(r.Context(), e, s, &examples); err != nil {
			return err
		}
		data["Examples"] = examples.Found
	}
	if own := p.worker.Config()[e.Name]; own != nil && c.Verb != manage.Drop {
		data["Lanes"] = own.Handler.Lanes
	}
	p.show(w, r, page{Name: "confirm", Title: title(string(c.Verb)) + "?", Data: data})
	return nil
}

// serveChange makes a change, or asks first if it was not confirmed.
func (p *pages) serveChange(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return manage.BadRequest(errors.New("the form cannot be read: go back, and try again"))
	}
	if r.PostForm.Get("confirmed") == "" {
		return p.confirm(w, r, r.PostForm)
	}
	c, e, err := p.changeOf(r, r.PostForm)
	if err != nil {
		return err
	}
	if err := p.changes.add(c); err != nil {
		return err
	}
	//nolint:gosec // it goes on after the request, until the config ends
	go p.changes.run(p.config, e, c)
	select {
	case <-c.ended:
	case <-time.After(changeWait):
	case <-r.Context().Done():
	}
	http.Redirect(w, r, p.prefix+"/changes", http.StatusSeeOther)
	return nil
}

// changeOf returns the change that a form asks for: of one delivery, or of all that a filter selects.
func (p *pages) changeOf(r *http.Request, form url.Values) (*change, manage.Endpoint, error) {
	c := &change{Filter: filled(form)}
	c.Filter.Del("confirmed")
	e := manage.Endpoint{Worker: p.worker, Name: form.Get("endpoint")}
	verb := manage.Verb(form.Get("verb"))
	switch {
	case buttonStates[verb] == nil:
		return nil, e, manage.BadRequest(errors.New("verb: give retry, resend or drop"))
	case e.Name == "": // it would mean all of them
		return nil, e, manage.BadRequest(errors.New("endpoint: give its name"))
	}
	parameters := maps.Clone(c.Filter)
	parameters.Del("verb")
	var id int64
	if text := form.Get("delivery"); text != "" {
		var err error
		if id, err = strconv.ParseInt(text, 10, 64); err != nil || id < 1 {
			return nil, e, manage.BadRequest(errors.New("delivery: give a number"))
		}
		parameters.Del("delivery")
		parameters.Set("notification", strconv.FormatInt(db.NotificationOf(id), 10)) // so that there is a filter
	}
	parameters, err := manage.ParseParameters(parameters.Encode(), manage.ChangeParameters)
	if err == nil {
		c.Change, err = manage.Read(e, parameters, verb, p.who(r))
	}
	if err != nil {
		return nil, e, err
	}
	switch {
	case id != 0:
		c.ID, c.Notifications, c.Change.Filter.States = id, nil, buttonStates[verb]
		c.What = "delivery=" + form.Get("delivery")
	case c.Change.Filter.States == nil:
		c.Change.Filter.States = buttonStates[verb][:1]
	}
	return c, e, nil
}
