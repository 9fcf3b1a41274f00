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
	"github.com/caddyserver/certmagic"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
)

// setting identifies a refresher: sources with the same setting share one.
type setting struct {
	urls    [len(regions)]string // by region; empty for a region that is not used
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

// subscriber is a Source that uses a refresher, with what the refresher needs from its
// config.
type subscriber struct {
	storage certmagic.Storage
	logger  *zap.Logger
	events  *events.Emitter
}

// refresher keeps the lists of some regions fresh, for all subscribers with the same
// setting. It lives longer than a config.
type refresher struct {
	setting setting
	client  *http.Client
	regions []*regionList

	// combined has the ranges of all regions, for requests.
	combined atomic.Pointer[[]netip.Prefix]

	mu          sync.Mutex    // guards subscribers, and updates of combined
	subscribers []*subscriber // those whose config was started, the latest last

	startOnce sync.Once
	loops     sync.WaitGroup
	ctx       context.Context // done when the refresher is destructed
	stop      context.CancelFunc
}

// regionList is the list of one region, as it is in use now.
type regionList struct {
	Feed
	list atomic.Pointer[List]
}

// refreshers has the refreshers in use, by setting.
var refreshers = caddy.NewUsagePool()

// acquireRefresher returns the refresher of a setting. Each call needs one call of
// release.
func acquireRefresher(set setting, sub *subscriber) (*refresher, error) {
	shared, _, err := refreshers.LoadOrNew(set, func() (caddy.Destructor, error) {
		return newRefresher(set, sub), nil
	})
	if err != nil {
		return nil, err
	}
	return shared.(*refresher), nil
}

// release removes a subscriber. After the last one, the refresher ends.
func (r *refresher) release(sub *subscriber) error {
	r.mu.Lock()
	// The last subscriber stays: the refresher logs and stores with it until it ends.
	if i := slices.Index(r.subscribers, sub); i >= 0 && len(r.subscribers) > 1 {
		r.subscribers = slices.Delete(r.subscribers, i, i+1)
	}
	r.mu.Unlock()
	_, err := refreshers.Delete(r.setting)
	return err
}

// newRefresher returns a refresher that has lists but does not refresh them yet.
func newRefresher(set setting, sub *subscriber) *refresher {
	r := &refresher{setting: set, client: newListClient()}
	r.ctx, r.stop = context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(r.ctx, storageTimeout) // for all regions together, because the start of Caddy waits
	defer cancel()
	for _, feed := range set.feeds() {
		startCounters(feed.Region)
		region := &regionList{Feed: feed}
		list, err := region.Newest(ctx, sub.storage)
		if err != nil {
			sub.logger.Warn("stored list of Intercom's addresses is not used", zap.String("region", region.Region), zap.Error(err))
		}
		if list.Source == sourceStorage && time.Since(list.Checked) > staleAfter {
			sub.logger.Warn("stored list of Intercom's addresses is old: Intercom may send from new addresses, which are refused",
				zap.String("region", region.Region), zap.Inline(list),
				zap.String("do", "look in the log why none was fetched, or fetch them with `caddy intercom-webhook ip-ranges --fetch`"))
		}
		region.list.Store(list)
		r.regions = append(r.regions, region)
	}
	r.combine()
	return r
}

// start adds a subscriber whose config has been started. The first call starts
// refreshing.
func (r *refresher) start(sub *subscriber) {
	r.mu.Lock()
	r.subscribers = append(r.subscribers, sub)
	r.mu.Unlock()
	r.startOnce.Do(func() {
		for _, region := range r.regions {
			sub.logger.Info("using Intercom's addresses", zap.String("region", region.Region), zap.Inline(region.list.Load()))
			if r.setting.refresh > 0 {
				r.loops.Go(func() { r.refreshLoop(region) })
			}
		}
	})
}

// latest returns the subscriber of the running config. If a config fails after it was
// started, its subscriber is released, and the one before it is the latest again.
func (r *refresher) latest() *subscriber {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.subscribers[len(r.subscribers)-1]
}

// Destruct stops refreshing. It returns when all goroutines have ended.
func (r *refresher) Destruct() error {
	r.stop()
	r.loops.Wait()
	return nil
}

func (r *refresher) ranges() []netip.Prefix { return *r.combined.Load() }

// refreshLoop refreshes the list of a region until the refresher is destructed.
func (r *refresher) refreshLoop(region *regionList) {
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
			if result == refreshRefused { // the text of a failed connection is different each time
				reason = err.Error()
			}
			level := zap.WarnLevel
			if reason == lastReason { // log a lasting failure once; the age metric shows how long it lasts
				level = zap.DebugLevel
			}
			logger.Log(level, "Intercom's addresses could not be refreshed; the last good list stays in use",
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

// staleAfter is the age of a stored list at which the start of a config warns of it.
const staleAfter = 48 * time.Hour

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

// refresh replaces the list of a region with the newest one. It first looks into
// storage, because another instance may reach Intercom when this one does not, and then
// asks Intercom.
//
// It asks for the whole list, instead of for changes, if the list came from storage. It
// does so after a failure, too: the server may have failed to tell whether the list has
// changed.
func (r *refresher) refresh(region *regionList, afterFailure bool) (result string, err error) {
	stored, err := region.stored(r.ctx, r.latest().storage)
	if err == nil && stored != nil && stored.Checked.After(region.list.Load().Checked) {
		r.replace(region, stored)
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
	changed := r.replace(region, list)
	sub := r.latest() // it may have changed during the fetch
	if err := region.store(r.ctx, sub.storage, list); err != nil && r.ctx.Err() == nil {
		sub.logger.Warn("Intercom's addresses could not be stored; they are lost at a restart", zap.String("region", region.Region), zap.Error(err))
	}
	if changed {
		return refreshUpdated, nil
	}
	return refreshUnchanged, nil
}

// replace puts a list into use, and reports whether the ranges have changed.
func (r *refresher) replace(region *regionList, list *List) (changed bool) {
	before := region.list.Swap(list)
	added, removed := list.without(before), before.without(list)
	if len(added) == 0 && len(removed) == 0 {
		return false
	}
	r.combine()
	sub := r.latest()
	sub.logger.Info("Intercom's addresses have changed",
		zap.String("region", region.Region),
		zap.Stringers("added", added),
		zap.Stringers("removed", removed),
		zap.Inline(list))
	sub.events.Emit(events.IPRangesChanged, func() map[string]any {
		return map[string]any{"region": region.Region, "added": texts(added), "removed": texts(removed), "ranges": len(list.Ranges)}
	})
	return true
}

func texts(prefixes []netip.Prefix) []string {
	texts := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		texts[i] = prefix.String()
	}
	return texts
}

// combine updates the ranges that requests read from the lists of all regions.
func (r *refresher) combine() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []netip.Prefix
	for _, region := range r.regions {
		all = append(all, region.list.Load().Ranges...)
	}
	r.combined.Store(&all)
}

// Interface guard
var _ caddy.Destructor = (*refresher)(nil)
