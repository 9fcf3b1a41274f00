package queue

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// heldJob is a job that this process has claimed and not yet finished.
type heldJob struct {
	id        int64
	token     jobdb.Token
	queue     string
	workspace string // whose turn the delivery is
	attempt   int
	claimed   time.Time
	age       time.Duration // at the time of the claim
	size      int           // in bytes, counted in memory

	note *notification // nil until it is unpacked
	args []byte        // nil once it is unpacked

	mu        sync.Mutex
	end       context.CancelCauseFunc // ends the delivery; nil before it begins
	cancelled bool                    // by a person
}

// heldJobs are all jobs that this process holds. A row that is marked as running for this
// process but is not among them was claimed in a transaction whose reply was lost.
type heldJobs struct {
	mu      sync.Mutex
	last    jobdb.Token          // the newest one
	pending map[jobdb.Token]bool // claims that wait for the reply of the database
	jobs    map[int64]*heldJob
	memory  memory
}

// reconcileInterval is how often the rows that are marked as running are compared with the
// held jobs.
const reconcileInterval = 2 * time.Second

func newHeldJobs() *heldJobs {
	return &heldJobs{pending: make(map[jobdb.Token]bool), jobs: make(map[int64]*heldJob), memory: newMemory()}
}

// newToken returns the token for jobs that are claimed while they are stored. The caller must
// call settle once the reply is there and the claimed jobs are added, or storing has failed.
func (h *heldJobs) newToken() jobdb.Token {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nextToken()
}

func (h *heldJobs) settle(token jobdb.Token) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pending, token)
}

// reserveClaim fills in the token and the bytes of a claim, and reserves the bytes. It returns false
// if the lane has no memory left. The caller must call settleClaim once the reply is there.
func (h *heldJobs) reserveClaim(claim *jobdb.Claim) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	bytes, ok := h.memory.reserveClaim(claim.Queue)
	if ok {
		claim.Token, claim.MaxBytes = h.nextToken(), bytes
	}
	return ok
}

// settleClaim adds the claimed jobs, of which there are none if the claim has failed. Their
// bytes replace those that reserveClaim has reserved.
func (h *heldJobs) settleClaim(claim jobdb.Claim, jobs []*heldJob) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.memory.add(claim.Queue, -claim.MaxBytes)
	for _, job := range jobs {
		h.memory.add(job.queue, job.size)
		h.put(job)
	}
	delete(h.pending, claim.Token)
}

func (h *heldJobs) nextToken() jobdb.Token {
	h.last++
	h.pending[h.last] = true
	return h.last
}

// reserve reserves bytes for a job that is being stored. It returns false if its lane has no
// memory left for it.
func (h *heldJobs) reserve(queue string, size int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.memory.reserve(queue, size)
}

func (h *heldJobs) unreserve(queue string, size int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.memory.add(queue, -size)
}

// takeRefused reports whether a lane was refused memory since the last call.
func (h *heldJobs) takeRefused() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	refused := h.memory.refused
	h.memory.refused = false
	return refused
}

// add adds a job whose bytes are reserved.
func (h *heldJobs) add(job *heldJob) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.put(job)
}

// put adds a job whose bytes are counted. It forgets an earlier claim of the same job: a
// released job can be claimed again before this process knows that its release is written.
func (h *heldJobs) put(job *heldJob) {
	if earlier := h.jobs[job.id]; earlier != nil {
		h.forget(earlier)
	}
	h.jobs[job.id] = job
}

// remove removes jobs whose outcomes are written.
func (h *heldJobs) remove(outcomes []finishedJob) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range outcomes {
		h.forget(f.job)
	}
}

func (h *heldJobs) forget(job *heldJob) {
	if h.jobs[job.id] == job {
		delete(h.jobs, job.id)
		h.memory.add(job.queue, -job.size)
	}
}

// dropLost removes the jobs that are not among rows, which are those that the database had
// as held by this process when it was asked. It keeps jobs that were claimed later, and those
// that are being delivered. It returns the ids of those removed.
func (h *heldJobs) dropLost(rows []jobdb.Running, asked time.Time) map[int64]bool {
	still := make(map[int64]jobdb.Token, len(rows))
	for _, row := range rows {
		still[row.ID] = row.Token
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	gone := make(map[int64]bool)
	for id, job := range h.jobs {
		if still[id] != job.token && job.claimed.Before(asked) && !job.begun() {
			gone[id] = true
			h.forget(job)
		}
	}
	return gone
}

// reconcile returns outcomes that release the rows that this process does not hold. It
// cancels the deliveries of rows that a person has asked to cancel.
func (h *heldJobs) reconcile(rows []jobdb.Running) (lost []jobdb.Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, row := range rows {
		if h.pending[row.Token] {
			continue
		}
		job := h.jobs[row.ID]
		switch {
		case job == nil || job.token != row.Token:
			lost = append(lost, jobdb.Outcome{ID: row.ID, Token: row.Token, State: jobdb.StateAvailable})
		case row.CancelRequested:
			job.cancel()
		}
	}
	return lost
}

// cancel ends the delivery of the job, or prevents it if it has not begun.
func (j *heldJob) cancel() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.cancelled = true
	if j.end != nil {
		j.end(errCancelled)
	}
}

// begin stores the function that ends the delivery. It returns false if the job was
// cancelled before: it must not be delivered then.
func (j *heldJob) begin(end context.CancelCauseFunc) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.end = end
	return !j.cancelled
}

func (j *heldJob) begun() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.end != nil
}

// handedOver reports whether the job came from store and not from a claim. It must not be
// called once the delivery has begun.
func (j *heldJob) handedOver() bool { return j.note != nil }

// ageNow returns the time since the job was stored, or since a person retried it.
func (j *heldJob) ageNow() time.Duration { return j.age + time.Since(j.claimed) }

// reconcileHeld releases jobs that are marked as running for this process but that it does
// not hold: the claim was committed, but its reply was lost. It also cancels the deliveries
// that a person has asked to cancel.
func (d *dispatcher) reconcileHeld(ctx context.Context) {
	every(ctx, reconcileInterval, nil, func() {
		ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
		defer cancel()
		rows, err := d.db.OwnRunning(ctx)
		if err != nil {
			return // sendHeartbeats logs that the database cannot be reached
		}
		lost := d.held.reconcile(rows)
		if len(lost) == 0 {
			return
		}
		released, err := d.db.Finish(ctx, lost)
		if err == nil && len(released) > 0 {
			d.log().Warn("released jobs that were claimed for this Caddy without its knowing: the database's reply to the claim was lost", zap.String("database", d.location.name), zap.Int("notifications", len(released)))
			d.claimOnAllLanes()
		}
	})
}
