package queue

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
)

// laneHealth logs and emits an event once when deliveries of a lane begin to fail, and once
// when they succeed again.
type laneHealth struct {
	mu           sync.Mutex
	failing      bool
	failingSince time.Time
	failures     int       // while it is failing
	lastSuccess  time.Time // of a delivery
	lastWarning  time.Time
}

// warnAgainAfter is the shortest time between two warnings. Without it, a lane in which
// only some notifications fail would log a warning for each.
const warnAgainAfter = time.Minute

func (h *laneHealth) succeeded(a *attachment, lane string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastSuccess = time.Now()
	if !h.failing {
		return
	}
	failures, after := h.failures, h.lastSuccess.Sub(h.failingSince)
	a.logger.Info("lane delivers again", zap.String("lane", lane),
		zap.Int("failed_attempts", failures), zap.Duration("after", after))
	a.events.Emit(events.LaneUp, func() map[string]any {
		return map[string]any{"lane": lane, "failed_attempts": failures, "after": after.Seconds()}
	})
	h.failing, h.failures = false, 0
}

// failed records that a delivery has failed. If the lane is not failing yet, it ignores a
// delivery that started before the last success: the backend may be back since.
func (h *laneHealth) failed(a *attachment, lane string, started time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failing {
		h.failures++
		return
	}
	now := time.Now()
	if started.Before(h.lastSuccess) || now.Sub(h.lastWarning) < warnAgainAfter {
		return
	}
	h.failing, h.failures, h.failingSince, h.lastWarning = true, 1, now, now
	a.logger.Warn("lane does not deliver: notifications are kept, and tried again", zap.String("lane", lane), zap.Error(err))
	a.events.Emit(events.LaneDown, func() map[string]any {
		return map[string]any{"lane": lane, "error": err.Error()}
	})
}

// down reports whether the last deliveries have failed.
func (h *laneHealth) down() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failing
}
