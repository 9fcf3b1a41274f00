package queue

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// stats are the numbers of jobs in a database, for metrics. Counting is slow, so they are
// counted again only when somebody asks, something has changed, and the last count is old
// enough.
type stats struct {
	mu            sync.Mutex
	changes       uint64 // as jobdb.DB.Changes says
	counts        map[jobdb.State]*stateCount
	oldest        map[string]time.Duration // age of the oldest unfinished job, by queue
	oldestChanges uint64                   // as Changes said before oldest was read
	taken         time.Time                // when oldest was read
	cost          time.Duration            // how long that took
}

// stateCount is the number of jobs in one state.
type stateCount struct {
	byQueue map[string]int64
	changes uint64        // as jobdb.DB.Changes said before it was counted
	taken   time.Time     // when it was counted
	cost    time.Duration // how long that took
}

const (
	// A count is valid for statsValidity, and for statsShare times as long as it took: so
	// counting takes at most 5 % of the time.
	statsValidity = 2 * time.Second
	statsShare    = 20

	statsTimeout = 3 * time.Second
)

// countedStates are the states that the metric queue_jobs has.
var countedStates = []jobdb.State{
	jobdb.StateAvailable, jobdb.StateRunning, jobdb.StateRetryable,
	jobdb.StateCompleted, jobdb.StateDiscarded, jobdb.StateCancelled,
}

// snapshot returns the number of jobs by state and queue, and the age of the oldest
// unfinished job by queue. If the database cannot be read, it returns the last known values.
func (d *dispatcher) snapshot() (counts map[jobdb.State]map[string]int64, oldest map[string]time.Duration) {
	s := &d.stats
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.ready() == nil {
		ctx, cancel := context.WithTimeout(d.ctx, statsTimeout)
		defer cancel()
		if err := s.refresh(ctx, d.db); err != nil {
			d.log().Debug("counting jobs failed", zap.String("database", d.location.name), zap.Error(err))
		}
	}
	counts = make(map[jobdb.State]map[string]int64)
	for state, count := range s.counts {
		counts[state] = count.byQueue
	}
	oldest = make(map[string]time.Duration)
	for queue, age := range s.oldest {
		oldest[queue] = age + time.Since(s.taken)
	}
	return counts, oldest
}

// refresh counts again what has changed and is old enough.
func (s *stats) refresh(ctx context.Context, db jobdb.DB) (err error) {
	if s.changes, err = db.Changes(ctx); err != nil {
		return err
	}
	if s.counts == nil {
		s.counts = make(map[jobdb.State]*stateCount)
	}
	for _, state := range countedStates {
		count := s.counts[state]
		if count == nil {
			count = new(stateCount)
			s.counts[state] = count
		}
		if count.changes == s.changes && !count.taken.IsZero() || !due(count.taken, count.cost) {
			continue
		}
		began := time.Now()
		byQueue, err := db.Count(ctx, state)
		if err != nil {
			return err
		}
		*count = stateCount{byQueue: byQueue, changes: s.changes, taken: time.Now(), cost: time.Since(began)}
	}
	if s.oldestChanges == s.changes && !s.taken.IsZero() || !due(s.taken, s.cost) {
		return nil
	}
	began := time.Now()
	oldest, err := db.Oldest(ctx)
	if err != nil {
		return err
	}
	s.oldest, s.oldestChanges, s.taken, s.cost = oldest, s.changes, time.Now(), time.Since(began)
	return nil
}

// due reports whether a value that took so long to read is old enough to be read again.
func due(taken time.Time, cost time.Duration) bool {
	return time.Since(taken) >= max(statsValidity, statsShare*cost)
}
