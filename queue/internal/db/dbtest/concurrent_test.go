package dbtest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// ledger knows what was done with each delivery.
type ledger struct {
	mu      sync.Mutex
	holders map[int64]db.Token
	ends    map[int64]int // how often it was delivered or dead
	retries map[int64]int // how often a person has retried it after that
}

// Many instances, persons and the retention work at once. Nobody holds what another one
// holds, and each delivery ends once, and once more for each retry of a person.
func TestManyWorkAtOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		instances := d.startAll(t)
		l := &ledger{holders: make(map[int64]db.Token), ends: make(map[int64]int), retries: make(map[int64]int)}
		var stored, expired atomic.Int64
		ctx, stop := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer stop()
		var working sync.WaitGroup
		run := func(do func(i *instance, r *rand.Rand) error) {
			for n, i := range instances {
				working.Go(func() {
					r := rand.New(rand.NewPCG(uint64(n), 0))
					for ctx.Err() == nil {
						if err := do(i, r); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
		}
		run(func(i *instance, r *rand.Rand) error {
			var batch []*db.NewNotification
			for range 1 + r.IntN(5) {
				batch = append(batch, inLanes(note(fmt.Sprint(r.IntN(5)), fmt.Sprint(r.IntN(2000))), lane, "copy"))
			}
			results, err := i.Store(t.Context(), func() []*db.NewNotification { return batch })
			for _, s := range results {
				if !s.Duplicate {
					stored.Add(2)
				}
			}
			return err
		})
		for _, name := range []string{lane, lane, "copy"} {
			run(func(i *instance, r *rand.Rand) error { return l.work(t, i, r, name) })
		}
		run(func(i *instance, _ *rand.Rand) error {
			f := db.Filter{Endpoint: endpoint, States: []db.State{db.Delivered, db.Dead}, Lane: lane}
			found, _, err := i.List(t.Context(), f, db.Page{Limit: 20, Newest: true})
			if err != nil {
				return err
			}
			changed, err := i.Change(t.Context(), db.Change{Action: db.Retry, Filter: f, IDs: deliveryIDs(found)})
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, id := range changed {
				l.retries[id]++
			}
			return err
		})
		run(func(i *instance, _ *rand.Rand) error {
			time.Sleep(20 * time.Millisecond)
			// none is as old as that, so that the ledger stays true
			n, _, err := i.Expire(t.Context(), db.Expiry{Endpoint: endpoint, KeepDelivered: time.Hour, KeepDead: time.Hour, Limit: 10})
			expired.Add(n)
			if err != nil {
				return err
			}
			if _, _, err := i.Backlog(t.Context()); err != nil {
				return err
			}
			_, err = i.Heartbeat(t.Context(), db.Presence{})
			return err
		})
		working.Wait()
		for range 2 { // what was locked while others looked at it
			for _, name := range []string{lane, "copy"} {
				for more := true; more; {
					var err error
					if more, err = l.deliver(t, instances[0], name, func() db.State { return db.Delivered }); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		all := instances[0].list(t, db.Filter{}, db.Page{Limit: 1000})
		if int64(len(all)) != stored.Load() || expired.Load() != 0 {
			t.Errorf("%d deliveries are there, want %d; %d expired", len(all), stored.Load(), expired.Load())
		}
		for _, got := range all {
			if want := 1 + l.retries[got.ID]; l.ends[got.ID] != want || got.State != db.Delivered && got.State != db.Dead {
				t.Errorf("delivery %d is %s, ended %d times, and was retried %d times", got.ID, got.State, l.ends[got.ID], l.retries[got.ID])
			}
		}
		if len(all) == 0 || len(l.retries) == 0 {
			t.Error("nothing was stored, or nothing retried")
		}
	})
}

// work claims and finishes in random states.
func (l *ledger) work(t *testing.T, i *instance, r *rand.Rand, name string) error {
	t.Helper()
	_, err := l.deliver(t, i, name, func() db.State {
		return []db.State{db.Delivered, db.Delivered, db.Retrying, db.Dead, db.Waiting}[r.IntN(5)]
	})
	return err
}

func (l *ledger) deliver(t *testing.T, i *instance, name string, state func() db.State) (more bool, err error) {
	t.Helper()
	token := newToken()
	claimed, more, err := i.Claim(t.Context(), db.Claim{Lane: db.Lane{Endpoint: endpoint, Name: name}, Token: token, Limit: 10, MaxBytes: 1 << 20})
	if err != nil {
		return false, err
	}
	l.mu.Lock()
	var outcomes []db.Outcome
	for _, c := range claimed {
		if other := l.holders[c.ID]; other != 0 {
			t.Errorf("delivery %d was claimed while claim %d held it", c.ID, other)
		}
		l.holders[c.ID] = token
		outcomes = append(outcomes, held{c, token}.outcome(state()))
	}
	l.mu.Unlock()
	time.Sleep(time.Millisecond)
	l.mu.Lock()
	for _, o := range outcomes { // from now on another one may have it
		delete(l.holders, o.ID)
		if o.State == db.Delivered || o.State == db.Dead {
			l.ends[o.ID]++
		}
	}
	l.mu.Unlock()
	applied, err := i.Finish(t.Context(), outcomes)
	if len(applied) != len(outcomes) && err == nil {
		t.Errorf("%d of %d outcomes had an effect", len(applied), len(outcomes))
	}
	return more, err
}
