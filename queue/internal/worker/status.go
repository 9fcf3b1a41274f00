package worker

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	// Counts are valid for snapshotValidity, and for snapshotPart times as long as counting
	// took: so counting takes at most 5 % of the time.
	snapshotValidity = 2 * time.Second
	snapshotPart     = 20

	snapshotTimeout = 3 * time.Second
)

// countedStates are the states of deliveries that are counted.
var countedStates = []db.State{db.Waiting, db.Delivering, db.Retrying, db.Dead}

// counts are the numbers of deliveries in the whole database, as of some time.
type counts struct {
	byLane map[db.Lane]map[db.State]int64
	oldest map[db.Lane]time.Duration // of those that are neither delivered nor dead
	taken  time.Time                 // zero if nothing is known
}

// unfinished returns how many deliveries of a lane are neither delivered nor dead.
func (c counts) unfinished(lane db.Lane) (n int64) {
	for state, count := range c.byLane[lane] {
		if state != db.Dead {
			n += count
		}
	}
	return n
}

// oldestNow returns the age of the oldest unfinished delivery of a lane; 0 if there is none.
func (c counts) oldestNow(lane db.Lane) time.Duration {
	if age, ok := c.oldest[lane]; ok {
		return age + time.Since(c.taken)
	}
	return 0
}

// snapshot counts the deliveries, no more often than it must.
type snapshot struct {
	db  db.DB
	log *zap.Logger

	mu    sync.Mutex
	last  counts
	asked time.Time
	cost  time.Duration // how long counting took
}

// expire makes the next get count anew.
func (s *snapshot) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = time.Time{}
}

// get returns the counts. If the database does not answer in time, it returns the last known
// ones.
func (s *snapshot) get(ctx context.Context) counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked.IsZero() && time.Since(s.asked) < max(snapshotValidity, snapshotPart*s.cost) {
		return s.last
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	began := time.Now()
	rows, err := s.db.Backlog(ctx)
	s.asked, s.cost = time.Now(), 0
	if err != nil {
		s.log.Debug("counting deliveries failed, and will be tried again", zap.Error(err))
		return s.last
	}
	s.cost = s.asked.Sub(began)
	s.last = counts{byLane: make(map[db.Lane]map[db.State]int64), oldest: make(map[db.Lane]time.Duration), taken: began}
	for _, row := range rows {
		if s.last.byLane[row.Lane] == nil {
			s.last.byLane[row.Lane] = make(map[db.State]int64)
		}
		s.last.byLane[row.Lane][row.State] = row.Count
		if row.State != db.Dead {
			s.last.oldest[row.Lane] = max(s.last.oldest[row.Lane], row.Oldest)
		}
	}
	return s.last
}

// LaneStatus is how a lane is doing.
type LaneStatus struct {
	Lane    db.Lane
	Kind    string // route or copy; empty if the current config does not have it
	State   LaneState
	Workers int // of this instance; 0 if it does not work on the lane
	Counts  map[db.State]int64
	Oldest  time.Duration // age of the oldest one that is neither delivered nor dead
}

// statuses returns the status of all lanes of an endpoint, or of all endpoints for an empty
// name: first those of the config, and then those that others work on or that have deliveries.
func statuses(endpoint string, config Config, counts counts, own *lanes, others []db.Lane) []LaneStatus {
	all := config.lanes()
	rest := slices.Clone(others)
	for lane := range counts.byLane {
		rest = append(rest, lane)
	}
	slices.SortFunc(rest, func(x, y db.Lane) int {
		return cmp.Or(cmp.Compare(x.Endpoint, y.Endpoint), cmp.Compare(x.Name, y.Name))
	})
	for _, lane := range rest {
		all = append(all, configLane{Lane: lane})
	}
	var found []LaneStatus
	seen := make(map[db.Lane]bool)
	for _, lane := range all {
		if seen[lane.Lane] || endpoint != "" && lane.Endpoint != endpoint {
			continue
		}
		seen[lane.Lane] = true
		status := LaneStatus{Lane: lane.Lane, Kind: lane.kind, Counts: make(map[db.State]int64), Oldest: counts.oldestNow(lane.Lane)}
		for _, state := range countedStates {
			status.Counts[state] = counts.byLane[lane.Lane][state]
		}
		worked := lane.kind != "" || slices.Contains(others, lane.Lane)
		status.State, status.Workers = own.state(lane.Lane, worked)
		found = append(found, status)
	}
	return found
}
