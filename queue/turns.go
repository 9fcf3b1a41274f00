package queue

import (
	"slices"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// turns are jobs that wait to be delivered. Workspaces take turns: each turn is one job, and
// a workspace that had its turn is behind all others that have jobs. The jobs of one
// workspace keep their order.
type turns struct {
	workspaces map[string]*waiting // that have jobs, or reserved places
	next       []*waiting          // that have jobs, in the order of their turns
	jobs       int
	reserved   int
	stored     int // jobs and reserved places of the hand-over from store
}

// waiting is what waits of one workspace.
type waiting struct {
	workspace string
	jobs      []*heldJob
	reserved  int
}

func (t *turns) of(workspace string) *waiting {
	w := t.workspaces[workspace]
	if w == nil {
		if t.workspaces == nil {
			t.workspaces = make(map[string]*waiting)
		}
		w = &waiting{workspace: workspace}
		t.workspaces[workspace] = w
	}
	return w
}

// tidy forgets a workspace of which nothing waits.
func (t *turns) tidy(w *waiting) {
	if len(w.jobs)+w.reserved == 0 {
		delete(t.workspaces, w.workspace)
	}
}

// held returns how many jobs wait, with the reserved places.
func (t *turns) held() int { return t.jobs + t.reserved }

// mayReserve reports whether there is a place for a job that is being stored. Beyond the
// room there are as many places again for workspaces that have less than their share of it,
// so that a burst of one leaves places for the others.
func (t *turns) mayReserve(workspace string, room int) bool {
	if t.held() < room {
		return true
	}
	if t.held() >= 2*room {
		return false
	}
	w, known := t.workspaces[workspace]
	if !known {
		return true
	}
	return (len(w.jobs)+w.reserved)*len(t.workspaces) < room
}

func (t *turns) reserve(workspace string) {
	t.of(workspace).reserved++
	t.reserved++
	t.stored++
}

func (t *turns) unreserve(workspace string) {
	w := t.of(workspace)
	w.reserved--
	t.reserved--
	t.stored--
	t.tidy(w)
}

// add adds jobs behind those of their workspaces.
func (t *turns) add(jobs []*heldJob) {
	for _, job := range jobs {
		w := t.of(job.workspace)
		if len(w.jobs) == 0 {
			t.next = append(t.next, w)
		}
		w.jobs = append(w.jobs, job)
		t.jobs++
		if job.handedOver() {
			t.stored++
		}
	}
}

// take removes the job whose turn it is. There must be one.
func (t *turns) take() *heldJob {
	w := t.next[0]
	t.next[0] = nil
	t.next = t.next[1:]
	job := w.jobs[0]
	w.jobs[0] = nil
	w.jobs = w.jobs[1:]
	if len(w.jobs) > 0 {
		t.next = append(t.next, w)
	}
	t.jobs--
	if job.handedOver() {
		t.stored--
	}
	t.tidy(w)
	return job
}

// takeAll removes all jobs.
func (t *turns) takeAll() (jobs []*heldJob) {
	for t.jobs > 0 {
		jobs = append(jobs, t.take())
	}
	return jobs
}

// remove removes the jobs with these ids.
func (t *turns) remove(gone map[int64]bool) {
	t.add(slices.DeleteFunc(t.takeAll(), func(job *heldJob) bool { return gone[job.id] }))
}

// claimed returns how much of the room is taken, as a claim sees it: what was handed over
// takes no more than half, so that it does not keep older jobs in the database.
func (t *turns) claimed(room int) int {
	return t.held() - max(0, t.stored-room/2)
}

// workspaceOf returns the workspace of a job that is being stored.
func workspaceOf(job *jobdb.NewJob) string {
	if len(job.Tags) == 0 {
		return ""
	}
	return job.Tags[0]
}
