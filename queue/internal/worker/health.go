package worker

import (
	"sync"
	"time"
)

const (
	// A lane is down when at least downAttempts attempts have failed, the first one at least
	// downAfter ago, and none has succeeded since.
	downAttempts = 3
	downAfter    = 10 * time.Second

	// If half of the attempts fail, three in a row come by chance, again and again. So a lane in which
	// a success has followed a failure restlessAfter times in all buckets needs more of them.
	restlessAfter    = 3
	restlessAttempts = 20

	// A lane is failing when at least one in failingPart of the attempts in all buckets has failed.
	failingPart = 10
	bucketTime  = 10 * time.Second
	buckets     = 30
)

// LaneState is the health of a lane.
type LaneState string

// The states of a lane.
const (
	LaneActive   LaneState = "active"
	LanePaused   LaneState = "paused" // by a person
	LaneFailing  LaneState = "failing"
	LaneDown     LaneState = "down"
	LaneOrphaned LaneState = "orphaned" // no config of a live instance has it
)

// health is how the attempts of a lane go.
type health struct {
	mu          sync.Mutex
	down        bool
	lastSuccess time.Time
	failures    int       // since the last success
	since       time.Time // of the first of them
	lastError   string    // of the last one

	buckets [buckets]healthBucket
}

// healthBucket counts the attempts of a part of the time.
type healthBucket struct {
	number                   int64 // of the part, since the epoch
	ended, failed, recovered int   // recovered are successes that followed a failure
}

// healthChange says that a lane has gone down, or is no longer down.
type healthChange struct {
	changed   bool
	down      bool
	failures  int           // in a row
	after     time.Duration // since the first of them
	lastError string
}

// succeeded records a successful attempt.
func (h *health) succeeded(now time.Time) healthChange {
	h.mu.Lock()
	defer h.mu.Unlock()
	bucket := h.count(now)
	if h.failures > 0 {
		bucket.recovered++
	}
	h.lastSuccess = now
	return h.up(now)
}

// failed records a failed attempt. One that started before the last success says nothing of
// the backend as it is now, so it does not make the lane go down.
func (h *health) failed(now, started time.Time, err error) healthChange {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count(now).failed++
	if started.Before(h.lastSuccess) {
		return healthChange{}
	}
	if h.failures == 0 {
		h.since = now
	}
	h.failures++
	h.lastError = err.Error()
	needed := downAttempts
	if h.sum(now).recovered >= restlessAfter {
		needed = restlessAttempts
	}
	if h.down || h.failures < needed || now.Sub(h.since) < downAfter {
		return healthChange{}
	}
	h.down = true
	return healthChange{true, true, h.failures, now.Sub(h.since), h.lastError}
}

// idle records that nothing was left to deliver as of some time, so that nothing shows
// whether the backend answers.
func (h *health) idle(asOf time.Time) healthChange {
	h.mu.Lock()
	defer h.mu.Unlock()
	if asOf.Before(h.since) { // a failure since then shows that there was more
		return healthChange{}
	}
	return h.up(asOf)
}

func (h *health) up(now time.Time) healthChange {
	change := healthChange{h.down, false, h.failures, now.Sub(h.since), h.lastError}
	h.down, h.failures = false, 0
	return change
}

// count counts an attempt that ended now, and returns its bucket.
func (h *health) count(now time.Time) *healthBucket {
	number := now.UnixNano() / int64(bucketTime)
	bucket := &h.buckets[number%buckets]
	if bucket.number != number {
		*bucket = healthBucket{number: number}
	}
	bucket.ended++
	return bucket
}

// sum returns what the buckets of the last five minutes have together.
func (h *health) sum(now time.Time) (all healthBucket) {
	for _, bucket := range h.buckets {
		if bucket.number > now.UnixNano()/int64(bucketTime)-buckets {
			all.ended += bucket.ended
			all.failed += bucket.failed
			all.recovered += bucket.recovered
		}
	}
	return all
}

// state returns LaneDown, with when the failures began and the last error, LaneFailing or LaneActive.
func (h *health) state(now time.Time) (state LaneState, since time.Time, lastError string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.sum(now)
	switch {
	case h.down:
		return LaneDown, h.since, h.lastError
	case all.failed > 0 && all.failed*failingPart >= all.ended:
		return LaneFailing, time.Time{}, ""
	default:
		return LaneActive, time.Time{}, ""
	}
}
