package queue

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

const (
	// claimInterval is how often a lane looks for jobs that became available without its
	// knowing: stored by another instance, due for another attempt, or retried by a person.
	claimInterval = time.Second
	claimTimeout  = 10 * time.Second

	// maxLeftToOthers bounds how many jobs a lane leaves to others. A lane with so many
	// claims nothing until reconsider is called.
	maxLeftToOthers = 1000
)

// claimMore tells the lane that the database may have jobs to claim.
func (l *lane) claimMore() { l.refill(true) }

// refill claims jobs if the database may have some, and starts the deliveries that are
// possible now. With more it first records that the database may have jobs to claim.
func (l *lane) refill(more bool) {
	l.mu.Lock()
	l.mayHaveMore = l.mayHaveMore || more
	more = l.mayHaveMore
	l.mu.Unlock()
	if more {
		wake(l.claimNow)
	}
	l.deliverReady()
}

// claimAll claims jobs whenever there is room for them, until the context ends.
func (l *lane) claimAll(ctx context.Context) {
	ticker := time.NewTicker(claimInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.claimNow:
		case <-ticker.C:
			l.claimMore()
		}
		for again := true; again && ctx.Err() == nil; {
			again = l.claimOnce()
		}
	}
}

// claimOnce claims as many jobs as there is room for. It reports whether the database may
// have more, so that it should be called again at once.
func (l *lane) claimOnce() (again bool) {
	claim, wanted := l.nextClaim()
	if !wanted {
		return false
	}
	// The end of the lane does not interrupt a claim: the jobs would be claimed, but not held.
	ctx, cancel := context.WithTimeout(context.Background(), claimTimeout)
	defer cancel()
	jobs, more, err := l.dispatcher.db.Claim(ctx, claim)
	held := make([]*heldJob, len(jobs))
	for i, job := range jobs {
		held[i] = &heldJob{
			id: job.ID, token: job.Token, queue: job.Queue, workspace: job.Workspace, attempt: job.Attempt,
			claimed: time.Now(), age: job.Age, size: len(job.Args), args: job.Args,
		}
	}
	l.dispatcher.held.settleClaim(claim, held)
	l.dispatcher.wakeRefused()
	if err != nil {
		l.dispatcher.log().Debug("claiming jobs failed, and will be tried again", zap.String("lane", l.queue), zap.Error(err))
		return false
	}
	if more {
		l.mu.Lock()
		l.mayHaveMore = true
		l.mu.Unlock()
	}
	l.accept(held)
	return more
}

// nextClaim returns what to claim now, if anything, and reserves memory for it. It resets
// mayHaveMore, which claimOnce sets again if the database says so.
func (l *lane) nextClaim() (claim jobdb.Claim, wanted bool) {
	if !l.dispatcher.mayDeliver() {
		return jobdb.Claim{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ahead := l.ahead()
	missing := ahead + max(0, l.workers-l.running) - l.ready.claimed(ahead)
	if !l.mayHaveMore || l.paused || l.retired || len(l.leftToOthers) >= maxLeftToOthers || missing*2 < ahead || missing <= 0 {
		return jobdb.Claim{}, false
	}
	claim = jobdb.Claim{Queue: l.queue, Limit: missing}
	if !l.dispatcher.held.reserveClaim(&claim) {
		return jobdb.Claim{}, false
	}
	l.mayHaveMore = false
	for id := range l.leftToOthers {
		claim.Except = append(claim.Except, id)
	}
	return claim, true
}

// leaveToOthers excludes a job from further claims: an instance with another config is to
// deliver it.
func (l *lane) leaveToOthers(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leftToOthers == nil {
		l.leftToOthers = make(map[int64]bool)
	}
	l.leftToOthers[id] = true
}

// reconsider claims again the jobs that were left to other instances.
func (l *lane) reconsider() {
	l.mu.Lock()
	left := len(l.leftToOthers)
	l.leftToOthers = nil
	l.mu.Unlock()
	if left > 0 {
		l.claimMore()
	}
}
