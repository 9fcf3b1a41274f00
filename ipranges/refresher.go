package ipranges

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/certmagic"
)

// setting is what tells refreshers apart.
type setting struct {
	urls    [len(regions)]string // by region; none for those that do not count
	refresh time.Duration        // 0 is never
	timeout time.Duration
}

func (s setting) feeds() []Feed {
	var feeds []Feed
	for i, url := range s.urls {
		if url != "" {
			feeds = append(feeds, Feed{regions[i], url, s.timeout})
		}
	}
	return feeds
}

// user is one who wants the lists of a refresher, with what it needs of the config.
type user struct {
	storage certmagic.Storage
	logger  *zap.Logger
}

// refresher keeps the lists of some regions fresh, for all who want just these. It
// outlives configs.
type refresher struct {
	setting setting
	client  *http.Client
	regions []*regionRanges
	all     atomic.Pointer[[]netip.Prefix] // of all the regions

	mu    sync.Mutex // for the making of all, and for users
	users []*user    // whose configs were started, the latest last

	starting sync.Once
	running  sync.WaitGroup
	ctx      context.Context // ends with the refresher
	stop     context.CancelFunc
}

// regionRanges is the list of one region that is in use.
type regionRanges struct {
	Feed
	list atomic.Pointer[List]
}

// refreshers has those in use, by setting.
var refreshers = caddy.NewUsagePool()

// acquireRefresher returns the refresher of a setting. Each call wants a release.
func acquireRefresher(set setting, u *user) (*refresher, error) {
	shared, _, err := refreshers.LoadOrNew(set, func() (caddy.Destructor, error) {
		return newRefresher(set, u), nil
	})
	if err != nil {
		return nil, err
	}
	return shared.(*refresher), nil
}

func (r *refresher) release(u *user) error {
	r.mu.Lock()
	if i := slices.Index(r.users, u); i >= 0 && len(r.users) > 1 { // the last one is needed to the end
		r.users = slices.Delete(r.users, i, i+1)
	}
	r.mu.Unlock()
	_, err := refreshers.Delete(r.setting)
	return err
}

// newRefresher returns a refresher that serves already, but does not refresh yet.
func newRefresher(set setting, u *user) *refresher {
	r := &refresher{setting: set, client: newListClient()}
	r.ctx, r.stop = context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(r.ctx, storageTimeout) // for all, as the start of Caddy waits
	defer cancel()
	for _, feed := range set.feeds() {
		region := &regionRanges{Feed: feed}
		list, err := region.Newest(ctx, u.storage)
		if err != nil {
			u.logger.Warn("stored list of Intercom's addresses cannot be used", zap.String("region", region.Region), zap.Error(err))
		}
		region.list.Store(list)
		r.regions = append(r.regions, region)
	}
	r.combine()
	return r
}

// start adds a user whose config has been started, and starts to refresh if that was
// not done for an earlier one.
func (r *refresher) start(u *user) {
	r.mu.Lock()
	r.users = append(r.users, u)
	r.mu.Unlock()
	r.starting.Do(func() {
		for _, region := range r.regions {
			u.logger.Info("using Intercom's addresses", zap.String("region", region.Region), zap.Inline(region.list.Load()))
			if r.setting.refresh > 0 {
				r.running.Go(func() { r.keepFresh(region) })
			}
		}
	})
}

// latest returns the user of the config that runs. One that was started but then
// failed to load all the same is released, and the one before it is the latest again.
func (r *refresher) latest() *user {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.users[len(r.users)-1]
}

// Destruct stops refreshing. It returns when nothing runs any more.
func (r *refresher) Destruct() error {
	r.stop()
	r.running.Wait()
	return nil
}

func (r *refresher) ranges() []netip.Prefix { return *r.all.Load() }

// keepFresh refreshes a region's list until the end.
func (r *refresher) keepFresh(region *regionRanges) {
	interval, retry := r.backoffFrom(r.setting.refresh), r.backoffFrom(firstRetry)
	failures, lastReason := 0, ""
	for {
		result, err := r.refresh(region, failures > 0)
		if r.ctx.Err() != nil {
			return
		}
		refreshTotal.WithLabelValues(region.Region, result).Inc()
		logger := r.latest().logger.With(zap.String("region", region.Region))
		var pause time.Duration
		if err == nil {
			if failures > 0 {
				logger.Info("Intercom's addresses are fresh again", zap.Int("failures", failures))
			}
			failures, lastReason, pause = 0, "", interval.NextBackOff()
			retry.Reset()
		} else {
			failures++
			pause = retry.NextBackOff()
			reason := result
			if result == refreshRefused { // other texts differ from one failed connection to the next
				reason = err.Error()
			}
			level := zap.WarnLevel
			if reason == lastReason { // one that lasts is told once; the age metric tells how long
				level = zap.DebugLevel
			}
			logger.Log(level, "Intercom's addresses could not be refreshed, and stay as they are",
				zap.Error(err), zap.Inline(region.list.Load()))
			lastReason = reason
		}
		select {
		case <-time.After(pause):
		case <-r.ctx.Done():
			return
		}
	}
}

// firstRetry is the pause after the first failure. It doubles with each further one.
const firstRetry = 10 * time.Second

// backoffFrom returns pauses that double from the first one up to the refresh interval.
// Each is longer or shorter by a random part of a tenth, so that many instances do not
// ask at the same time.
func (r *refresher) backoffFrom(first time.Duration) *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval:     min(first, r.setting.refresh),
		Multiplier:          2,
		MaxInterval:         r.setting.refresh,
		RandomizationFactor: 0.1,
	}
}

// refresh makes the list the newest that there is. Another instance may have stored
// one, and may be able to reach Intercom where this one is not; Intercom is then asked
// for the whole list, as it is after a failure, which may be that of a server that does
// not understand whether the list has changed.
func (r *refresher) refresh(region *regionRanges, afterFailure bool) (result string, err error) {
	stored, err := region.stored(r.ctx, r.latest().storage)
	if err == nil && stored != nil && stored.Checked.After(region.list.Load().Checked) {
		r.use(region, stored)
	}

	last := region.list.Load()
	if afterFailure {
		last = new(List)
	}
	list, err := region.fetch(r.ctx, r.client, last)
	if errors.Is(err, errRefused) {
		return refreshRefused, err
	}
	if err != nil {
		return refreshFailed, err
	}
	changed := r.use(region, list)
	u := r.latest() // may be another one by now
	if err := region.store(r.ctx, u.storage, list); err != nil && r.ctx.Err() == nil {
		u.logger.Warn("Intercom's addresses could not be stored, and will not survive a restart", zap.String("region", region.Region), zap.Error(err))
	}
	if changed {
		return refreshUpdated, nil
	}
	return refreshUnchanged, nil
}

// use puts a list in place of the one in use, and reports whether that differs.
func (r *refresher) use(region *regionRanges, list *List) (changed bool) {
	before := region.list.Swap(list)
	added, removed := list.without(before), before.without(list)
	if len(added) == 0 && len(removed) == 0 {
		return false
	}
	r.combine()
	r.latest().logger.Info("Intercom's addresses have changed",
		zap.String("region", region.Region),
		zap.Stringers("added", added),
		zap.Stringers("removed", removed),
		zap.Inline(list))
	return true
}

// combine makes what requests read out of the lists of all the regions.
func (r *refresher) combine() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []netip.Prefix
	for _, region := range r.regions {
		all = append(all, region.list.Load().Ranges...)
	}
	r.all.Store(&all)
}

// onceStarted calls start when the config of ctx is started, or now if it is being
// started already.
func onceStarted(ctx caddy.Context, start func()) error {
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	if err := events.(*caddyevents.App).On("started", startHandler{start}); err != nil {
		start() // it takes no handlers any more
	}
	return nil
}

// startHandler is a struct because Caddy logs event handlers as JSON.
type startHandler struct{ start func() }

// Handle calls start.
func (h startHandler) Handle(context.Context, caddy.Event) error {
	h.start()
	return nil
}

// Interface guards
var (
	_ caddy.Destructor    = (*refresher)(nil)
	_ caddyevents.Handler = startHandler{}
)
