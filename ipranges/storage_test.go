package ipranges

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/certmagic"
)

func TestListOfAnotherInstanceIsTakenFromStorage(t *testing.T) {
	sub := silentSubscriber(t)
	synctest.Test(t, func(t *testing.T) {
		r, server := refreshing(t, time.Hour, sub)
		server.answers(0, "", errors.New("unreachable"))
		time.Sleep(time.Until(compiledInDate.Add(time.Hour))) // later than the compiled-in list
		r.start(sub)
		synctest.Wait()

		store := func(age time.Duration, ranges ...string) {
			list := &List{Ranges: prefixes(ranges...), Checked: now().Add(-age)}
			if err := r.regions[0].store(t.Context(), sub.storage, list); err != nil {
				t.Fatal(err)
			}
		}
		store(0, "192.0.2.7/32")
		time.Sleep(2 * time.Hour)
		if got := r.ranges(); !slices.Equal(got, prefixes("192.0.2.7/32")) {
			t.Errorf("serves %v when another instance got it", got)
		}
		store(24*time.Hour, "192.0.2.8/32")
		time.Sleep(2 * time.Hour)
		if got := r.ranges(); !slices.Equal(got, prefixes("192.0.2.7/32")) {
			t.Errorf("serves %v when an older one is stored", got)
		}
		store(-240*time.Hour, "192.0.2.9/32")
		time.Sleep(2 * time.Hour)
		if got := r.ranges(); !slices.Equal(got, prefixes("192.0.2.7/32")) {
			t.Errorf("serves %v when one from the future is stored", got)
		}
	})
}

// If a wrong list is in storage, Intercom's "not modified" must not confirm it.
func TestWrongListInStorageHeals(t *testing.T) {
	const right, wrong = "192.0.2.7/32", "198.51.100.7/32"
	for name, late := range map[string]bool{"when it is found at the start": false, "when it is found later": true} {
		t.Run(name, func(t *testing.T) {
			sub := silentSubscriber(t)
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(compiledInDate.Add(time.Hour)))
				var asked []string // with which ETag
				answer := func(r *http.Request) (int, string, error) {
					asked = append(asked, r.Header.Get("If-None-Match"))
					if r.Header.Get("If-None-Match") != "" || r.Header.Get("If-Modified-Since") != "" {
						return 304, "", nil
					}
					return 200, published(right), nil
				}
				// as an earlier version stored it
				store := func() {
					stored := fmt.Sprintf(`{"ranges":[%q],"checked":%q,"etag":"\"`+strings.ReplaceAll(published(right), `"`, `\"`)+`\"","last_modified":"Mon, 02 Nov 2026 09:00:00 GMT"}`,
						wrong, now().Format(time.RFC3339))
					if err := sub.storage.Store(t.Context(), setting{urls: [3]string{"http://intercom/us"}}.feeds()[0].storageKey(), []byte(stored)); err != nil {
						t.Fatal(err)
					}
				}
				if !late {
					store()
				}
				r, server := refreshing(t, time.Hour, sub)
				server.mu.Lock()
				server.answer = answer
				server.mu.Unlock()
				if serves := r.ranges(); !late && !slices.Equal(serves, prefixes(wrong)) {
					t.Fatalf("serves %v, not what was stored", serves)
				}
				r.start(sub)
				synctest.Wait()
				if late {
					time.Sleep(30 * time.Minute)
					store()
					time.Sleep(time.Hour)
				}
				if got := r.ranges(); !slices.Equal(got, prefixes(right)) {
					t.Errorf("serves %v", got)
				}
				time.Sleep(3 * time.Hour)
				synctest.Wait()
				if last := asked[len(asked)-1]; last == "" {
					t.Error("asks for the whole list though it has fetched the one that it has")
				}
				if stored, err := r.regions[0].stored(t.Context(), sub.storage); err != nil || !slices.Equal(stored.Ranges, prefixes(right)) {
					t.Errorf("stored %+v, %v", stored, err)
				}
			})
		})
	}
}

// unwritable is storage that is full, say.
type unwritable struct{ certmagic.Storage }

func (unwritable) Store(context.Context, string, []byte) error { return errors.New("no room") }

func TestListIsUsedEvenIfItCannotBeStored(t *testing.T) {
	sub := &subscriber{storage: unwritable{emptyStorage(t)}, logger: zap.NewNop()}
	synctest.Test(t, func(t *testing.T) {
		r, _ := refreshing(t, time.Hour, sub)
		r.start(sub)
		synctest.Wait()
		if got := r.ranges(); !slices.Equal(got, prefixes("192.0.2.7/32")) {
			t.Errorf("serves %v", got)
		}
	})
}

// The storage and the log of a config that has been replaced, or that failed to load
// after all, may not work any more.
func TestStorageAndLogAreThoseOfTheConfigThatRuns(t *testing.T) {
	replaced, replacedLog := loggingSubscriber(t)
	running, runningLog := loggingSubscriber(t)
	failed, failedLog := loggingSubscriber(t)
	synctest.Test(t, func(t *testing.T) {
		r, server := refreshing(t, time.Hour, replaced)
		r.start(replaced)
		synctest.Wait()
		for _, next := range []struct {
			address   string
			meanwhile func() // while the list is on its way
		}{
			{"192.0.2.8", func() { r.start(running); r.release(replaced) }},
			{"192.0.2.9", func() { r.start(failed); r.release(failed) }},
		} {
			meanwhile := sync.OnceFunc(next.meanwhile)
			server.mu.Lock()
			server.answer = func(*http.Request) (int, string, error) {
				meanwhile()
				return 200, published(next.address), nil
			}
			server.mu.Unlock()
			time.Sleep(2 * time.Hour)
		}
		for _, want := range []struct {
			user    *subscriber
			log     *observer.ObservedLogs
			stored  []netip.Prefix
			changes int
		}{
			{replaced, replacedLog, prefixes("192.0.2.7/32"), 1},
			{running, runningLog, prefixes("192.0.2.9/32"), 2},
			{failed, failedLog, nil, 0},
		} {
			stored, err := r.regions[0].stored(t.Context(), want.user.storage)
			if err != nil || (stored == nil) != (want.stored == nil) || stored != nil && !slices.Equal(stored.Ranges, want.stored) {
				t.Errorf("stored %v, %v; want %v", stored, err, want.stored)
			}
			if n := want.log.FilterMessage("Intercom's addresses have changed").Len(); n != want.changes {
				t.Errorf("logged %d changes, want %d", n, want.changes)
			}
		}
	})
}

// What is stored tells a restart how fresh the list is.
func TestListIsStoredWhenItIsConfirmed(t *testing.T) {
	sub := silentSubscriber(t)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(compiledInDate.Add(time.Hour)))
		r, server := refreshing(t, time.Hour, sub)
		r.start(sub)
		synctest.Wait()
		server.answers(304, "", nil)
		time.Sleep(100 * time.Hour)
		stored, err := r.regions[0].stored(t.Context(), sub.storage)
		if err != nil || time.Since(stored.Checked) > 67*time.Minute {
			t.Errorf("stored %+v, %v", stored, err)
		}
	})
}

// stuck is storage that answers when it is given up.
type stuck struct{ certmagic.Storage }

func (stuck) Load(ctx context.Context, _ string) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (stuck) Store(ctx context.Context, _ string, _ []byte) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestStuckStorageIsNotWaitedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sub := &subscriber{storage: stuck{}, logger: zap.NewNop()}
		begin := time.Now()
		r := newRefresher(setting{urls: [3]string{"http://intercom/us", "http://intercom/eu", "http://intercom/au"}, refresh: time.Hour, timeout: time.Second}, sub)
		t.Cleanup(func() { r.Destruct() })
		if waited := time.Since(begin); waited > 2*time.Second {
			t.Errorf("the start waited %s", waited)
		}
		server := new(publisher)
		server.answers(200, published("192.0.2.7"), nil)
		r.client.Transport = server
		r.start(sub)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := r.ranges(); !slices.Equal(got, prefixes("192.0.2.7/32", "192.0.2.7/32", "192.0.2.7/32")) {
			t.Errorf("serves %v", got)
		}
	})
}

func TestAnOldStoredListIsWarnedOf(t *testing.T) {
	for name, tc := range map[string]struct {
		age    time.Duration
		warned bool
	}{"of today": {time.Hour, false}, "of last week": {7 * 24 * time.Hour, true}} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			sub := silentSubscriber(t)
			sub.logger = zap.New(core)
			set := setting{urls: [3]string{"http://intercom/us"}}
			list := &List{Ranges: prefixes("192.0.2.7/32"), Checked: now().Add(-tc.age)}
			if err := set.feeds()[0].store(t.Context(), sub.storage, list); err != nil {
				t.Fatal(err)
			}
			r := newRefresher(set, sub)
			defer r.stop()
			if warned := logs.Len() == 1; warned != tc.warned {
				t.Errorf("logged %v", logs.All())
			}
		})
	}
}
