package dbtest_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// inEachState stores a notification for each state, whose delivery is in the lane of that name.
func inEachState(t *testing.T, i *instance) map[db.State]int64 {
	t.Helper()
	ids := make(map[db.State]int64)
	for _, state := range db.States {
		ids[state] = i.mustStore(t, inLanes(note("workspace", string(state)), string(state)))[0]
		i.bring(t, string(state), state)
	}
	return ids
}

func allOf(ids map[db.State]int64) (all []int64) {
	for _, state := range db.States {
		all = append(all, ids[state])
	}
	return append(all, 1<<40)
}

func TestARetryGivesADeliveryItsWholeScheduleAgain(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		ids := inEachState(t, i)
		waiting := i.details(t, ids[db.Waiting])
		before := i.now(t)
		i.wantChanged(t, db.Change{Action: db.Retry, IDs: allOf(ids)}, ids[db.Retrying], ids[db.Delivered], ids[db.Dead])
		after := i.now(t)
		i.wantState(t, ids[db.Delivering], db.Delivering, 0)
		if d := i.details(t, ids[db.Waiting]); d.AgeFrom != waiting.AgeFrom || d.State != db.Waiting {
			t.Errorf("what waited is %+v, and was %+v", d, waiting)
		}
		for _, state := range []db.State{db.Retrying, db.Delivered, db.Dead} {
			d := i.details(t, ids[state])
			if d.State != db.Waiting || d.Attempts != 0 || d.Reason != "" || !d.FinishedAt.IsZero() || !d.DueAt.IsZero() {
				t.Errorf("what was %s is %+v", state, d)
			}
			if d.AgeFrom.Before(before) || d.AgeFrom.After(after) || !d.StoredAt.Before(before) {
				t.Errorf("what was %s was stored at %s, and has its age from %s, want %s", state, d.StoredAt, d.AgeFrom, before)
			}
			if want := map[db.State]int{db.Retrying: 1, db.Dead: 1}[state]; len(d.History) != want {
				t.Errorf("of what was %s, %d attempts are kept, want %d", state, len(d.History), want)
			}
			if s := i.store(t, note("workspace", string(state)))[0]; !s.Duplicate {
				t.Errorf("stored while a person's retry of it waits: %+v, want a duplicate", s)
			}
			h := i.take(t, string(state), 1)[0]
			if h.Attempts != 0 || h.Age > after.Sub(before)+time.Minute {
				t.Errorf("claimed %+v", h.Claimed)
			}
			i.mustFinish(t, h.outcome(db.Retrying))
			i.wantState(t, ids[state], db.Retrying, 1)
		}
		i.wantChanged(t, db.Change{Action: db.Retry, IDs: []int64{ids[db.Waiting], ids[db.Delivering]}})
		i.wantChanged(t, db.Change{Action: db.Retry})
	})
}

func TestDropDeletesWhatIsNotDelivering(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		i := d.start(t)
		ids := inEachState(t, i)
		copies := i.mustStore(t, inLanes(note("workspace", "copies"), "one", "two"))[0]
		i.wantChanged(t, db.Change{Action: db.Drop, IDs: append(allOf(ids), copies)},
			ids[db.Waiting], ids[db.Retrying], ids[db.Delivered], ids[db.Dead], copies)
		if got, want := i.listIDs(t, db.Filter{}), []int64{ids[db.Delivering], copies + 1}; !slices.Equal(got, want) {
			t.Errorf("left are %v, want %v", got, want)
		}
		if left := i.export(t); len(left) != 2 {
			t.Errorf("%d notifications are left, want 2", len(left))
		}
		if n := d.count(t, "attempt"); n != 0 {
			t.Errorf("%d attempts of what was dropped are left", n)
		}
		i.wantChanged(t, db.Change{Action: db.Drop, IDs: []int64{copies + 1}}, copies+1)
		if found, err := i.Find(t.Context(), endpoint, "copies", 10); err != nil || len(found) > 0 {
			t.Errorf("a notification without deliveries is left: %+v (%v)", found, err)
		}
	})
}

func TestAllDeliveriesOfANotificationCanBeDroppedAtOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		i := d.start(t)
		first := i.mustStore(t, inLanes(note("workspace", "id"), "one", "two", "three"))[0]
		i.wantChanged(t, db.Change{Action: db.Drop, IDs: []int64{first, first + 1, first + 2}}, first, first+1, first+2)
		for _, table := range []string{"notification", "delivery", "attempt"} {
			if n := d.count(t, table); n != 0 {
				t.Errorf("%d rows of %s are left", n, table)
			}
		}
		i.mustStore(t, note("workspace", "id"))
	})
}

func TestEraseTakesWhatIsDeliveringToo(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		i := d.start(t)
		ids := inEachState(t, i)
		again := i.mustStore(t, inLanes(note("workspace", "again"), "again"))[0]
		i.bring(t, "again", db.Retrying)
		i.change(t, db.Change{Action: db.Retry, IDs: []int64{again}})
		i.mustFinish(t, i.take(t, "again", 1)[0].outcome(db.Retrying))
		var outcomes []db.Outcome
		i.take(t, "again", 1)
		delivering, err := i.Held(t.Context())
		if err != nil || len(delivering) != 2 {
			t.Fatalf("held are %v (%v), want 2", delivering, err)
		}
		for _, h := range delivering {
			outcomes = append(outcomes, db.Outcome{ID: h.ID, Token: h.Token, State: db.Retrying, Attempt: failure(1)})
		}
		all := slices.Sorted(slices.Values(append(allOf(ids), again)))
		i.wantChanged(t, db.Change{Action: db.Erase, IDs: all}, all[:len(all)-1]...)
		if applied := i.finish(t, outcomes...); len(applied) > 0 {
			t.Errorf("outcomes of erased deliveries had an effect: %v", applied)
		}
		for _, table := range []string{"notification", "delivery", "attempt"} {
			if n := d.count(t, table); n != 0 {
				t.Errorf("%d rows of %s are left", n, table)
			}
		}
		if held, err := i.Held(t.Context()); err != nil || len(held) > 0 {
			t.Errorf("held are %v (%v)", held, err)
		}
		if _, err := i.Scrub(t.Context(), false); err != nil {
			t.Errorf("scrubbing: %v", err)
		}
	})
}

func TestNoByteIsLeftAfterAWholeScrub(t *testing.T) {
	d := newSQLite(t)
	i := d.start(t)
	secret := strings.Repeat("erase-me ", 3000)
	for _, body := range []string{"kept", secret, "kept"} {
		n := note("workspace", "")
		n.Body = []byte(body)
		i.mustStore(t, n)
	}
	for _, h := range i.take(t, lane, 3) {
		o := h.outcome(db.Dead)
		o.Attempt.Answer = h.Notification.Body[:4]
		i.mustFinish(t, o)
	}
	erased := i.listIDs(t, db.Filter{})[1]
	i.wantChanged(t, db.Change{Action: db.Erase, IDs: []int64{erased}}, erased)
	if _, err := i.Scrub(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal"} {
		content, err := os.ReadFile(d.path + suffix)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if strings.Contains(string(content), "erase-me") || suffix == "" && !strings.Contains(string(content), "kept") {
			t.Errorf("the file %s has what was erased, or not what was kept", d.path+suffix)
		}
	}
	if left := i.listIDs(t, db.Filter{}); len(left) != 2 {
		t.Errorf("%d deliveries are left, want 2", len(left))
	}
}

func TestSend(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		ids := inEachState(t, i)
		i.wantChanged(t, db.Change{Action: db.Send, To: "new", IDs: allOf(ids)}, ids[db.Waiting], ids[db.Retrying], ids[db.Delivered], ids[db.Dead])
		for _, state := range db.States {
			d := i.notification(t, db.NotificationOf(ids[state])).Deliveries
			old := d[0]
			if state == db.Delivering {
				if len(d) != 1 || old.State != state {
					t.Errorf("what was delivering has %+v", d)
				}
				continue
			}
			if len(d) != 2 {
				t.Fatalf("what was %s has %d deliveries, want 2", state, len(d))
			}
			sent := d[1]
			if sent.ID != old.ID+1 || sent.Lane != "new" || !sent.Fixed || sent.State != db.Waiting || sent.Attempts != 0 || len(sent.History) != 0 {
				t.Errorf("what was %s was sent as %+v", state, sent)
			}
			if state == db.Delivered {
				if old.State != state {
					t.Errorf("what was delivered is %+v", old)
				}
			} else if history := map[db.State]int{db.Retrying: 1, db.Dead: 1}[state]; old.State != db.Dead || old.Reason != db.Cancelled ||
				old.Error != "sent to new" || old.FinishedAt.IsZero() || len(old.History) != history {
				t.Errorf("what was %s is %+v", state, old)
			}
		}
		claimed := i.take(t, "new", 4)
		for _, h := range claimed {
			if !h.Fixed || h.Attempts != 0 || h.Age > time.Minute || string(h.Notification.Body) != fmt.Sprintf(`{"id": %q}`, h.Notification.NotificationID) {
				t.Errorf("claimed %+v", h.Claimed)
			}
			i.mustFinish(t, h.outcome(db.Dead))
		}
		// what has a delivery in the lane is retried there
		i.wantChanged(t, db.Change{Action: db.Send, To: "new", IDs: []int64{ids[db.Delivered]}}, ids[db.Delivered])
		d := i.notification(t, db.NotificationOf(ids[db.Delivered])).Deliveries
		if len(d) != 2 || d[0].State != db.Delivered || d[1].State != db.Waiting || d[1].Attempts != 0 || d[1].Reason != "" || len(d[1].History) != 1 {
			t.Errorf("sent once more, it has %+v", d)
		}
		// and so is what is sent to its own lane
		own := ids[db.Retrying] + 1
		i.wantChanged(t, db.Change{Action: db.Send, To: "new", IDs: []int64{own}}, own)
		if d := i.details(t, own); d.State != db.Waiting || d.Attempts != 0 || d.Error == "sent to new" {
			t.Errorf("sent to its own lane, it is %+v", d)
		}
	})
}

func TestSendOfSeveralDeliveriesOfANotificationMakesOne(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		first := i.mustStore(t, inLanes(note("workspace", "id"), "one", "two", "three"))[0]
		i.wantChanged(t, db.Change{Action: db.Send, To: "new", IDs: []int64{first, first + 1, first + 2}}, first, first+1, first+2)
		if d := i.notification(t, db.NotificationOf(first)).Deliveries; len(d) != 4 || d[3].Lane != "new" || d[3].ID != first+3 {
			t.Errorf("it has %+v", d)
		}
		// nor does a place that is free again lead to two of one id
		i.wantChanged(t, db.Change{Action: db.Drop, IDs: []int64{first + 1}}, first+1)
		i.wantChanged(t, db.Change{Action: db.Send, To: "newer", IDs: []int64{first, first + 2}}, first, first+2)
		if d := i.notification(t, db.NotificationOf(first)).Deliveries; len(d) != 4 || d[1].ID != first+2 && d[1].Lane != "newer" {
			t.Errorf("it has %+v", d)
		}
	})
}

// many makes n dead deliveries.
func many(t *testing.T, i *instance, n int) (ids []int64) {
	t.Helper()
	var details []db.Details
	for k := range n {
		details = append(details, past(fmt.Sprintf("many-%d", k), time.Hour, db.Dead))
	}
	i.put(t, details...)
	return i.listIDs(t, db.Filter{Lane: lane})
}

// What one person changed is not changed by another one who has selected it before.
func TestAChangeRepeatsItsConditions(t *testing.T) {
	dead := db.Filter{States: []db.State{db.Dead}}
	for name, test := range map[string]func(t *testing.T, i *instance){
		"dead ones that were retried and delivered are not retried once more": func(t *testing.T, i *instance) {
			ids := many(t, i, 500)
			selected := i.now(t)
			retry := db.Change{Action: db.Retry, IDs: ids, Filter: dead}
			i.wantChanged(t, retry, ids...)
			i.wantChanged(t, retry)
			for _, h := range i.take(t, lane, len(ids)) {
				i.mustFinish(t, h.outcome(db.Delivered))
			}
			i.wantChanged(t, retry)
			i.wantChanged(t, db.Change{Action: db.Retry, IDs: ids, Filter: db.Filter{AsOf: selected}})
			i.wantChanged(t, db.Change{Action: db.Send, To: "other", IDs: ids, Filter: db.Filter{AsOf: selected}})
			i.wantChanged(t, db.Change{Action: db.Retry, IDs: ids, Filter: db.Filter{AsOf: i.now(t)}}, ids...)
		},
		"what failed again since it was selected is not retried once more": func(t *testing.T, i *instance) {
			ids := many(t, i, 1)
			selected := i.now(t)
			i.wantChanged(t, db.Change{Action: db.Retry, IDs: ids, Filter: dead}, ids...)
			i.mustFinish(t, i.mustClaim(t, ids[0]).outcome(db.Dead))
			i.wantChanged(t, db.Change{Action: db.Retry, IDs: ids, Filter: db.Filter{States: dead.States, AsOf: selected}})
		},
		"what was put back is not dropped": func(t *testing.T, i *instance) {
			ids := many(t, i, 3)
			i.wantChanged(t, db.Change{Action: db.Retry, IDs: ids[1:2]}, ids[1])
			i.wantChanged(t, db.Change{Action: db.Drop, IDs: ids, Filter: dead}, ids[0], ids[2])
			i.mustClaim(t, ids[1])
			i.wantChanged(t, db.Change{Action: db.Erase, IDs: ids, Filter: dead})
		},
		"a retry of what waits does not touch what was delivered meanwhile": func(t *testing.T, i *instance) {
			ids := i.mustStore(t, notes(3)...)
			i.mustFinish(t, i.take(t, lane, 3)[1].outcome(db.Delivered))
			unfinished := db.Filter{States: []db.State{db.Waiting, db.Retrying}}
			i.wantChanged(t, db.Change{Action: db.Retry, IDs: ids, Filter: unfinished})
			i.wantState(t, ids[1], db.Delivered, 1)
		},
		"deliveries of another endpoint are left alone": func(t *testing.T, i *instance) {
			ids := many(t, i, 2)
			for _, action := range []db.Action{db.Retry, db.Send, db.Drop, db.Erase} {
				i.wantChanged(t, db.Change{Action: action, To: "other", IDs: ids, Filter: db.Filter{Endpoint: "other"}})
			}
		},
		"every field of the filter is a condition": func(t *testing.T, i *instance) {
			ids := many(t, i, 2)
			for name, filter := range map[string]db.Filter{
				"state":        {States: []db.State{db.Waiting, db.Delivered}},
				"reason":       {Reasons: []db.Reason{db.Age}},
				"status":       {Statuses: []int{404, 2}},
				"topic":        {Topic: "contact.*"},
				"lane":         {Lane: "other"},
				"workspace":    {Workspace: "other"},
				"notification": {Notification: "many-5"},
				"object":       {Object: "conversation:many-5"},
				"since":        {Since: time.Now().Add(-time.Minute)},
				"until":        {Until: time.Now().Add(-2 * time.Hour)},
				"error":        {Error: "status 404"},
				"died since":   {FinishedSince: time.Now()},
				"died until":   {FinishedUntil: time.Now().Add(-2 * time.Hour)},
				"as of":        {AsOf: time.Now().Add(-2 * time.Hour)},
				"uncancelled":  {Uncancelled: true, Reasons: []db.Reason{db.Cancelled}},
			} {
				for _, action := range []db.Action{db.Retry, db.Send, db.Drop, db.Erase} {
					if changed := i.change(t, db.Change{Action: action, To: "other", IDs: ids, Filter: filter}); len(changed) > 0 {
						t.Errorf("%s changed what another %s selects", action, name)
					}
				}
			}
			fits := db.Filter{
				States: []db.State{db.Dead}, Reasons: []db.Reason{db.Attempts}, Statuses: []int{5}, Topic: "conversation.*", Lane: lane, Workspace: "workspace", Notification: "many-1", Object: "many-1",
				Since: time.Now().Add(-2 * time.Hour), Until: time.Now().Add(-time.Minute), Error: "STATUS", AsOf: time.Now(),
				FinishedSince: time.Now().Add(-2 * time.Hour), FinishedUntil: time.Now(),
			}
			i.wantChanged(t, db.Change{Action: db.Retry, IDs: ids, Filter: fits}, ids[1])
		},
	} {
		t.Run(name, func(t *testing.T) { eachDB(t, test) })
	}
}

func TestTwoWhoChangeTheSameChangeEachOnce(t *testing.T) {
	for _, action := range []db.Action{db.Retry, db.Drop, db.Send} {
		t.Run(string(action), func(t *testing.T) {
			eachEngine(t, func(t *testing.T, d *database) {
				instances := d.startAll(t)
				ids := many(t, instances[0], 2000)
				filter := db.Filter{Endpoint: endpoint, States: []db.State{db.Dead}, Reasons: []db.Reason{db.Attempts}}
				var changed [2][]int64
				var persons sync.WaitGroup
				for n := range changed {
					mine := slices.Clone(ids)
					if n > 0 { // in the opposite order
						slices.Reverse(mine)
					}
					persons.Go(func() {
						for some := range slices.Chunk(mine, 500) {
							ids, err := instances[n%len(instances)].Change(t.Context(), db.Change{Action: action, To: "new", Filter: filter, IDs: some})
							if err != nil {
								t.Errorf("changing: %v", err)
							}
							changed[n] = append(changed[n], ids...)
						}
					})
				}
				persons.Wait()
				all := slices.Sorted(slices.Values(slices.Concat(changed[0], changed[1])))
				if !slices.Equal(all, ids) {
					t.Errorf("%d and %d were changed, want each of %d once", len(changed[0]), len(changed[1]), len(ids))
				}
				want := map[db.Action]int{db.Retry: 2000, db.Send: 2000}[action]
				if got := len(instances[0].listIDs(t, db.Filter{States: []db.State{db.Waiting}})); got != want {
					t.Errorf("%d deliveries wait, want %d", got, want)
				}
			})
		})
	}
}
