package queue

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

const (
	// A form is answered when its change has ended, or after changeWait at the latest. Then
	// the change goes on in the background.
	changeWait = 2 * time.Second

	maxRunningChanges = 4
	maxShownChanges   = 20
)

// pageStates are the states of the jobs that the buttons of the page change.
var pageStates = map[verb][]jobdb.State{
	verbRetry:  {jobdb.StateDiscarded, jobdb.StateCancelled, jobdb.StateRetryable},
	verbResend: {jobdb.StateCompleted},
	verbDrop:   {jobdb.StateDiscarded, jobdb.StateCancelled},
}

// pageChange is a change that somebody has made with the page. Only pageChanges may read the
// last three fields, while it holds its mutex.
type pageChange struct {
	Verb  verb
	Group *deadGroup // nil: it is of a job
	Job   int64
	Began time.Time
	queue string // the River queue
	ended chan struct{}

	Progress progress
	Running  bool
	Err      error
}

// Skipped returns how many jobs were not changed, as they had changed themselves.
func (c pageChange) Skipped() int64 {
	if c.Progress.Skipped == nil {
		return 0
	}
	return *c.Progress.Skipped
}

// pageChanges runs changes in the background, until the config ends, and remembers the last
// ones.
type pageChanges struct {
	ctx     context.Context
	running sync.WaitGroup

	mu      sync.Mutex
	list    []*pageChange // the newest first
	stopped bool          // none may start
}

func newPageChanges(ctx context.Context) *pageChanges { return &pageChanges{ctx: ctx} }

// wait waits until all have ended, after the context has. No other starts.
func (p *pageChanges) wait() {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.running.Wait()
}

var errManyChanges = caddy.APIError{
	HTTPStatus: http.StatusTooManyRequests,
	Err:        fmt.Errorf("%d changes are running: wait until one has ended", maxRunningChanges),
}

// start starts a change in the background.
func (p *pageChanges) start(e endpoint, c change, as *pageChange) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return errConfigChanged
	}
	running := 0
	for _, other := range p.list {
		if other.Running {
			running++
		}
	}
	if running >= maxRunningChanges {
		return errManyChanges
	}
	as.Began, as.Running, as.ended = time.Now(), true, make(chan struct{})
	p.list = slices.Insert(p.list, 0, as)
	place := 0
	p.list = slices.DeleteFunc(p.list, func(c *pageChange) bool { // what runs is never forgotten
		place++
		return place > maxShownChanges && !c.Running
	})
	ctx, cancel := e.dispatcher.whileConfigRuns(p.ctx)
	p.running.Go(func() {
		defer cancel()
		_, done, err := e.change(ctx, c, func(so progress) {
			p.mu.Lock()
			defer p.mu.Unlock()
			as.Progress = so
		})
		p.mu.Lock()
		defer p.mu.Unlock()
		as.Progress, as.Running, as.Err = done, false, err
		close(as.ended)
	})
	return nil
}

// shown returns the last changes, and whether one is running.
func (p *pageChanges) shown() (changes []pageChange, running bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.list {
		changes = append(changes, *c)
		running = running || c.Running
	}
	return changes, running
}

// serveWork shows how far the changes are.
func (p *page) serveWork(w http.ResponseWriter, _ *http.Request) error {
	changes, running := p.changes.shown()
	p.show(w, http.StatusOK, "changes", struct {
		Changes []pageChange
		Running bool
	}{changes, running})
	return nil
}

// serveChange retries, resends or drops a group of dead letters, or one job. Before it drops
// any, it asks once more.
func (p *page) serveChange(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(w, r); err != nil {
		return err
	}
	c, as, err := p.changeOf(r)
	if err != nil {
		return err
	}
	if c.verb == verbDrop && r.PostForm.Get("confirmed") == "" {
		p.show(w, http.StatusOK, "confirm", as)
		return nil
	}
	name, _ := splitRiverQueue(as.queue)
	if err := p.changes.start(endpoint{p.dispatcher, name, p.dispatcher.current()}, c, as); err != nil {
		return err
	}
	select {
	case <-as.ended:
	case <-time.After(changeWait):
	case <-r.Context().Done():
	}
	http.Redirect(w, r, p.Path+"/changes", http.StatusSeeOther)
	return nil
}

// changeOf returns the change that a form asks for.
func (p *page) changeOf(r *http.Request) (c change, as *pageChange, err error) {
	c.verb = verb(r.PostForm.Get("verb"))
	states, known := pageStates[c.verb]
	if !known {
		return c, nil, badRequest(errors.New("verb: give retry, resend or drop"))
	}
	c.filter.States = states
	as = &pageChange{Verb: c.verb}
	if text := r.PostForm.Get("group"); text != "" {
		if c.group, err = parseGroup(text); err != nil {
			return c, nil, badRequest(err)
		}
		c.filter.States = deadStates
		as.Group, as.queue = c.group, c.group.Queue
		return c, as, nil
	}
	if as.Job, err = strconv.ParseInt(r.PostForm.Get("job"), 10, 64); err != nil || as.Job < 1 {
		return c, nil, badRequest(errors.New("give a group, or the number of a job"))
	}
	c.filter.IDs = []int64{as.Job}
	as.queue, err = p.queueOf(r.Context(), as.Job)
	return c, as, err
}

// queueOf returns the River queue of a job.
func (p *page) queueOf(ctx context.Context, job int64) (queue string, err error) {
	err = p.dispatcher.eachRecord(ctx, jobdb.Filter{IDs: []int64{job}}, jobdb.Page{Limit: 1}, func(record *jobdb.Record) {
		queue = record.Queue
	})
	if err == nil && queue == "" {
		err = notFound(fmt.Errorf("job %d is not in the queue any more", job))
	}
	return queue, err
}
