package worker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
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

// counter counts the deliveries. Those who want to know at the same time share a count.
type counter struct {
	db   db.DB
	busy *semaphore.Weighted // with room for one; it guards the rest

	last  snapshot
	began time.Time // when it was last counted
	cost  time.Duration
	err   error
}

// count returns the numbers as they are now, or an error and the last known ones if the database does
// not answer in time. It pauses between two counts for as long as one takes, so that many who look
// take at most a part of the database.
func (c *counter) count(ctx context.Context) (snapshot, error) {
	asked := time.Now()
	if err := c.busy.Acquire(ctx, 1); err != nil {
		return snapshot{}, err
	}
	defer c.busy.Release(1)
	if c.began.After(asked) && !errors.Is(c.err, context.Canceled) { // somebody else who waited has counted
		return c.last, c.err
	}
	ctx, cancel := context.WithTimeout(ctx, taskTimeout)
	defer cancel()
	select {
	case <-time.After(2*c.cost - time.Since(c.began)):
	case <-ctx.Done():
	}
	c.began = time.Now()
	rows, heldBack, err := c.db.Backlog(ctx)
	c.cost = time.Since(c.began)
	if c.err = err; err != nil {
		return c.last, err
	}
	c.last = snapshot{byLane: make(map[db.Lane]map[db.State]db.LaneCount), heldBack: make(map[db.Lane]db.HeldBack), taken: c.began}
	for _, held := range heldBack {
		c.last.heldBack[held.Lane] = held
	}
	for _, row := range rows {
		if c.last.byLane[row.Lane] == nil {
			c.last.byLane[row.Lane] = make(map[db.State]db.LaneCount)
		}
		c.last.byLane[row.Lane][row.State] = row
	}
	return c.last, nil
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
