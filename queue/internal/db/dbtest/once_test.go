package dbtest_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// twin makes a notification with a key.
func twin(id, key string, within time.Duration, lanes ...string) *db.NewNotification {
	n := inLanes(note("workspace", id), lanes...)
	n.Once = db.Once{Key: key, Within: within}
	return n
}

func TestOnlyTheFirstOfTwinsIsStored(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		i := d.start(t)
		const stored, duplicate, isTwin, copied = "stored", "duplicate", "twin", "twin that is stored for its copies"
		want := func(what string, batch []*db.NewNotification, want ...string) (ids []int64) {
			t.Helper()
			for k, s := range i.store(t, batch...) {
				got := map[db.Stored]string{{ID: s.ID}: stored, {Duplicate: true}: duplicate, {Twin: true}: isTwin}[s]
				if s.ID > 0 && s.Twin {
					got = copied
				}
				if got != want[k] {
					t.Errorf("%s: notification %d is %+v, want %s", what, k, s, want[k])
				}
				ids = append(ids, s.ID)
			}
			return ids
		}
		one := func(n *db.NewNotification) []*db.NewNotification { return []*db.NewNotification{n} }
		want("the first", one(twin("a", "key", time.Hour, lane)), stored)
		want("the second", one(twin("b", "key", time.Hour, lane)), isTwin)
		want("the second once more", one(twin("b", "key", time.Hour, lane)), isTwin)
		want("the first once more", one(twin("a", "key", time.Hour, lane)), duplicate)
		want("another key, and none", []*db.NewNotification{twin("c", "other", time.Hour, lane), note("workspace", "d"), note("workspace", "e")}, stored, stored, stored)
		want("without an id", []*db.NewNotification{twin("", "key", time.Hour, lane), twin("", "third", time.Hour, lane)}, isTwin, stored)
		batch := []*db.NewNotification{
			twin("f", "fresh", time.Hour, lane), twin("g", "fresh", time.Hour, lane), twin("f", "fresh", time.Hour, lane), note("workspace", "h"),
			twin("i", "fresh", time.Hour, lane, "copy"), twin("a", "key", time.Hour, lane),
		}
		stats := i.store(t, batch...)
		if !stats[1].Twin || stats[1].ID != 0 || stats[2].ID != 0 || stats[0].ID == 0 || stats[3].ID == 0 || stats[4].ID == 0 || !stats[4].Twin || !stats[5].Duplicate {
			t.Errorf("a batch is %+v", stats)
		}
		ids := want("with copies", one(twin("j", "key", time.Hour, lane, "one", "two")), copied)
		if of := i.notification(t, ids[0]).Deliveries; len(of) != 2 || of[0].Lane != "one" || of[1].Lane != "two" || of[0].ID != db.DeliveryID(ids[0], 1) {
			t.Errorf("of a twin, there are %+v", of)
		}
		want("with copies once more", one(twin("j", "key", time.Hour, lane, "one", "two")), duplicate)

		want("a first one for a moment", one(twin("k", "moment", 20*time.Millisecond, lane)), stored)
		time.Sleep(50 * time.Millisecond)
		want("later", one(twin("l", "moment", time.Hour, lane)), stored)
		want("after the later one", one(twin("m", "moment", time.Hour, lane)), isTwin)

		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
		i = d.start(t)
		want("after a restart", one(twin("n", "key", time.Hour, lane)), isTwin)
	})
}

func TestKeysOfTwinsAreDeletedWithTheirTime(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		i := d.start(t)
		batch := []*db.NewNotification{twin("long", "long", time.Hour, lane)}
		for n := range 250 { // more than any engine deletes at once
			batch = append(batch, twin(fmt.Sprint(n), fmt.Sprint("key", n), time.Millisecond, lane))
		}
		i.mustStore(t, batch...)
		i.now(t)
		if _, _, err := i.Expire(t.Context(), db.Expiry{Endpoint: endpoint, KeepDelivered: time.Hour, KeepDead: time.Hour, Limit: 100}); err != nil {
			t.Fatal(err)
		}
		if n := d.count(t, "once"); n != 1 {
			t.Errorf("%d keys are left, want 1", n)
		}
	})
}

func TestTwinsThatComeTogetherAreOne(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		const keys, each = 40, 6
		instances := d.startAll(t)
		var mu sync.Mutex
		first := make(map[string]int)
		var storing sync.WaitGroup
		for n := range each {
			storing.Go(func() {
				for k := 0; k < keys; k += 4 {
					var batch []*db.NewNotification
					for place := range 4 { // in another order each time
						key := fmt.Sprint("key", k+(place+n)%4)
						batch = append(batch, twin(fmt.Sprint(key, "-", n), key, time.Hour, lane))
					}
					for place, s := range instances[n%len(instances)].store(t, batch...) {
						if s.Duplicate || s.Twin == (s.ID > 0) {
							t.Errorf("%s: %+v", batch[place].NotificationID, s)
						} else if !s.Twin {
							mu.Lock()
							first[batch[place].Once.Key]++
							mu.Unlock()
						}
					}
				}
			})
		}
		storing.Wait()
		for k := range keys {
			if n := first[fmt.Sprint("key", k)]; n != 1 {
				t.Errorf("%d of the twins with key %d were stored", n, k)
			}
		}
		if got := len(instances[0].listIDs(t, db.Filter{})); got != keys {
			t.Errorf("%d deliveries are there, want %d", got, keys)
		}
	})
}
