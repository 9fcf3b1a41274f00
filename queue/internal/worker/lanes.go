package worker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// lanes are the lanes that this instance works on.
type lanes struct {
	shared *laneParts

	stopped atomic.Bool // no lane is made any more: it would claim for ever

	mu     sync.RWMutex
	byName map[db.Lane]*lane
	paused map[db.Lane]bool // of the whole database

	pausing sync.Mutex // for applyPauses
}

// get returns a lane, or nil if this instance does not work on it.
func (s *lanes) get(name db.Lane) *lane {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byName[name]
}

func (s *lanes) all() []*lane {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Values(s.byName))
}

// refill makes all lanes claim and deliver, as lane.refill does.
func (s *lanes) refill(more bool) {
	for _, lane := range s.all() {
		lane.refill(more)
	}
}

// update starts, resizes and retires lanes, so that this instance works on those that are
// wanted, each with its options. It does not wait for deliveries.
func (s *lanes) update(wanted map[db.Lane]*LaneOptions) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped.Load() {
		wanted = nil
	}
	for name, lane := range s.byName {
		if _, ok := wanted[name]; !ok {
			delete(s.byName, name)
			lane.retire()
		}
	}
	for name, options := range wanted {
		if lane := s.byName[name]; lane == nil {
			s.byName[name] = newLane(s.shared, name, options, s.paused[name])
			if s.paused[name] {
				s.tellPaused(name)
			}
		} else if was := lane.options.Swap(options); was.Workers != options.Workers || was.Rate != options.Rate {
			lane.refill(true)
		}
	}
}

// stop retires all lanes for good.
func (s *lanes) stop() {
	s.stopped.Store(true)
	s.update(nil)
}

// applyPauses pauses and resumes the lanes as the database says.
func (s *lanes) applyPauses(ctx context.Context) error {
	s.pausing.Lock() // so that what was read later is applied later
	defer s.pausing.Unlock()
	names, err := s.shared.db.Paused(ctx)
	if err != nil {
		return err
	}
	paused := make(map[db.Lane]bool, len(names))
	for _, name := range names {
		paused[name] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = paused
	for name, lane := range s.byName {
		if now := paused[name]; lane.paused.Swap(now) != now {
			s.tellPaused(name)
			lane.refill(true)
		}
	}
	return nil
}

// tellPaused logs that a lane is paused, or no longer so. The caller must hold mu.
func (s *lanes) tellPaused(name db.Lane) {
	if s.paused[name] {
		s.shared.log.Warn("lane is paused: its notifications are stored, and not delivered until a person resumes it", zap.String("lane", Label(name)))
	} else {
		s.shared.log.Info("lane is resumed", zap.String("lane", Label(name)))
	}
}

// describe sets the state of a lane, and how many workers it has here. If nobody works on it, it
// is orphaned.
func (s *lanes) describe(status *LaneStatus, worked bool) {
	s.mu.RLock()
	lane, paused := s.byName[status.Lane], s.paused[status.Lane]
	s.mu.RUnlock()
	status.State = LaneActive
	if lane != nil {
		status.Workers = lane.options.Load().Workers
		status.State, status.DownSince, status.Error = lane.health.state(time.Now())
	} else if !worked {
		status.State = LaneOrphaned
	}
	if paused {
		status.State = LanePaused
	}
}
