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
	snapshotTimeout  = 3 * time.Second
)

// countedStates are the states of deliveries that are counted.
var countedStates = []db.State{db.Waiting, db.Delivering, db.Retrying, db.Dead}

// snapshot has the numbers of deliveries in the whole database, as of some time.
type snapshot struct {
	byLane   map[db.Lane]map[db.State]db.LaneCount
	heldBack map[db.Lane]db.HeldBack
	taken    time.Time // zero if nothing is known
}

// unfinished returns how many deliveries of a lane are neither delivered nor dead, and the age of
// the oldest one now.
func (s snapshot) unfinished(lane db.Lane) (n int64, oldest time.Duration) {
	for state, row := range s.byLane[lane] {
		if state != db.Dead {
			n += row.Count
			oldest = max(oldest, row.Oldest+time.Since(s.taken))
		}
	}
	return n, oldest
}

// counter counts the deliveries, for all who want to know at the same time.
type counter struct {
	db  db.DB
	log *zap.Logger

	mu    sync.Mutex
	last  snapshot
	ended time.Time // when it was last counted
	cost  time.Duration
}

// count returns the last snapshot if it is still used and the caller does not want a new one, or if
// the database does not answer in time.
func (c *counter) count(ctx context.Context, anew bool) snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !anew && !c.ended.IsZero() && time.Since(c.ended) < max(snapshotValidity, snapshotPart*c.cost) {
		return c.last
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	began := time.Now()
	rows, heldBack, err := c.db.Backlog(ctx)
	c.ended = time.Now()
	c.cost = c.ended.Sub(began)
	if err != nil {
		c.log.Debug("counting deliveries failed, and will be tried again", zap.Error(err))
		return c.last
	}
	c.last = snapshot{byLane: make(map[db.Lane]map[db.State]db.LaneCount), heldBack: make(map[db.Lane]db.HeldBack), taken: began}
	for _, held := range heldBack {
		c.last.heldBack[held.Lane] = held
	}
	for _, row := range rows {
		if c.last.byLane[row.Lane] == nil {
			c.last.byLane[row.Lane] = make(map[db.State]db.LaneCount)
		}
		c.last.byLane[row.Lane][row.State] = row
	}
	return c.last
}

// LaneStatus is how a lane is doing.
type LaneStatus struct {
	Lane  db.Lane
	Kind  string // route or copy; empty if the current config does not have it
	State LaneState

	// Of one that is down: when the attempts began to fail, and the last error.
	DownSince time.Time
	Error     string

	Workers int // of this instance; 0 if it does not work on the lane
	Counts  map[db.State]int64
	Oldest  time.Duration // age of the oldest one that is neither delivered nor dead
	Held    db.HeldBack   // of a lane with an order
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
		status := LaneStatus{Lane: lane.Lane, Kind: lane.kind, Counts: make(map[db.State]int64)}
		_, status.Oldest = counts.unfinished(lane.Lane)
		status.Held = counts.heldBack[lane.Lane]
		for _, state := range countedStates {
			status.Counts[state] = counts.byLane[lane.Lane][state].Count
		}
		own.describe(&status, lane.kind != "" || slices.Contains(others, lane.Lane))
		found = append(found, status)
	}
	return found
}
