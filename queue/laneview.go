package queue

import (
	"context"
	"slices"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// laneStatus is the state of a lane, as the admin API shows it.
type laneStatus struct {
	Queue         string                `json:"queue"` // the name of the endpoint
	Lane          string                `json:"lane"`
	State         laneCondition         `json:"state"`
	Workers       int                   `json:"workers"` // of this instance; 0 if it does not work on the lane
	Jobs          map[jobdb.State]int64 `json:"jobs"`
	OldestSeconds float64               `json:"oldest_seconds"`
}

type laneCondition string

const (
	laneActive   laneCondition = "active"
	lanePaused   laneCondition = "paused"   // by a person
	laneDown     laneCondition = "down"     // the last deliveries of this instance have failed
	laneOrphaned laneCondition = "orphaned" // no config of a live instance has it
)

// laneStatuses returns the state of River queues. The numbers are a few seconds old at most.
func (d *dispatcher) laneStatuses(queues []string) []laneStatus {
	counts, oldest := d.snapshot()
	statuses := make([]laneStatus, len(queues))
	for i, queue := range queues {
		endpoint, lane := splitRiverQueue(queue)
		status := laneStatus{
			Queue: endpoint, Lane: lane, State: d.laneCondition(queue),
			Jobs: make(map[jobdb.State]int64), OldestSeconds: oldest[queue].Seconds(),
		}
		for _, state := range countedStates {
			status.Jobs[state] = counts[state][queue]
		}
		if l := d.lane(queue); l != nil {
			status.Workers = l.size()
		}
		statuses[i] = status
	}
	return statuses
}

// laneStatuses returns the state of the lanes of the endpoint.
func (e endpoint) laneStatuses(ctx context.Context) ([]laneStatus, error) {
	if err := e.dispatcher.ready(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	queues, err := e.riverQueues(ctx)
	if err != nil {
		return nil, err
	}
	return e.dispatcher.laneStatuses(queues), nil
}

func (d *dispatcher) laneCondition(queue string) laneCondition {
	l, own := d.lane(queue), slices.Contains(d.presence().Queues, queue)
	d.mu.RLock()
	defer d.mu.RUnlock()
	switch {
	case d.paused[queue]:
		return lanePaused
	case !own && !d.othersWorkOn(queue):
		return laneOrphaned
	case l != nil && l.health.down():
		return laneDown
	default:
		return laneActive
	}
}

// queuesOfOthers returns the River queues that other live instances work on.
func (d *dispatcher) queuesOfOthers() []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var queues []string
	for _, other := range d.fleet.Others {
		queues = append(queues, other.Queues...)
	}
	return queues
}

// setPaused pauses or resumes River queues: on this instance at once, on others within a
// second or two.
func (d *dispatcher) setPaused(ctx context.Context, queues []string, paused bool) error {
	for _, queue := range queues {
		if err := d.db.SetPaused(ctx, queue, paused); err != nil {
			return err
		}
	}
	return d.applyPauses(ctx)
}
