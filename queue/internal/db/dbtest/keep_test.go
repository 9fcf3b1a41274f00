package dbtest_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// expire deletes until all was looked at.
func (i *instance) expire(t *testing.T, e db.Expiry) (deleted int64) {
	t.Helper()
	e.Endpoint, e.Cursor = endpoint, 0
	for range 1000 {
		n, cursor, err := i.Expire(t.Context(), e)
		if err != nil || n > int64(e.Limit) {
			t.Fatalf("%d of %d expired: %v", n, e.Limit, err)
		}
		if deleted += n; cursor == 0 {
			return deleted
		}
		e.Cursor = cursor
	}
	t.Fatal("expiry has no end")
	return 0
}

func TestExpiry(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		i := d.start(t)
		elsewhere := past("elsewhere", 100*time.Hour, db.Delivered, db.Dead)
		elsewhere.Endpoint = "other"
		i.put(t, elsewhere)
		stuck := past("stuck", 100*time.Hour, db.Waiting)
		i.put(t, stuck) // in front of all
		for n, ago := range []time.Duration{50 * time.Hour, 30 * time.Hour, 10 * time.Hour, 0} {
			for m := range 5 {
				id := func(what string) string { return fmt.Sprintf("%s-%d-%d", what, n, m) }
				i.put(t, past(id("delivered"), ago, db.Delivered), past(id("dead"), ago, db.Dead), past(id("both"), ago, db.Delivered, db.Dead),
					past(id("waiting"), ago, db.Delivered, db.Waiting), past(id("retrying"), ago, db.Retrying))
			}
		}
		left := func() string {
			counts := make(map[db.State]int)
			for _, d := range i.list(t, db.Filter{}, db.Page{Limit: 100}) {
				counts[d.State]++
			}
			return fmt.Sprint(counts, len(i.export(t)))
		}
		for _, c := range []struct {
			name                    string
			keepDelivered, keepDead time.Duration
			deleted                 int64
			left                    string
		}{
			{"all are kept", 60 * time.Hour, 60 * time.Hour, 0, "map[dead:40 delivered:60 retrying:20 waiting:21] 102"},
			{"delivered ones are deleted, those of 50 hours ago", 40 * time.Hour, 60 * time.Hour, 15, "map[dead:40 delivered:45 retrying:20 waiting:21] 97"},
			{"and dead ones", 40 * time.Hour, 40 * time.Hour, 10, "map[dead:30 delivered:45 retrying:20 waiting:21] 87"},
			{"dead ones can be kept for a shorter time", 40 * time.Hour, 20 * time.Hour, 10, "map[dead:20 delivered:45 retrying:20 waiting:21] 82"},
			{"what is gone is gone", 40 * time.Hour, 20 * time.Hour, 0, "map[dead:20 delivered:45 retrying:20 waiting:21] 82"},
			{"and all that is older than now", time.Minute, time.Minute, 30 + 10, "map[dead:10 delivered:15 retrying:20 waiting:21] 57"},
		} {
			if deleted := i.expire(t, db.Expiry{KeepDelivered: c.keepDelivered, KeepDead: c.keepDead, Limit: 4}); deleted != c.deleted {
				t.Errorf("%s: %d were deleted, want %d", c.name, deleted, c.deleted)
			}
			if got := left(); got != c.left {
				t.Errorf("%s: left are %s, want %s", c.name, got, c.left)
			}
		}
		i.mustStore(t, note("workspace", "delivered-0-0"), note("workspace", "both-1-3")) // which are no duplicates any more
		if s := i.store(t, note("workspace", "waiting-0-0"))[0]; !s.Duplicate {
			t.Errorf("stored %+v although a delivery of it waits", s)
		}
		i.mustFinish(t, i.take(t, lane, 1+20+2)[0].outcome(db.Delivered)) // what was stuck
		time.Sleep(50 * time.Millisecond)
		if deleted := i.expire(t, db.Expiry{KeepDelivered: time.Millisecond, KeepDead: time.Hour, Limit: 100}); deleted != 15+1 {
			t.Errorf("%d were deleted, want 16", deleted)
		}
	})
}

func TestExpiryLeavesNothingOfANotification(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		i := d.start(t)
		i.mustStore(t, inLanes(note("workspace", "id"), lane, "copy"))
		i.bring(t, lane, db.Dead)
		i.bring(t, "copy", db.Retrying)
		i.change(t, db.Change{Action: db.Retry, IDs: i.listIDs(t, db.Filter{Lane: "copy"})})
		i.bring(t, "copy", db.Delivered)
		time.Sleep(50 * time.Millisecond)
		if n := i.expire(t, db.Expiry{KeepDelivered: time.Millisecond, KeepDead: time.Millisecond, Limit: 1}); n != 2 {
			t.Errorf("%d expired, want 2", n)
		}
		for _, table := range []string{"notification", "delivery", "attempt"} {
			if n := d.count(t, table); n != 0 {
				t.Errorf("%d rows of %s are left", n, table)
			}
		}
	})
}

// What a person retries is no longer old, however long ago it finished.
func TestWhatAPersonRetriedDoesNotExpire(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		ids := many(t, i, 1)
		i.wantChanged(t, db.Change{Action: db.Retry, IDs: ids}, ids...)
		if n := i.expire(t, db.Expiry{KeepDelivered: time.Minute, KeepDead: time.Minute, Limit: 10}); n != 0 {
			t.Errorf("%d expired while they wait", n)
		}
		i.mustFinish(t, i.mustClaim(t, ids[0]).outcome(db.Dead))
		if n := i.expire(t, db.Expiry{KeepDelivered: time.Minute, KeepDead: time.Minute, Limit: 10}); n != 0 {
			t.Errorf("%d expired although they have just finished", n)
		}
	})
}

func TestTheBacklogIsCountedAsOfNow(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		want := make(map[string]int64)
		check := func(when string) {
			t.Helper()
			counts, _, err := i.Backlog(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[string]int64)
			for _, c := range counts {
				if c.Oldest < 0 || c.Oldest > 3*time.Hour {
					t.Errorf("%s: the oldest of %+v", when, c)
				}
				got[fmt.Sprint(c.Lane.Endpoint, "|", c.Lane.Name, " ", c.State)] += c.Count
			}
			maps.DeleteFunc(got, func(_ string, n int64) bool { return n == 0 })
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
		}
		check("at first")
		inEachState(t, i)
		want = map[string]int64{"intercom|waiting waiting": 1, "intercom|delivering delivering": 1, "intercom|retrying retrying": 1, "intercom|dead dead": 1}
		check("one of each state")
		elsewhere := note("workspace", "")
		elsewhere.Endpoint = "other"
		i.mustStore(t, append(notes(5), elsewhere)...)
		want["intercom|support waiting"], want["other|support waiting"] = 5, 1
		check("after a store")
		i.claim(t, db.Claim{Limit: 2})
		want["intercom|support waiting"], want["intercom|support delivering"] = 3, 2
		check("after a claim")
		i.change(t, db.Change{Action: db.Retry, IDs: i.listIDs(t, db.Filter{Lane: "dead"})})
		delete(want, "intercom|dead dead")
		want["intercom|dead waiting"] = 1
		check("after a person's retry")
	})
}

func TestTheBacklogKnowsTheOldest(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		i.put(t, past("1", time.Hour, db.Waiting, db.Dead), past("2", 2*time.Hour, db.Waiting, db.Retrying), past("3", time.Minute, db.Waiting))
		ids := i.listIDs(t, db.Filter{States: []db.State{db.Dead}})
		i.change(t, db.Change{Action: db.Retry, IDs: ids}) // the age of one that is retried is since it was stored
		counts, _, err := i.Backlog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range counts {
			got = append(got, fmt.Sprintf("%s %s %d %.0f min", c.Lane.Name, c.State, c.Count, c.Oldest.Minutes()))
		}
		slices.Sort(got)
		if want := []string{"copy-1 retrying 1 120 min", "copy-1 waiting 1 60 min", "support waiting 3 120 min"}; !slices.Equal(got, want) {
			t.Errorf("counted %q, want %q", got, want)
		}
	})
}

func TestLanesArePaused(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		i := d.start(t)
		one, two := db.Lane{Endpoint: endpoint, Name: "one"}, db.Lane{Endpoint: "other", Name: "one"}
		for _, c := range []struct {
			lane   db.Lane
			paused bool
			want   []db.Lane
		}{
			{one, true, []db.Lane{one}},
			{one, true, []db.Lane{one}},
			{two, true, []db.Lane{one, two}},
			{one, false, []db.Lane{two}},
			{one, false, []db.Lane{two}},
			{db.Lane{Endpoint: endpoint, Name: "never"}, false, []db.Lane{two}},
		} {
			if err := i.SetPaused(t.Context(), c.lane, c.paused); err != nil {
				t.Fatal(err)
			}
			got, err := i.Paused(t.Context())
			slices.SortFunc(got, func(a, b db.Lane) int { return len(a.Endpoint+a.Name) - len(b.Endpoint+b.Name) })
			slices.SortFunc(c.want, func(a, b db.Lane) int { return len(a.Endpoint+a.Name) - len(b.Endpoint+b.Name) })
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("after %+v, %v are paused (%v)", c, got, err)
			}
		}
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := d.start(t).Paused(t.Context()); err != nil || !slices.Equal(got, []db.Lane{two}) {
			t.Errorf("after a restart, %v are paused (%v)", got, err)
		}
	})
}

func TestAnInstanceAloneHasNoPeers(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		i := d.start(t)
		for range 3 {
			peers, err := i.Heartbeat(t.Context(), db.Presence{Version: "v1", Lanes: []db.Lane{{Endpoint: endpoint, Name: lane}}, Configs: map[string]string{endpoint: "hash"}})
			if err != nil || len(peers.Others) > 0 || peers.Exclusive == d.shared || time.Since(peers.Now).Abs() > time.Minute {
				t.Errorf("%+v (%v)", peers, err)
			}
		}
	})
}

// What was moved here is older than what came before it.
func TestWhatWasMovedExpiresBehindYoungerOnes(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		for range 21 {
			i.mustStore(t, notes(500)...)
		}
		i.put(t, past("moved", 2*time.Hour, db.Delivered))
		e := db.Expiry{KeepDelivered: time.Hour, KeepDead: time.Hour, Limit: 10, All: true}
		if n := i.expire(t, e); n != 1 {
			t.Errorf("%d expired, want the one that was moved", n)
		}
	})
}
