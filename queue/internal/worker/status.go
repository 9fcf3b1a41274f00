package worker

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// countedStates are the states of deliveries that are counted.
var countedStates = []db.State{db.Waiting, db.Delivering, db.Retrying, db.Dead}

// snapshot has the numbers of deliveries in the whole database, as of some time. Its lanes are as laneNames
// tells them.
type snapshot struct {
	byLane   map[db.Lane]map[db.State]db.LaneCount
	heldBack map[db.Lane]db.HeldBack
	working  []db.Lane // that have unfinished deliveries
	taken    time.Time // zero if nothing is known
}

const (
	// maxForeignLanes is how many lanes are known by their names that the config does not have.
	maxForeignLanes = 100

	// otherLanes is the name of all further ones, and of those whose names no lane can have: others can
	// write to the database, and each lane costs memory and series of metrics.
	otherLanes = "other"
)

// laneNames tells lanes by bounded names.
type laneNames struct {
	config  Config
	own     map[db.Lane]bool
	foreign map[db.Lane]bool
}

func newLaneNames(config Config) *laneNames {
	n := &laneNames{config: config, own: make(map[db.Lane]bool), foreign: make(map[db.Lane]bool)}
	for _, lane := range config.lanes() {
		n.own[lane.Lane] = true
	}
	return n
}

// knows reports whether a lane is known by its name.
func (n *laneNames) knows(lane db.Lane) bool {
	switch {
	case n.own[lane] || n.foreign[lane]:
		return true
	case len(n.foreign) == maxForeignLanes || lanename.Check(lane.Name) != nil || lanename.Check(lane.Endpoint) != nil:
		return false
	default:
		n.foreign[lane] = true
		return true
	}
}

// of returns a lane, or what it is told as.
func (n *laneNames) of(lane db.Lane) db.Lane {
	if n.knows(lane) {
		return lane
	}
	if n.config[lane.Endpoint] == nil {
		return db.Lane{Endpoint: otherLanes, Name: otherLanes}
	}
	return db.Lane{Endpoint: lane.Endpoint, Name: otherLanes}
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
	db     db.DB
	config func() Config
	busy   *semaphore.Weighted // with room for one; it guards the rest

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
	c.last = newSnapshot(c.config(), c.began, rows, heldBack)
	return c.last, nil
}

func newSnapshot(config Config, taken time.Time, rows []db.LaneCount, heldBack []db.HeldBack) snapshot {
	s := snapshot{byLane: make(map[db.Lane]map[db.State]db.LaneCount), heldBack: make(map[db.Lane]db.HeldBack), taken: taken}
	slices.SortFunc(rows, func(x, y db.LaneCount) int { return compareLanes(x.Lane, y.Lane) })
	names, working := newLaneNames(config), newLaneNames(config) // those that are only dead must not hide others
	for _, row := range rows {
		if row.State != db.Dead && working.knows(row.Lane) && !slices.Contains(s.working, row.Lane) {
			s.working = append(s.working, row.Lane)
		}
		lane := names.of(row.Lane)
		if s.byLane[lane] == nil {
			s.byLane[lane] = make(map[db.State]db.LaneCount)
		}
		sum := s.byLane[lane][row.State]
		s.byLane[lane][row.State] = db.LaneCount{Lane: lane, State: row.State, Count: sum.Count + row.Count, Oldest: max(sum.Oldest, row.Oldest)}
	}
	for _, held := range heldBack {
		if names.knows(held.Lane) {
			s.heldBack[held.Lane] = held
		}
	}
	return s
}

func compareLanes(x, y db.Lane) int {
	return cmp.Or(cmp.Compare(x.Endpoint, y.Endpoint), cmp.Compare(x.Name, y.Name))
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
	names := newLaneNames(config)
	rest := slices.SortedFunc(maps.Keys(counts.byLane), compareLanes)
	for _, lane := range rest {
		names.knows(lane)
	}
	for _, lane := range others {
		rest = append(rest, names.of(lane))
	}
	slices.SortFunc(rest, compareLanes)
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
