package queue

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// laneHealth tells, once each, that the backend of a lane has gone bad and that it is
// back.
type laneHealth struct {
	mu       sync.Mutex
	bad      bool
	failures int       // since it is bad
	since    time.Time // it is bad
	lastGood time.Time // when a delivery last succeeded
	told     time.Time // of the last warning
}

// warnAgainAfter keeps a lane quiet in which single notifications fail time and again.
const warnAgainAfter = time.Minute

func (h *laneHealth) succeeded(logger *zap.Logger, lane string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastGood = time.Now()
	if !h.bad {
		return
	}
	logger.Info("lane delivers again", zap.String("lane", lane),
		zap.Int("failed_attempts", h.failures), zap.Duration("after", h.lastGood.Sub(h.since)))
	h.bad, h.failures = false, 0
}

// failed notes a failure of a delivery that began at some time. One that began before
// the last success says nothing of the backend since.
func (h *laneHealth) failed(logger *zap.Logger, lane string, began time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.bad {
		h.failures++
		return
	}
	now := time.Now()
	if began.Before(h.lastGood) || now.Sub(h.told) < warnAgainAfter {
		return
	}
	h.bad, h.failures, h.since, h.told = true, 1, now, now
	logger.Warn("lane does not deliver: notifications are kept, and tried again", zap.String("lane", lane), zap.Error(err))
}
