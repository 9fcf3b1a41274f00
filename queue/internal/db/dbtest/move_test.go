package dbtest_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// eachPair runs a test on new databases for all pairs of engines.
func eachPair(t *testing.T, test func(t *testing.T, from, to *instance)) {
	t.Helper()
	for source, create := range engines {
		for target, createTarget := range engines {
			t.Run(source+" to "+target, func(t *testing.T) {
				test(t, create(t).start(t), createTarget(t).start(t))
			})
		}
	}
}

// mixed stores notifications whose deliveries are in all states.
func mixed(t *testing.T, i *instance) {
	t.Helper()
	inEachState(t, i)
	copies := inLanes(note("workspace", "copies"), lane, "copy-1", "copy-2")
	copies.ReceivedAt = time.Date(2025, 2, 3, 4, 5, 6, 789000000, time.UTC)
	id := i.mustStore(t, copies)[0]
	i.mustFinish(t, i.take(t, "copy-1", 1)[0].outcome(db.Retrying))
	failed := i.take(t, "copy-1", 1)[0].outcome(db.Dead, db.Age)
	failed.Attempt = failure(7)
	i.mustFinish(t, failed)
	i.mustFinish(t, i.take(t, "copy-2", 1)[0].outcome(db.Retrying))
	i.change(t, db.Change{Action: db.Retry, IDs: []int64{id + 2}})
	i.take(t, "copy-2", 1) // after a person's retry
	i.change(t, db.Change{Action: db.Drop, IDs: []int64{id}})
	for n, text := range []string{"a\x00b", "\xff", "base64:AA==", random(300)} {
		one := inLanes(foreign(text), fmt.Sprint("foreign-", n))
		i.mustStore(t, one)
		o := i.take(t, fmt.Sprint("foreign-", n), 1)[0].outcome(db.Retrying)
		o.Attempt.Upstream, o.Attempt.Error, o.Attempt.Answer, o.Delay = text, text, []byte(text), time.Hour
		i.mustFinish(t, o)
	}
	large := note("workspace", "")
	large.Body = []byte(random(1 << 20))
	i.mustStore(t, large)
	elsewhere := note("workspace", "elsewhere")
	elsewhere.Endpoint = "other"
	i.mustStore(t, elsewhere)
}

// textOf returns a notification as a text that is the same in all databases.
func textOf(t *testing.T, d db.Details) string {
	t.Helper()
	at := func(moments ...*time.Time) {
		for _, moment := range moments {
			*moment = moment.UTC().Round(10 * time.Millisecond)
		}
	}
	d.ID = 0
	at(&d.ReceivedAt)
	request := d.Request.Encode()
	d.Request = db.Request{}
	d.Deliveries = slices.Clone(d.Deliveries)
	for n := range d.Deliveries {
		one := &d.Deliveries[n]
		one.ID, one.Notification = 0, 0
		at(&one.StoredAt, &one.AgeFrom, &one.DueAt, &one.FinishedAt)
		one.History = slices.Clone(one.History)
		for k := range one.History {
			at(&one.History[k].At)
		}
	}
	return fmt.Sprintf("%+q %s", fmt.Sprintf("%+v", d), request)
}

func textsOf(t *testing.T, of []db.Details) (texts []string) {
	t.Helper()
	for _, d := range of {
		texts = append(texts, textOf(t, d))
	}
	return texts
}

func wantSame(t *testing.T, what string, got, want []db.Details) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s are %d notifications, want %d", what, len(got), len(want))
	}
	have, wanted := textsOf(t, got), textsOf(t, want)
	for n := range have {
		if have[n] != wanted[n] {
			t.Errorf("%s is\n%.2000s, want\n%.2000s", what, have[n], wanted[n])
		}
	}
}

func (i *instance) wantImported(t *testing.T, notifications []db.Details, want int) {
	t.Helper()
	if stored, err := i.Import(t.Context(), notifications); err != nil || stored != want {
		t.Errorf("imported %d of %d (%v), want %d", stored, len(notifications), err, want)
	}
}

func TestEverythingMovesToAnotherDatabase(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to *instance) {
		mixed(t, from)
		all := from.export(t)
		to.wantImported(t, all[:4], 4) // and then it broke off
		to.wantImported(t, all, len(all)-4)
		to.wantImported(t, all, 0)
		moved := to.export(t)
		wantSame(t, "moved", moved, all)
		for n, d := range moved {
			for _, one := range d.Deliveries {
				if one.Notification != d.ID || db.NotificationOf(one.ID) != d.ID {
					t.Errorf("notification %d has the delivery %+v", d.ID, one.Delivery)
				}
			}
			if n > 0 && d.ID <= moved[n-1].ID {
				t.Errorf("notification %d is behind %d", d.ID, moved[n-1].ID)
			}
		}
		from.wantImported(t, moved, 0) // nor does it double what is still there
		from.remove(t, all[:5]...)
		wantSame(t, "left", from.export(t), all[5:])
		for range 2 {
			from.remove(t, all...)
		}
		if left := from.export(t); len(left) > 0 || len(from.listIDs(t, db.Filter{})) > 0 {
			t.Errorf("%d notifications are left, although they may have been delivering", len(left))
		}
		from.wantImported(t, moved, len(moved))
		wantSame(t, "moved back", from.export(t), all)
	})
}

func TestErasingAllLeavesNothing(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		i := d.start(t)
		mixed(t, i)
		i.remove(t, i.export(t)...)
		for _, table := range []string{"notification", "delivery", "attempt"} {
			if n := d.count(t, table); n != 0 {
				t.Errorf("%d rows of %s are left", n, table)
			}
		}
	})
}

func TestDeliveriesThatAreDeliveringAreMovedAsReleased(t *testing.T) {
	eachPair(t, func(t *testing.T, i, to *instance) {
		id := i.mustStore(t, note("workspace", "id"))[0]
		want := func(state db.State, attempts, history int) {
			t.Helper()
			found := i.export(t)
			if len(found) != 1 || len(found[0].Deliveries) != 1 {
				t.Fatalf("exported %+v", found)
			}
			if d := found[0].Deliveries[0]; d.State != state || d.Attempts != attempts || len(d.History) != history || !d.FinishedAt.IsZero() {
				t.Errorf("exported %+v, want it %s after %d attempts", d, state, attempts)
			}
			copied := found[0]
			copied.NotificationID = fmt.Sprint(state, attempts, history) // another one there
			to.put(t, copied)
			taken := to.take(t, lane, 1)[0]
			if taken.Attempts != attempts {
				t.Errorf("after the move, it had %d attempts, want %d", taken.Attempts, attempts)
			}
			to.mustFinish(t, taken.outcome(db.Delivered))
		}
		first := i.mustClaim(t, id)
		want(db.Waiting, 0, 0)
		i.mustFinish(t, first.outcome(db.Retrying))
		second := i.mustClaim(t, id)
		want(db.Retrying, 1, 1)
		i.mustFinish(t, second.outcome(db.Dead))
		i.change(t, db.Change{Action: db.Retry, IDs: []int64{id}})
		i.mustClaim(t, id)
		want(db.Waiting, 0, 2)
		i.wantState(t, id, db.Delivering, 0)
	})
}

func TestNotificationsWithoutAnIDAreImportedOnce(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to *instance) {
		at := time.Now()
		for n, body := range []string{"one", "two", "two", ""} { // two that differ in their receipt time alone
			one := note("workspace", "")
			one.Body, one.ReceivedAt = []byte(body), at.Add(time.Duration(n)*time.Second)
			from.mustStore(t, one)
		}
		topical, others, elsewhere := note("workspace", ""), note("other", ""), note("workspace", "")
		topical.Topic, elsewhere.Endpoint = "contact.created", "other"
		for _, one := range []*db.NewNotification{topical, others, elsewhere} {
			one.Body, one.ReceivedAt = []byte("one"), at
			from.mustStore(t, one)
		}
		all := from.export(t)
		to.wantImported(t, all[:2], 2)
		to.wantImported(t, all, 5)
		to.wantImported(t, all, 0)
		wantSame(t, "moved", to.export(t), all)
	})
}

func TestWhatIsThereIsNotChangedByAnImport(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to *instance) {
		from.mustStore(t, note("workspace", "id"), note("workspace", "new"))
		there := to.mustStore(t, note("workspace", "id"))[0]
		to.mustFinish(t, to.mustClaim(t, there).outcome(db.Delivered))
		all := from.export(t)
		to.wantImported(t, append(all, all...), 1)
		to.wantState(t, there, db.Delivered, 1)
		if s := to.store(t, note("workspace", "new"))[0]; !s.Duplicate {
			t.Errorf("stored %+v, want a duplicate of what was imported", s)
		}
		if got := to.take(t, lane, 1)[0].Notification.NotificationID; got != "new" {
			t.Errorf("%s is delivered, want the new one", got)
		}
	})
}

// The new database works while notifications are moved into it.
func TestAnImportRunsBesideStores(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to *instance) {
		var batch []*db.NewNotification
		for n := range 300 {
			batch = append(batch, note("workspace", fmt.Sprint(n)))
		}
		from.mustStore(t, batch...)
		done := make(chan int)
		go func() {
			fresh := 0
			for n := 299; n >= 0; n -= 3 { // some of which are moved as well
				stored, err := to.Store(t.Context(), func() []*db.NewNotification { return []*db.NewNotification{note("workspace", fmt.Sprint(n))} })
				if err != nil {
					t.Errorf("storing: %v", err)
					break
				}
				if !stored[0].Duplicate {
					fresh++
				}
			}
			done <- fresh
		}()
		imported := 0
		for some := range slices.Chunk(from.export(t), 20) {
			n, err := to.Import(t.Context(), some)
			if err != nil {
				t.Errorf("importing: %v", err)
			}
			imported += n
		}
		if fresh := <-done; fresh+imported != 300 || len(to.export(t)) != 300 {
			t.Errorf("%d were stored and %d imported, %d are there, want 300", fresh, imported, len(to.export(t)))
		}
	})
}
