package worker

import (
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// lane makes the deliveries of one lane, several at the same time. It claims more than it
// delivers at once (prefetch), so that deliveries need not wait for the database.
type lane struct {
	db.Lane
	shared *laneParts
	health health

	options         atomic.Pointer[LaneOptions]
	ordered         atomic.Bool   // it may have deliveries with an order, whatever the options are now
	limiter         *rate.Limiter // for options with a rate
	paused, retired atomic.Bool

	mu           sync.Mutex
	ready        fairQueue // deliveries that wait for a worker
	reserved     int       // places for deliveries that are being stored
	running      int       // deliveries
	mayHaveMore  bool      // the database may have deliveries to claim
	after        string    // the workspace of the last waiting delivery that was claimed
	leftToOthers map[int64]bool
	ended        int         // deliveries since the last tick of claimInterval
	endedBefore  int         // deliveries between the two ticks before
	rateTimer    *time.Timer // calls deliverReady when the rate allows a delivery; nil before it first had to

	bytes int // that the lane holds; changed by the book alone

	floodOf  *Endpoint   // whose logger deadLetterLog has
	floodLog *zap.Logger // writes each message once a second

	claimNow     chan struct{} // makes claimAll claim at once
	stopClaiming context.CancelFunc
}

// laneParts are what all lanes of a worker share.
type laneParts struct {
	db         db.DB
	log        *zap.Logger
	book       *book
	pacer      *pacer
	deliver    func(*delivery) (outcome db.Outcome, ok bool)
	finish     func(*delivery, db.Outcome)
	mayDeliver func() bool
	sharing    func(db.Lane) (instances int, wait time.Duration)

	claiming   sync.WaitGroup // the goroutines in which lanes claim
	delivering sync.WaitGroup // the goroutines that deliver
}

const (
	maxPrefetch = 300 // deliveries that a lane holds besides those that run

	// claimInterval is how often a lane looks for deliveries that became available without
	// its knowing: stored by another instance, due for another attempt, or retried by a person.
	claimInterval = time.Second
	claimTimeout  = 10 * time.Second

	maxLeftToOthers = 1000 // deliveries; a lane with so many claims nothing until reconsider is called
)

// newLane returns a lane that claims and delivers until it is retired.
func newLane(shared *laneParts, name db.Lane, options *LaneOptions, paused bool) *lane {
	ctx, cancel := context.WithCancel(context.Background())
	l := &lane{
		Lane: name, shared: shared, mayHaveMore: true, leftToOthers: make(map[int64]bool),
		limiter: rate.NewLimiter(0, 1), claimNow: make(chan struct{}, 1), stopClaiming: cancel,
	}
	l.options.Store(options)
	l.paused.Store(paused)
	wake(l.claimNow)
	shared.claiming.Go(func() { l.claimAll(ctx) })
	return l
}

// retire stops the lane for good. It does not wait for the deliveries that run.
func (l *lane) retire() {
	l.stopClaiming()
	l.retired.Store(true)
	l.deliverReady()
}

// prefetch returns how many deliveries to hold that do not run yet: about as many as are made in half
// a second. With a slow backend these are few, and other instances can claim the rest.
func (l *lane) prefetch() int {
	return min(maxPrefetch, l.options.Load().Workers+max(l.ended, l.endedBefore)/2, l.soon())
}

// soon returns how many deliveries to hold at most, so that they can begin within about a second.
func (l *lane) soon() int {
	if rate := l.options.Load().Rate; rate > 0 {
		return int(rate) + 1
	}
	return math.MaxInt
}

// held returns how many deliveries do not run yet, with those that are being stored.
func (l *lane) held() int { return l.ready.waiting + l.reserved }

// idle returns how many further deliveries may run at the same time.
func (l *lane) idle() int { return max(0, l.options.Load().Workers-l.running) }

// reserve reserves a place and memory for a delivery that is being stored. It returns false if
// there is no room. If the database may have older deliveries, half of the room is kept for them.
// While deliveries are limited, there is room only for what may start soon.
func (l *lane) reserve(size int) bool {
	if !l.shared.mayDeliver() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	room := l.prefetch()
	if l.mayHaveMore {
		room /= 2
	}
	room = min(room+l.idle(), l.soon(), l.shared.pacer.soon())
	if l.paused.Load() || l.retired.Load() || l.held() >= room || !l.shared.book.reserve(l, size) {
		return false
	}
	l.reserved++
	return true
}

// accept adds deliveries to those that are ready, and gives back so many reserved places.
func (l *lane) accept(deliveries []*delivery, reserved int) {
	l.mu.Lock()
	l.reserved -= reserved
	for _, d := range deliveries {
		l.ready.add(d)
	}
	l.mu.Unlock()
	l.deliverReady()
}

// deliverReady starts deliveries until none is ready or no worker is free. If the lane is paused or
// retired, it releases them instead, and what runs goes on.
func (l *lane) deliverReady() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.ready.waiting > 0 && (l.paused.Load() || l.retired.Load()) {
		l.shared.finish(l.ready.pop(), released)
	}
	for d := l.next(); d != nil; d = l.next() {
		l.shared.delivering.Go(func() { l.work(d) }) // under the lock, so that none starts after retire
	}
}

// work makes a delivery, and then others as long as there are any.
func (l *lane) work(d *delivery) {
	for d != nil {
		if outcome, ok := l.shared.deliver(d); ok {
			l.shared.finish(d, outcome)
		}
		l.mu.Lock()
		l.running--
		l.ended++
		d = l.next()
		l.mu.Unlock()
	}
}

// next returns a delivery to begin, and counts it as running; nil if none may begin now. It
// makes the lane claim when few are left. The caller must hold mu.
func (l *lane) next() *delivery {
	if l.mayHaveMore && l.held()*2 <= l.prefetch() {
		wake(l.claimNow)
	}
	if l.ready.waiting == 0 || l.idle() == 0 || !l.shared.mayDeliver() || !l.mayStart() {
		return nil
	}
	l.running++
	return l.ready.pop()
}

// mayStart reports whether a delivery may start now, and counts it. If the rate of the lane does not
// allow it yet, it makes deliverReady be called when it does. The caller must hold mu.
func (l *lane) mayStart() bool {
	most := l.options.Load().Rate
	if most == 0 {
		return l.shared.pacer.mayStart()
	}
	instances, wait := l.shared.sharing(l.Lane)
	now := time.Now() // for all that follows: what is given back later is lost
	l.limiter.SetLimitAt(now, rate.Limit(most/float64(instances)))
	reserved := l.limiter.ReserveN(now, 1)
	wait = max(wait, reserved.DelayFrom(now))
	if wait == 0 && l.shared.pacer.mayStart() {
		return true
	}
	reserved.CancelAt(now)
	switch {
	case wait == 0: // deliverReady is called when the pace allows it
	case l.rateTimer == nil:
		l.rateTimer = time.AfterFunc(wait, l.deliverReady)
	default:
		l.rateTimer.Reset(wait) // with another rate, it is another time
	}
	return false
}

// refill claims deliveries if the database may have some, and starts those that are possible now. With
// more the database may have some. It must be called when options or paused has changed.
func (l *lane) refill(more bool) {
	l.mu.Lock()
	l.mayHaveMore = l.mayHaveMore || more
	more = l.mayHaveMore
	l.mu.Unlock()
	if more {
		wake(l.claimNow)
	}
	l.deliverReady()
}

// claimAll claims deliveries whenever there is room for them, until the context ends.
func (l *lane) claimAll(ctx context.Context) {
	ticker := time.NewTicker(claimInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.claimNow:
		case <-ticker.C:
			l.mu.Lock()
			l.ended, l.endedBefore = 0, l.ended
			l.mu.Unlock()
			l.ordered.Store(true)
			l.refill(true)
		}
		l.claimOnce()
	}
}

// claimOnce claims as many deliveries as there is room for. If the database may have more and few
// are held, the lane claims again.
func (l *lane) claimOnce() {
	claim, wanted := l.nextClaim()
	if !wanted {
		return
	}
	// The end of the lane does not interrupt a claim: rows would be claimed that nobody holds.
	ctx, cancel := context.WithTimeout(context.Background(), claimTimeout)
	defer cancel()
	rows, more, err := l.shared.db.Claim(ctx, claim)
	deliveries := make([]*delivery, len(rows))
	after, bytes := claim.After, 0
	for i, row := range rows {
		deliveries[i] = &delivery{
			id: row.ID, token: claim.Token, lane: l, note: row.Notification, fixed: row.Fixed,
			ordered: row.Ordered, stale: row.Stale, attempts: row.Attempts, claimed: time.Now(), age: row.Age,
		}
		bytes += len(row.Notification.Body)
		if row.Attempts == 0 {
			after = row.Notification.Workspace
		}
	}
	l.shared.book.unreserve(l, claimMemory-bytes)
	l.shared.book.claimed(claim.Token, deliveries)
	if err != nil {
		l.shared.log.Debug("claiming deliveries failed, and will be tried again", zap.String("lane", Label(l.Lane)), zap.Error(err))
		return
	}
	l.ordered.Store(slices.ContainsFunc(rows, func(row db.Claimed) bool { return row.Ordered }))
	l.mu.Lock()
	l.after = after
	l.mayHaveMore = l.mayHaveMore || more
	l.mu.Unlock()
	l.accept(deliveries, 0)
}

// nextClaim returns what to claim now, if anything, and reserves memory for it. It resets
// mayHaveMore, which claimOnce sets again if the database says so.
func (l *lane) nextClaim() (claim db.Claim, wanted bool) {
	if !l.shared.mayDeliver() {
		return db.Claim{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	prefetch := l.prefetch()
	missing := min(prefetch+l.idle(), l.soon()) - l.held()
	if !l.mayHaveMore || l.paused.Load() || l.retired.Load() || len(l.leftToOthers) >= maxLeftToOthers || missing*2 < prefetch || missing <= 0 {
		return db.Claim{}, false
	}
	if !l.shared.book.reserve(l, claimMemory) {
		return db.Claim{}, false
	}
	l.mayHaveMore = false
	return db.Claim{
		Lane: l.Lane, Token: l.shared.book.newToken(), Limit: missing, MaxBytes: claimMemory,
		After: l.after, Except: slices.Collect(maps.Keys(l.leftToOthers)), Ordered: l.options.Load().Ordered || l.ordered.Load(),
	}, true
}

// leaveToOthers excludes a delivery from further claims: an instance with another config is
// to make it.
func (l *lane) leaveToOthers(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leftToOthers[id] = true
}

// reconsider makes the lane claim again what was left to other instances.
func (l *lane) reconsider() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.leftToOthers)
}

// deadLetterLog returns the endpoint's logger, limited for this lane.
func (l *lane) deadLetterLog(e *Endpoint) *zap.Logger {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.floodOf != e {
		l.floodOf, l.floodLog = e, logging.OncePerSecond(e.Logger)
	}
	return l.floodLog
}

// wake makes a loop run once more. It never blocks: one signal that waits is enough.
func wake(loop chan<- struct{}) {
	select {
	case loop <- struct{}{}:
	default:
	}
}
