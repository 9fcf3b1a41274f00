package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

const (
	findTimeout  = 30 * time.Second
	maxFoundJobs = 10

	// A body that is nested more deeply is shown as it is: each line would be indented so far
	// that a small body becomes a huge page.
	maxIndentDepth = 50
)

// pageJob is what the page shows of a job.
type pageJob struct {
	jobDetails
	Body string
}

// May reports whether a button of the page can change the job.
func (j pageJob) May(v verb) bool { return slices.Contains(pageStates[v], j.State) }

// Ended reports whether there will be no further attempt.
func (j pageJob) Ended() bool { return !j.State.Unfinished() }

// Delivered reports whether the last attempt was successful.
func (j pageJob) Delivered() bool { return j.State == jobdb.StateCompleted }

// serveJob shows the jobs that have an id, or whose notification has it.
func (p *page) serveJob(w http.ResponseWriter, r *http.Request) error {
	id := strings.TrimSpace(r.URL.Query().Get("id"))
	if id == "" {
		http.Redirect(w, r, p.Path, http.StatusSeeOther)
		return nil
	}
	ctx, cancel := p.dispatcher.whileConfigRuns(r.Context())
	defer cancel()
	ctx, stop := context.WithTimeoutCause(ctx, findTimeout, fmt.Errorf("%q was not found in %s: the queue is large; look for the number of the job", id, findTimeout))
	defer stop()
	var jobs []pageJob
	more := 0
	err := p.dispatcher.findJobs(ctx, nil, id, func(job jobDetails) {
		if len(jobs) == maxFoundJobs {
			more++
			return
		}
		jobs = append(jobs, pageJob{job, readableBody(job.Request)})
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case len(jobs) == 0:
		return notFound(fmt.Errorf("%q: no job, and no notification in the queue, has this id; perhaps it was not kept any longer (keep_delivered, keep_dead)", id))
	}
	p.show(w, http.StatusOK, "job", struct {
		ID   string
		Jobs []pageJob
		More int
	}{id, jobs, more})
	return nil
}

// readableBody returns the body of a request in a form for people.
func readableBody(request *requestView) string {
	if request == nil {
		return ""
	}
	body := request.Body + string(request.BodyBase64) // one of them
	var indented bytes.Buffer
	if depth(body) <= maxIndentDepth && json.Indent(&indented, []byte(body), "", "  ") == nil {
		return indented.String()
	}
	return body
}

// depth returns how deeply a JSON text is nested.
func depth(text string) (deepest int) {
	now, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}
