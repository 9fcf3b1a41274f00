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

	// A lane is failing when at least one in failingPart of the attempts in all buckets has failed.
	failingPart   = 10
	healthBucket  = 10 * time.Second
	healthBuckets = 30
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

	buckets [healthBuckets]struct {
		number        int64 // of the part of time, since the epoch
		ended, failed int   // attempts
	}
}

// healthChange says that a lane has gone down, or is no longer down.
type healthChange struct {
	changed  bool
	down     bool
	failures int           // in a row
	after    time.Duration // since the first of them
}

// succeeded records a successful attempt.
func (h *health) succeeded(now time.Time) healthChange {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count(now, 0)
	h.lastSuccess = now
	return h.up(now)
}

// failed records a failed attempt. One that started before the last success says nothing of
// the backend as it is now, so it does not make the lane go down.
func (h *health) failed(now, started time.Time) healthChange {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count(now, 1)
	if started.Before(h.lastSuccess) {
		return healthChange{}
	}
	if h.failures == 0 {
		h.since = now
	}
	h.failures++
	if h.down || h.failures < downAttempts || now.Sub(h.since) < downAfter {
		return healthChange{}
	}
	h.down = true
	return healthChange{true, true, h.failures, now.Sub(h.since)}
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
	change := healthChange{h.down, false, h.failures, now.Sub(h.since)}
	h.down, h.failures = false, 0
	return change
}

// count counts an attempt that ended now.
func (h *health) count(now time.Time, failed int) {
	number := now.UnixNano() / int64(healthBucket)
	bucket := &h.buckets[number%healthBuckets]
	if bucket.number != number {
		bucket.number, bucket.ended, bucket.failed = number, 0, 0
	}
	bucket.ended++
	bucket.failed += failed
}

// state returns LaneDown, LaneFailing or LaneActive.
func (h *health) state(now time.Time) LaneState {
	h.mu.Lock()
	defer h.mu.Unlock()
	ended, failed := 0, 0
	for _, bucket := range h.buckets {
		if bucket.number > now.UnixNano()/int64(healthBucket)-healthBuckets {
			ended += bucket.ended
			failed += bucket.failed
		}
	}
	switch {
	case h.down:
		return LaneDown
	case failed > 0 && failed*failingPart >= ended:
		return LaneFailing
	default:
		return LaneActive
	}
}
