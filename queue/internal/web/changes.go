package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
)

const (
	// A form is answered when its change has ended, or after changeWait at the latest. Then the change goes on in the
	// background.
	changeWait = 2 * time.Second

	maxRunningChanges = 4
	maxShownChanges   = 20
)

// buttonStates are the states of the deliveries that the buttons of the pages change.
var buttonStates = map[manage.Verb][]db.State{
	manage.Retry:  {db.Dead, db.Retrying},
	manage.Resend: {db.Delivered},
	manage.Drop:   {db.Dead},
}

// may reports whether a button can change a delivery in this state.
func may(verb, state string) bool {
	return slices.Contains(buttonStates[manage.Verb(verb)], db.State(state))
}

// change is a change that somebody has made with the pages: of one delivery, or of a group of dead ones. Only changes
// may read the last four fields, while it holds its mutex.
type change struct {
	manage.Change
	Began time.Time
	ended chan struct{}

	Progress adminapi.Progress
	Skipped  int64 // deliveries that were not changed, as they had changed themselves
	Running  bool
	Err      error
}

// changes are the changes that run in the background, and the last ones that have ended.
type changes struct {
	mu   sync.Mutex
	list []*change // the newest first
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
	c.Began, c.Running, c.ended = time.Now(), true, make(chan struct{})
	a.list = slices.Insert(a.list, 0, c)
	shown := min(len(a.list), maxShownChanges)
	older := slices.DeleteFunc(a.list[shown:], func(c *change) bool { return !c.Running })
	a.list = a.list[:shown+len(older)]
	return nil
}

// run makes a change. It ends with the config at the latest.
func (a *changes) run(config context.Context, e manage.Endpoint, c *change) {
	ctx, cancel := manage.WhileConfig(context.Background(), config)
	defer cancel()
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
func (p *pages) serveChanges(w http.ResponseWriter, _ *http.Request) error {
	var shown []change
	p.changes.mu.Lock()
	for _, c := range p.changes.list {
		shown = append(shown, *c)
	}
	p.changes.mu.Unlock()
	running := slices.ContainsFunc(shown, func(c change) bool { return c.Running })
	p.show(w, http.StatusOK, "changes", map[string]any{"Changes": shown, "Running": running})
	return nil
}

// serveChange retries, resends or drops a group of dead deliveries, or one delivery. Before it drops any, it asks
// once more.
func (p *pages) serveChange(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return manage.BadRequest(errors.New("the form cannot be read: go back, and try again"))
	}
	c, err := changeOf(r.PostForm)
	if err != nil {
		return manage.BadRequest(err)
	}
	c.Who = p.who(r)
	if c.Verb == manage.Drop && r.PostForm.Get("confirmed") == "" {
		p.show(w, http.StatusOK, "confirm", c)
		return nil
	}
	if err := p.changes.add(c); err != nil {
		return err
	}
	//nolint:gosec // it goes on after the request, until the config ends
	go p.changes.run(p.config, manage.Endpoint{Worker: p.worker, Name: c.Filter.Endpoint}, c)
	select {
	case <-c.ended:
	case <-time.After(changeWait):
	case <-r.Context().Done():
	}
	http.Redirect(w, r, p.prefix+"/changes", http.StatusSeeOther)
	return nil
}

// changeOf returns the change that a form asks for.
func changeOf(form url.Values) (*change, error) {
	c := new(change)
	c.Verb = manage.Verb(form.Get("verb"))
	c.Filter = db.Filter{Endpoint: form.Get("endpoint"), States: buttonStates[c.Verb]}
	if c.Filter.States == nil {
		return nil, errors.New("verb: give retry, resend or drop")
	}
	if c.Filter.Endpoint == "" { // it would mean all of them
		return nil, errors.New("endpoint: give its name")
	}
	if text := form.Get("delivery"); text != "" {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil || id < 1 {
			return nil, errors.New("delivery: give a number")
		}
		c.ID, c.What = id, "delivery="+text
		return c, nil
	}
	reason := db.Reason(form.Get("reason"))
	c.Filter.Topic, c.Filter.Lane, c.Filter.States, c.Filter.Reasons = form.Get("topic"), form.Get("lane"), []db.State{db.Dead}, []db.Reason{reason}
	if c.Filter.Topic == "" || c.Filter.Lane == "" || !slices.Contains(db.Reasons, reason) {
		return nil, errors.New("give the number of a delivery, or a topic, a lane and a reason")
	}
	c.What = fmt.Sprintf("topic=%s&lane=%s&reason=%s", c.Filter.Topic, c.Filter.Lane, reason)
	return c, nil
}
