package queue

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// orphanedAfter is how long a lane must have no live instance before another instance takes
// it over. If no other process can have the database, the lane is taken over at once.
const orphanedAfter = time.Minute

// findOrphans finds lanes with unfinished jobs that no live instance works on. If this
// config has their endpoint, updateLanes takes them over. If no live instance has their
// endpoint, findOrphans logs a warning.
func (d *dispatcher) findOrphans(ctx context.Context) {
	backlog, err := d.db.QueuesWith(ctx, jobdb.UnfinishedStates)
	if err != nil {
		return // sendHeartbeats logs that the database cannot be reached
	}
	set := d.current()
	if len(set) == 0 {
		return
	}
	own := d.presence().Queues
	d.mu.Lock()
	orphans := make(map[string]time.Time)
	var stranded []string
	for _, queue := range backlog {
		if slices.Contains(own, queue) || d.othersWorkOn(queue) {
			continue
		}
		name, _ := splitRiverQueue(queue)
		if set.owner(name) != nil {
			orphans[queue] = time.Now()
			if since, known := d.orphans[queue]; known {
				orphans[queue] = since
			}
		} else if !d.othersHave(name) {
			stranded = append(stranded, queue)
		}
	}
	d.orphans = orphans
	d.mu.Unlock()
	d.updateLanes()
	for _, lane := range d.allLanes() {
		lane.reconsider()
	}
	d.warnOfStranded(ctx, stranded)
}

func (d *dispatcher) othersWorkOn(queue string) bool {
	return slices.ContainsFunc(d.fleet.Others, func(other jobdb.Presence) bool { return slices.Contains(other.Queues, queue) })
}

func (d *dispatcher) othersHave(endpoint string) bool {
	return slices.ContainsFunc(d.fleet.Others, func(other jobdb.Presence) bool { return other.Configs[endpoint] != "" })
}

// warnOfStranded logs a warning for each endpoint with unfinished jobs that no live instance
// has, once for each.
func (d *dispatcher) warnOfStranded(ctx context.Context, queues []string) {
	endpoints := make(map[string]int64)
	for _, queue := range queues {
		name, _ := splitRiverQueue(queue)
		if !d.warned[name] {
			endpoints[name] += 0
		}
	}
	if len(endpoints) == 0 {
		return
	}
	for _, state := range []jobdb.State{jobdb.StateAvailable, jobdb.StateRetryable, jobdb.StateRunning} {
		counts, err := d.db.Count(ctx, state)
		if err != nil {
			return
		}
		for queue, n := range counts {
			if name, _ := splitRiverQueue(queue); slices.Contains(queues, queue) && !d.warned[name] {
				endpoints[name] += n
			}
		}
	}
	for name, n := range endpoints {
		d.warned[name] = true
		d.log().Warn("notifications belong to an endpoint that no config has: to deliver them, add `adopt "+name+"` to the queue's block, or give the queue its old name",
			zap.String("database", d.location.name), zap.String("endpoint", name), zap.Int64("notifications", n))
	}
}

// belongsToAnotherConfig reports whether a job should be left to another live instance.
// The queue of a job is that of the lane to which the instance that stored it would route
// it. The lane is the one to which this config would route it; it is empty if no route fits.
// If they differ, this config may be the older one. Then a live instance with another config
// for the endpoint should deliver the job: any if no route fits here, or else one that works
// on the job's queue. A job that is to go to one lane, whatever its topic, can be delivered
// only by an instance that works on its queue. A job of unroutedLane for which this config
// has a route is not left.
func (d *dispatcher) belongsToAnotherConfig(queue, lane, to string) bool {
	endpoint, wanted := splitRiverQueue(queue)
	if lane == wanted {
		return false
	}
	own := ""
	if a := d.current().owner(endpoint); a != nil {
		own = a.configHash()
	}
	fitsNone := lane == "" && to == ""
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.ContainsFunc(d.fleet.Others, func(other jobdb.Presence) bool {
		hash, has := other.Configs[endpoint]
		return has && hash != own && (fitsNone || wanted != unroutedLane && slices.Contains(other.Queues, queue))
	})
}
