package queue

import (
	"context"
	"sync"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// lane delivers the jobs of one River queue, several at the same time. It claims more jobs
// than it delivers at once, so that deliveries need not wait for the database.
type lane struct {
	dispatcher  *dispatcher
	queue       string
	health      laneHealth
	deadLetters deadLetterLog

	mu           sync.Mutex
	workers      int // how many deliveries may run at the same time
	paused       bool
	retired      bool
	ready        turns          // jobs that wait to be delivered, and places for jobs that are being stored
	running      int            // deliveries
	mayHaveMore  bool           // the database may have jobs to claim
	leftToOthers map[int64]bool // ids of jobs that instances with another config deliver
	ended        rateMeter      // deliveries that have ended

	claimNow     chan struct{} // makes claimAll claim at once
	stopClaiming context.CancelFunc
}

const (
	// maxAhead bounds how many jobs a lane holds ahead of its deliveries.
	maxAhead = 300

	// slowShare is the part of its workers that a lane uses while answers are slow.
	slowShare = 8
)

// newLane returns a lane that claims and delivers until it is retired.
func newLane(d *dispatcher, queue string, workers int) *lane {
	ctx, cancel := context.WithCancel(d.ctx)
	l := &lane{dispatcher: d, queue: queue, workers: workers, mayHaveMore: true, claimNow: make(chan struct{}, 1), stopClaiming: cancel}
	wake(l.claimNow)
	d.claiming.Go(func() { l.claimAll(ctx) })
	return l
}

// resize changes how many deliveries may run at the same time. It interrupts none.
func (l *lane) resize(workers int) {
	l.mu.Lock()
	l.workers = workers
	l.mu.Unlock()
	l.deliverReady()
}

// size returns how many deliveries may run at the same time.
func (l *lane) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.workers
}

// pause sets whether the lane is paused. A paused lane starts no deliveries and holds no
// jobs for them; it does not interrupt those that run.
func (l *lane) pause(paused bool) {
	l.mu.Lock()
	changed := l.paused != paused
	l.paused = paused
	var released []*heldJob
	if paused {
		released = l.ready.takeAll()
	}
	l.mu.Unlock()
	l.release(released)
	if changed && !paused {
		l.claimMore()
	}
}

// retire stops the lane for good. It does not wait for the deliveries that run.
func (l *lane) retire() {
	l.stopClaiming()
	l.mu.Lock()
	l.retired = true
	released := l.ready.takeAll()
	l.mu.Unlock()
	l.release(released)
}

// release makes jobs available again that were not delivered.
func (l *lane) release(jobs []*heldJob) {
	for _, job := range jobs {
		l.dispatcher.finisher.finish(job, jobdb.Outcome{State: jobdb.StateAvailable})
	}
}

// ahead returns how many jobs to hold that are not being delivered yet: about as many as
// are delivered in half a second. With a slow backend these are few, and other instances
// can claim the rest.
func (l *lane) ahead() int { return min(maxAhead, l.workers+l.ended.perSecond()/2) }

// reserve reserves a place for a job that is being stored. It returns false if there is no
// room. If the database may have older jobs, half of the room is kept for them.
func (l *lane) reserve(job *jobdb.NewJob) bool {
	if !l.dispatcher.mayDeliver() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	room := l.ahead()
	if l.mayHaveMore {
		room /= 2
	}
	room += max(0, l.workers-l.running)
	workspace := workspaceOf(job)
	if l.paused || l.retired || !l.ready.mayReserve(workspace, room) || !l.dispatcher.held.reserve(l.queue, len(job.Args)) {
		return false
	}
	l.ready.reserve(workspace)
	return true
}

func (l *lane) unreserve(job *jobdb.NewJob) {
	l.dispatcher.held.unreserve(l.queue, len(job.Args))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready.unreserve(workspaceOf(job))
}

// take adds a job for which a place was reserved.
func (l *lane) take(job *heldJob) {
	l.dispatcher.held.add(job)
	l.mu.Lock()
	l.ready.unreserve(job.workspace)
	l.mu.Unlock()
	l.accept([]*heldJob{job})
}

// accept adds jobs to those that are ready. If the lane is paused or retired, it releases
// them.
func (l *lane) accept(jobs []*heldJob) {
	l.mu.Lock()
	if l.paused || l.retired {
		l.mu.Unlock()
		l.release(jobs)
		return
	}
	l.ready.add(jobs)
	l.mu.Unlock()
	l.deliverReady()
}

// limit returns how many deliveries may run now. While answers to Intercom are slow there
// are fewer, so that storing gets the processors.
func (l *lane) limit() int {
	if l.dispatcher.store.slow() {
		return max(1, l.workers/slowShare)
	}
	return l.workers
}

// deliverReady starts deliveries until there are no ready jobs or no free workers.
func (l *lane) deliverReady() {
	for {
		l.mu.Lock()
		if l.ready.jobs == 0 || l.running >= l.limit() || !l.dispatcher.mayDeliver() {
			needMore := l.mayHaveMore && l.ready.claimed(l.ahead())*2 <= l.ahead()
			l.mu.Unlock()
			if needMore {
				wake(l.claimNow)
			}
			return
		}
		job := l.ready.take()
		l.running++
		l.dispatcher.deliveries.Go(func() { l.run(job) }) // under the lock, so that none starts after retire
		l.mu.Unlock()
	}
}

// run delivers a job, and then starts the next delivery.
func (l *lane) run(job *heldJob) {
	outcome := l.dispatcher.deliver(l, job)
	l.dispatcher.finisher.finish(job, outcome)
	l.mu.Lock()
	l.running--
	l.ended.add()
	l.mu.Unlock()
	l.deliverReady()
}

// forget removes jobs that are no longer held from those that are ready.
func (l *lane) forget(gone map[int64]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready.remove(gone)
}
