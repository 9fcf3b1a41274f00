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
	// A snapshot is used for snapshotValidity, or snapshotPart times as long as counting took, so
	// that many who look take at most a part of the database.
	snapshotValidity = 100 * time.Millisecond
	snapshotPart     = 5

	snapshotTimeout = 3 * time.Second
)

// countedStates are the states of deliveries that are counted.
var countedStates = []db.State{db.Waiting, db.Delivering, db.Retrying, db.Dead}

// snapshot has the numbers of deliveries in the whole database, as of some time.
type snapshot struct {
	byLane map[db.Lane]map[db.State]int64
	oldest map[db.Lane]time.Duration // of those that are neither delivered nor dead
	taken  time.Time                 // zero if nothing is known
}

// unfinished returns how many deliveries of a lane are neither delivered nor dead.
func (s snapshot) unfinished(lane db.Lane) int64 {
	states := s.byLane[lane]
	return states[db.Waiting] + states[db.Delivering] + states[db.Retrying]
}

// oldestNow returns the age of the oldest unfinished delivery of a lane; 0 if there is none.
func (s snapshot) oldestNow(lane db.Lane) time.Duration {
	if age, ok := s.oldest[lane]; ok {
		return age + time.Since(s.taken)
	}
	return 0
}

// counter counts the deliveries, for all who want to know at the same time.
type counter struct {
	db  db.DB
	log *zap.Logger

	mu    sync.Mutex
	last  snapshot
	ended time.Time // when the last one was taken or failed
	cost  time.Duration
}

// count returns the last snapshot if it is still used and the caller does not want a new one. If
// the database does not answer in time, it returns the last known one.
func (c *counter) count(ctx context.Context, anew bool) snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !anew && !c.ended.IsZero() && time.Since(c.ended) < max(snapshotValidity, snapshotPart*c.cost) {
		return c.last
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	began := time.Now()
	rows, err := c.db.Backlog(ctx)
	c.ended = time.Now()
	c.cost = c.ended.Sub(began)
	if err != nil {
		c.log.Debug("counting deliveries failed, and will be tried again", zap.Error(err))
		return c.last
	}
	c.last = snapshot{byLane: make(map[db.Lane]map[db.State]int64), oldest: make(map[db.Lane]time.Duration), taken: began}
	for _, row := range rows {
		if c.last.byLane[row.Lane] == nil {
			c.last.byLane[row.Lane] = make(map[db.State]int64)
		}
		c.last.byLane[row.Lane][row.State] = row.Count
		if row.State != db.Dead {
			c.last.oldest[row.Lane] = max(c.last.oldest[row.Lane], row.Oldest)
		}
	}
	return c.last
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
func statuses(endpoint string, config Config, counts snapshot, own *lanes, others []db.Lane) []LaneStatus {
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
		status.State, status.Workers = own.state(lane.Lane, lane.kind != "" || slices.Contains(others, lane.Lane))
		found = append(found, status)
	}
	return found
}
