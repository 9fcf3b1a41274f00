package queue

import (
	"context"
	"maps"
	"slices"
	"time"
)

const (
	// lanesInterval is how often pauses are read from the database.
	lanesInterval = time.Second

	// orphansEvery is the number of these intervals between two calls of findOrphans.
	orphansEvery = 10
)

// lane returns the lane of a River queue, or nil if this instance does not work on it.
func (d *dispatcher) lane(queue string) *lane {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.lanes[queue]
}

func (d *dispatcher) allLanes() []*lane {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Collect(maps.Values(d.lanes))
}

func (d *dispatcher) claimOnAllLanes() { d.refillLanes(true) }

func (d *dispatcher) refillLanes(more bool) {
	for _, lane := range d.allLanes() {
		lane.refill(more)
	}
}

// wakeRefused makes all lanes claim if one of them was refused memory. It must be called when
// memory is free again.
func (d *dispatcher) wakeRefused() {
	if d.held.takeRefused() {
		d.refillLanes(false)
	}
}

// updateLanes starts, resizes and retires lanes, so that this instance works on the lanes of
// the current config and on the orphans that it takes over. It does not wait for deliveries.
func (d *dispatcher) updateLanes() {
	if d.ready() != nil {
		return
	}
	set := d.current()
	d.mu.Lock()
	if d.stopping.Load() {
		d.mu.Unlock()
		return
	}
	wanted := make(map[string]int)
	for name, a := range set {
		for _, queue := range a.queues(name) {
			_, lane := splitRiverQueue(queue)
			wanted[queue] = a.options.workers(lane)
		}
	}
	for queue, since := range d.orphans {
		name, lane := splitRiverQueue(queue)
		adopted := set[name] == nil // by a person's wish, so there is nobody to wait for
		if a := set.owner(name); a != nil && wanted[queue] == 0 && (d.fleet.Exclusive || adopted || time.Since(since) >= orphanedAfter) {
			wanted[queue] = a.options.workers(lane)
		}
	}
	var retired []*lane
	for queue, lane := range d.lanes {
		if wanted[queue] == 0 {
			retired = append(retired, lane)
			delete(d.lanes, queue)
		}
	}
	var resized []*lane
	for queue, workers := range wanted {
		if lane := d.lanes[queue]; lane != nil {
			resized = append(resized, lane)
		} else {
			d.lanes[queue] = newLane(d, queue, workers)
			d.lanes[queue].pause(d.paused[queue])
		}
	}
	d.mu.Unlock()
	for _, lane := range resized {
		lane.resize(wanted[lane.queue])
	}
	for _, lane := range retired {
		lane.retire()
	}
	if len(retired) > 0 || len(resized) < len(wanted) {
		wake(d.heartbeatNow) // tells the other instances
		wake(d.lanesNow)     // makes rows for the lanes, which River's web UI lists
	}
}

// maintainLanes pauses and resumes lanes as the database says. It takes over lanes that no
// live instance has, and stops them when one has them again.
func (d *dispatcher) maintainLanes(ctx context.Context) {
	n := 0
	every(ctx, lanesInterval, d.lanesNow, func() {
		ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
		defer cancel()
		_ = d.applyPauses(ctx) // sendHeartbeats logs that the database cannot be reached
		if n%orphansEvery == 0 {
			d.findOrphans(ctx)
		}
		n++
	})
}

// applyPauses pauses and resumes the lanes as their rows say. It makes the rows that do not
// exist yet.
func (d *dispatcher) applyPauses(ctx context.Context) error {
	d.pausing.Lock() // so that what was read later is applied later
	defer d.pausing.Unlock()
	lanes := d.allLanes()
	names := make([]string, len(lanes))
	for i, lane := range lanes {
		names[i] = lane.queue
	}
	paused, err := d.db.Queues(ctx, names)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.paused = paused
	d.mu.Unlock()
	for _, lane := range lanes {
		lane.pause(paused[lane.queue])
	}
	return nil
}

// wake makes a loop run once more. It never blocks: one signal that waits is enough.
func wake(loop chan<- struct{}) {
	select {
	case loop <- struct{}{}:
	default:
	}
}
