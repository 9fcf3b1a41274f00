package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

func init() {
	caddy.RegisterModule(new(adminAPI))
}

// adminAPI serves the queues of the running config on Caddy's admin endpoint: their lanes
// and their jobs. Lists and progress are NDJSON, one JSON object a line. It has no access
// control of its own: whoever can use the admin endpoint can use it.
//
// Caddy provisions it before the apps, and never cleans it up. So it has no state, and finds
// the queues anew for each request.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.intercom_webhook_queue",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

const (
	lanesPath = "/intercom_webhook/lanes"
	jobsPath  = "/intercom_webhook/jobs"
)

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: lanesPath, Handler: caddy.AdminHandlerFunc(a.serveLanes)},
		{Pattern: lanesPath + "/", Handler: caddy.AdminHandlerFunc(a.servePause)},
		{Pattern: jobsPath, Handler: caddy.AdminHandlerFunc(a.serveJobs)},
		{Pattern: jobsPath + "/", Handler: caddy.AdminHandlerFunc(a.serveJob)},
	}
}

// serveLanes lists the lanes of all endpoints, or of one. If a database does not answer, the
// lanes in the others are there all the same.
func (*adminAPI) serveLanes(w http.ResponseWriter, r *http.Request) error {
	if err := allowMethod(w, r, http.MethodGet); err != nil {
		return err
	}
	p, err := readParameters(r, laneParameters)
	if err != nil {
		return badRequest(err)
	}
	all := configuredEndpoints()
	if len(all) == 0 || p.one("queue") != "" {
		one, err := findEndpoint(r.Context(), p.one("queue"))
		if err != nil {
			return err
		}
		all = []endpoint{one}
	}
	var lanes []laneStatus
	var failed []error
	for _, e := range all {
		own, err := e.laneStatuses(r.Context())
		if err != nil {
			failed = append(failed, fmt.Errorf("queue %q: %w", e.name, err))
		}
		lanes = append(lanes, own...)
	}
	out := newLines(w)
	writeEach(out, lanes)
	if err := errors.Join(failed...); err != nil {
		return out.fail(r.Context(), err, lastLine{})
	}
	return nil
}

// servePause pauses or resumes a lane: /lanes/<lane>/pause or /resume.
func (*adminAPI) servePause(w http.ResponseWriter, r *http.Request) error {
	lane, action, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, lanesPath+"/"), "/")
	if lane == "" || action != "pause" && action != "resume" { // no name would mean all lanes
		return notFound(fmt.Errorf("%s: there is no such path; a lane has %s/<lane>/pause and %[2]s/<lane>/resume", r.URL.Path, lanesPath))
	}
	if err := allowMethod(w, r, http.MethodPost); err != nil {
		return err
	}
	p, err := readParameters(r, laneParameters)
	if err != nil {
		return badRequest(err)
	}
	e, err := findEndpoint(r.Context(), p.one("queue"))
	if err != nil {
		return err
	}
	queues, err := e.queuesOfLane(r.Context(), lane)
	if unknown, ok := errors.AsType[*unknownLaneError](err); ok {
		return notFound(unknown)
	}
	if err == nil {
		err = e.dispatcher.setPaused(r.Context(), queues, action == "pause")
	}
	if err != nil {
		return unavailable(err)
	}
	writeEach(newLines(w), e.dispatcher.laneStatuses(queues))
	return nil
}

// serveJobs lists jobs, the newest first.
func (*adminAPI) serveJobs(w http.ResponseWriter, r *http.Request) error {
	if err := allowMethod(w, r, http.MethodGet); err != nil {
		return err
	}
	p, err := readParameters(r, listParameters)
	if err != nil {
		return badRequest(err)
	}
	e, s, err := selectJobs(r.Context(), p)
	if err != nil {
		return err
	}
	switch {
	case s.cursor.last != 0:
		return badRequest(errCursor)
	case s.limit > maxLimit:
		return badRequest(fmt.Errorf("limit %d: a list has %d at most; its last line has the cursor to go on with", s.limit, maxLimit))
	case s.limit == 0:
		s.limit = defaultLimit
	}
	ctx, cancel := e.dispatcher.whileConfigRuns(r.Context())
	defer cancel()
	out := newLines(w)
	more, err := e.dispatcher.listJobs(ctx, s, func(jobs []jobSummary) { writeEach(out, jobs) })
	if err != nil {
		return out.fail(ctx, err, lastLine{Cursor: more.String()})
	}
	if more.from != 0 {
		out.write(lastLine{Cursor: more.String()})
	}
	return nil
}

// serveJob shows the jobs that have an id, or changes a selection of jobs.
func (a *adminAPI) serveJob(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Path, jobsPath+"/")
	if r.Method == http.MethodPost {
		return a.serveChange(w, r, verb(name))
	}
	if err := allowMethod(w, r, http.MethodGet); err != nil {
		return err
	}
	if name == "" { // it would select all jobs
		return notFound(fmt.Errorf("%s: there is no such path; a job has %s/<notification or job id>", r.URL.Path, jobsPath))
	}
	if notText(name) {
		return badRequest(errors.New("the id is not text: escape UTF-8 with %, and leave out zero bytes"))
	}
	p, err := readParameters(r, laneParameters)
	if err != nil {
		return badRequest(err)
	}
	e, err := findEndpoint(r.Context(), p.one("queue"))
	if err != nil {
		return err
	}
	ctx, cancel := e.dispatcher.whileConfigRuns(r.Context())
	defer cancel()
	out := newLines(w)
	queues, err := e.queuesOfLane(ctx, "")
	if err == nil {
		err = e.dispatcher.findJobs(ctx, queues, name, func(job jobDetails) { out.write(job) })
	}
	if err != nil {
		return out.fail(ctx, err, lastLine{})
	}
	if !out.begun {
		return notFound(fmt.Errorf("%q: no job, and no notification in the queue, has this id; perhaps it was not kept any longer (keep_delivered, keep_dead)", name))
	}
	return nil
}

// serveChange makes a change, and writes how far it is.
func (*adminAPI) serveChange(w http.ResponseWriter, r *http.Request, v verb) error {
	if _, known := defaultStates[v]; !known {
		verbs := slices.Sorted(maps.Keys(defaultStates))
		var names []string
		for _, v := range verbs {
			names = append(names, string(v))
		}
		return notFound(fmt.Errorf("POST %s: there is no such path; below %s/ are %s", r.URL.Path, jobsPath, option.Choices(string(v), names)))
	}
	p, err := readParameters(r, changeParameters)
	if err != nil {
		return badRequest(err)
	}
	if !p.hasFilter() {
		return badRequest(fmt.Errorf("%s needs a filter, such as state=discarded, topic=conversation.* or since=2h", v))
	}
	e, s, err := selectJobs(r.Context(), p)
	if err != nil {
		return err
	}
	c, err := p.change(v, s)
	if err == nil && c.to != "" {
		err = e.checkTo(c.to)
	}
	if err != nil {
		return badRequest(err)
	}
	if (s.cursor != cursor{}) && s.cursor.last == 0 {
		return badRequest(errCursor)
	}
	ctx, cancel := e.dispatcher.whileConfigRuns(r.Context())
	defer cancel()
	out := newLines(w)
	at, done, err := e.change(ctx, c, func(done progress) { out.write(done) })
	if err != nil {
		return out.fail(ctx, err, lastLine{Cursor: at.String(), progress: &done})
	}
	return nil
}

// selectJobs finds the endpoint and the jobs that parameters select.
func selectJobs(ctx context.Context, p parameters) (endpoint, selection, error) {
	e, err := findEndpoint(ctx, p.one("queue"))
	if err != nil {
		return e, selection{}, err
	}
	s, err := p.selection(e.dispatcher.clock.now())
	if err != nil {
		return e, s, badRequest(err)
	}
	s.filter.Queues, err = e.queuesOfLane(ctx, p.one("lane"))
	if unknown, ok := errors.AsType[*unknownLaneError](err); ok {
		return e, s, badRequest(unknown)
	}
	if err != nil {
		return e, s, unavailable(err)
	}
	return e, s, nil
}

// Interface guard
var _ caddy.AdminRouter = (*adminAPI)(nil)
