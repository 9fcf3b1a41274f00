package queue

import (
	"context"
	"encoding/hex"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

const (
	// heartbeatInterval is how often this instance tells the others that it is alive.
	heartbeatInterval = 5 * time.Second

	// maintenanceTimeout bounds each background task that runs once per interval.
	maintenanceTimeout = 5 * time.Second

	// If the last heartbeat is older than lateAfter, this instance starts no deliveries. It
	// is well below jobdb.GoneAfter, after which other instances take its jobs over.
	lateAfter = 15 * time.Second
)

// heartbeat remembers when the last successful heartbeat was sent.
type heartbeat struct {
	sent    atomic.Pointer[time.Time]
	failing bool // of the last one; only for the one who sends
}

func (h *heartbeat) late() bool {
	sent := h.sent.Load()
	return sent == nil || time.Since(*sent) > lateAfter
}

// mayDeliver reports whether deliveries may start. They may not while the heartbeat is
// late, because other instances may take over the jobs that this one holds. They may not
// while outcomes cannot be written, because the jobs would be delivered again.
func (d *dispatcher) mayDeliver() bool {
	return !d.stopping.Load() && !d.heartbeat.late() && !d.finisher.behind()
}

// presence returns what this instance tells the other instances with each heartbeat.
func (d *dispatcher) presence() jobdb.Presence {
	p := jobdb.Presence{Configs: make(map[string]string)}
	for name, a := range d.current() {
		p.Queues = append(p.Queues, a.queues(name)...)
		p.Configs[name] = a.configHash()
	}
	slices.Sort(p.Queues)
	return p
}

// configHash returns the hash of a handler's config, as other instances see it.
func (a *attachment) configHash() string {
	hash := a.target.ConfigHash()
	return hex.EncodeToString(hash[:])
}

// queues returns the River queues of a handler's lanes.
func (a *attachment) queues(endpoint string) []string {
	var queues []string
	for _, lane := range append(a.target.Lanes(), unroutedLane) {
		queues = append(queues, riverQueue(endpoint, lane))
	}
	return queues
}

// sendHeartbeats sends heartbeats until the context ends, and rescues the jobs of instances
// that are gone.
func (d *dispatcher) sendHeartbeats(ctx context.Context) {
	every(ctx, heartbeatInterval, d.heartbeatNow, func() { d.sendHeartbeat(ctx) })
}

// sendHeartbeat sends one heartbeat. It logs when that begins to fail and when it succeeds
// again.
func (d *dispatcher) sendHeartbeat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	late := d.heartbeat.late()
	sent := time.Now()
	err := d.exchangePresence(ctx)
	if err == nil && late {
		err = d.dropLost(ctx)
	}
	switch {
	case d.ctx.Err() != nil:
		return
	case err != nil && !d.heartbeat.failing:
		d.log().Error("the queue's database cannot be reached: notifications are answered 503 until it can", zap.String("database", d.location.name), zap.Error(err))
	case err == nil && d.heartbeat.failing:
		d.log().Info("the queue's database can be reached again", zap.String("database", d.location.name))
	}
	d.heartbeat.failing = err != nil
	if err != nil {
		return
	}
	d.heartbeat.sent.Store(&sent)
	if late {
		d.claimOnAllLanes() // this also starts the deliveries that had to wait
	}
	rescued, err := d.db.Rescue(ctx)
	if err != nil {
		d.log().Debug("releasing the jobs of instances that are gone failed, and will be tried again", zap.String("database", d.location.name), zap.Error(err))
	} else if rescued > 0 {
		d.log().Warn("took over the deliveries of an instance that is gone", zap.String("database", d.location.name), zap.Int64("notifications", rescued))
		d.claimOnAllLanes()
	}
}

// dropLost forgets the jobs that other instances have taken over while the heartbeat was
// late.
func (d *dispatcher) dropLost(ctx context.Context) error {
	asked := time.Now()
	rows, err := d.db.OwnRunning(ctx)
	if err != nil {
		return err
	}
	if gone := d.held.dropLost(rows, asked); len(gone) > 0 {
		for _, lane := range d.allLanes() {
			lane.forget(gone)
		}
	}
	return nil
}

// exchangePresence tells the other instances of this one, and stores what it learns of
// them.
func (d *dispatcher) exchangePresence(ctx context.Context) error {
	asked := time.Now()
	fleet, err := d.db.Beat(ctx, d.presence())
	if err == nil {
		d.clock.note(fleet.Now, asked, time.Now())
		d.updateFleet(fleet, asked)
	}
	return err
}

// refreshFleet returns once the fleet is known as it was after some time. Whoever stored a
// job was live before that, though this instance's last heartbeat may not have seen it.
func (d *dispatcher) refreshFleet(ctx context.Context, after time.Time) error {
	d.fleetAsking.Lock()
	defer d.fleetAsking.Unlock()
	d.mu.RLock()
	known := d.fleet.Exclusive || d.fleetAsked.After(after)
	d.mu.RUnlock()
	if known {
		return nil
	}
	return d.exchangePresence(ctx)
}

// updateFleet stores what is known of the other instances. When that changes, lanes claim
// again the jobs that they have left to others.
func (d *dispatcher) updateFleet(fleet jobdb.Fleet, asked time.Time) {
	d.mu.Lock()
	if asked.Before(d.fleetAsked) {
		d.mu.Unlock()
		return
	}
	changed := !slices.EqualFunc(d.fleet.Others, fleet.Others, func(a, b jobdb.Presence) bool {
		return slices.Equal(a.Queues, b.Queues) && maps.Equal(a.Configs, b.Configs)
	})
	d.fleet, d.fleetAsked = fleet, asked
	d.mu.Unlock()
	if changed {
		for _, lane := range d.allLanes() {
			lane.reconsider()
		}
	}
}
