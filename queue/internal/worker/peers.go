package worker

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	heartbeatInterval = 5 * time.Second

	// An instance whose last heartbeat is older delivers and claims nothing. It is well below
	// db.GoneAfter, after which others take over what it holds.
	lateAfter = 15 * time.Second

	// orphanedAfter is how long a lane must have no live instance before another one takes it over.
	// If no other process can have the database, it is taken over at once.
	orphanedAfter = time.Minute
)

// peers are the other instances that share the database, as this one knows them.
type peers struct {
	db     db.DB
	config func() Config // the current one

	asking sync.Mutex // for refresh

	onTime atomic.Pointer[time.Time] // when the last good heartbeat was sent; nil before the first

	mu      sync.RWMutex
	known   db.Peers
	asked   time.Time             // when they were asked for
	told    map[db.Lane]time.Time // own lanes, since when the others can know of them
	orphans map[db.Lane]time.Time // lanes of own endpoints, since when no live instance has them
}

// late reports whether others may take over what this instance holds.
func (p *peers) late() bool {
	sent := p.onTime.Load()
	return sent == nil || time.Since(*sent) > lateAfter
}

// exchange tells the others of this instance, and stores what it learns of them.
func (p *peers) exchange(ctx context.Context) error {
	asked, self, late := time.Now(), p.config().presence(), p.late()
	known, err := p.db.Heartbeat(ctx, self)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !asked.Before(p.asked) {
		p.known, p.asked = known, asked
		told := make(map[db.Lane]time.Time, len(self.Lanes))
		for _, lane := range self.Lanes {
			told[lane] = time.Now()
			if since, before := p.told[lane]; before && !late {
				told[lane] = since
			}
		}
		p.told = told
	}
	return nil
}

// now returns the time by the database's clock: that of the last heartbeat, and what has
// passed since.
func (p *peers) now() time.Time {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.asked.IsZero() {
		return time.Now()
	}
	return p.known.Now.Add(time.Since(p.asked))
}

// refresh returns once the others are known as they were after some time. Whoever stored a
// notification was live before that, though the last heartbeat may not have seen it.
func (p *peers) refresh(ctx context.Context, after time.Time) error {
	p.asking.Lock()
	defer p.asking.Unlock()
	p.mu.RLock()
	known := p.known.Exclusive || p.asked.After(after)
	p.mu.RUnlock()
	if known {
		return nil
	}
	return p.exchange(ctx)
}

// others returns the other live instances.
func (p *peers) others() []db.Presence {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.known.Others
}

// lanes returns the lanes that other live instances work on.
func (p *peers) lanes() []db.Lane {
	var lanes []db.Lane
	for _, other := range p.others() {
		lanes = append(lanes, other.Lanes...)
	}
	return lanes
}

// sharing returns how many live instances work on a lane of the config, with this one, and how long this
// one must wait until all of the others know that. Those that have not learned it by then deliver nothing.
func (p *peers) sharing(lane db.Lane) (instances int, wait time.Duration) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	instances = 1
	for _, other := range p.known.Others {
		if slices.Contains(other.Lanes, lane) {
			instances++
		}
	}
	if instances > 1 {
		wait = lateAfter
		if since, told := p.told[lane]; told {
			wait = max(0, lateAfter-time.Since(since))
		}
	}
	return instances, wait
}

// belongsToOther reports whether a delivery should be left to another live instance, because this
// config, which may be the older one, would route it to another lane; routed is empty if no route fits.
// A live instance with another config for the endpoint should deliver it: any if no route fits here,
// or else, and always if it is fixed to its lane, one that works on the lane. One of UnroutedLane for
// which this config has a route is not left.
func (p *peers) belongsToOther(lane db.Lane, routed string, fixed bool) bool {
	if routed == lane.Name {
		return false
	}
	own := ""
	if e := p.config()[lane.Endpoint]; e != nil {
		own = e.Handler.ConfigHash
	}
	fitsNone := routed == "" && !fixed
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.ContainsFunc(p.known.Others, func(other db.Presence) bool {
		hash, has := other.Configs[lane.Endpoint]
		return has && hash != own && (fitsNone || lane.Name != UnroutedLane && slices.Contains(other.Lanes, lane))
	})
}

// orphaned is told which lanes have deliveries that are not finished. It returns those that this
// instance should take over: of its own endpoints, and without a live instance for long enough.
func (p *peers) orphaned(unfinished []db.Lane, now time.Time) (takeOver []db.Lane) {
	config := p.config()
	worked := slices.Concat(config.presence().Lanes, p.lanes())
	p.mu.Lock()
	defer p.mu.Unlock()
	orphans := make(map[db.Lane]time.Time)
	for _, lane := range unfinished {
		if config[lane.Endpoint] == nil || slices.Contains(worked, lane) {
			continue
		}
		since, known := p.orphans[lane]
		if !known {
			since = now
		}
		orphans[lane] = since
		if p.known.Exclusive || now.Sub(since) >= orphanedAfter {
			takeOver = append(takeOver, lane)
		}
	}
	p.orphans = orphans
	return takeOver
}
