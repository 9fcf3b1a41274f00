package dbtest_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func TestEachOutcomeHasItsState(t *testing.T) {
	type outcome struct {
		state    db.State
		reason   db.Reason
		attempts int
	}
	cases := []outcome{{db.Delivered, "", 1}, {db.Retrying, "", 1}, {db.Waiting, "", 0}}
	for _, reason := range db.Reasons {
		cases = append(cases, outcome{db.Dead, reason, 1})
	}
	eachDB(t, func(t *testing.T, i *instance) {
		for _, c := range cases {
			id := i.mustStore(t, note("workspace", ""))[0]
			before := i.now(t)
			o := i.mustClaim(t, id).outcome(c.state, c.reason)
			o.Delay = time.Hour
			i.mustFinish(t, o)
			after := i.now(t)

			got := i.details(t, id)
			want := got.Delivery
			want.State, want.Reason, want.Attempts = c.state, c.reason, c.attempts
			want.Upstream, want.Status, want.Duration, want.Error = "", 0, 0, ""
			if a := o.Attempt; a != nil {
				want.Upstream, want.Status, want.Duration, want.Error = a.Upstream, a.Status, a.Duration, a.Error
			}
			if got.Delivery != want {
				t.Errorf("%s %s: %+v, want %+v", c.state, c.reason, got.Delivery, want)
			}
			if finished := c.state == db.Delivered || c.state == db.Dead; finished == got.FinishedAt.IsZero() ||
				finished && (got.FinishedAt.Before(before) || got.FinishedAt.After(after)) {
				t.Errorf("%s: finished at %s, which is between %s and %s", c.state, got.FinishedAt, before, after)
			}
			if due := c.state == db.Retrying; due == got.DueAt.IsZero() || due && (got.DueAt.Before(before.Add(time.Hour)) || got.DueAt.After(after.Add(time.Hour))) {
				t.Errorf("%s: due at %s", c.state, got.DueAt)
			}
			if failed := c.state == db.Retrying || c.state == db.Dead; len(got.History) != map[bool]int{true: 1}[failed] {
				t.Errorf("%s: %d attempts failed", c.state, len(got.History))
			}
			i.change(t, db.Change{Action: db.Drop, IDs: []int64{id}})
		}
	})
}

func TestFailedAttemptsAreKept(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		id := i.mustStore(t, note("workspace", ""))[0]
		var want []db.Attempt
		for n := 1; n <= 4; n++ {
			h := i.mustClaim(t, id)
			if h.Attempts != n-1 {
				t.Fatalf("attempt %d comes after %d", n, h.Attempts)
			}
			o := h.outcome(db.Retrying)
			o.Attempt = failure(n)
			if n == 2 { // nobody was asked
				o.Attempt.Upstream, o.Attempt.Status, o.Attempt.Answer = "", 0, nil
			}
			i.mustFinish(t, o)
			want = append(want, *o.Attempt)
			d := i.details(t, id)
			if d.Upstream != o.Attempt.Upstream || d.Status != o.Attempt.Status || d.Duration != o.Attempt.Duration || d.Error != o.Attempt.Error {
				t.Errorf("after attempt %d: %+v", n, d.Delivery)
			}
			wantHistory(t, d, want)
		}
		last := i.mustClaim(t, id).outcome(db.Delivered)
		i.mustFinish(t, last)
		d := i.details(t, id)
		wantHistory(t, d, want)
		if d.Error != "" || d.Status != 204 || d.Upstream != last.Attempt.Upstream || d.Duration != last.Attempt.Duration || d.Attempts != 5 {
			t.Errorf("after the successful attempt: %+v", d.Delivery)
		}
	})
}

func wantHistory(t *testing.T, d db.DeliveryDetails, want []db.Attempt) {
	t.Helper()
	if len(d.History) != len(want) {
		t.Fatalf("%d attempts are kept, want %d", len(d.History), len(want))
	}
	for n, got := range d.History {
		a := want[n]
		if got.At.Sub(a.At).Abs() > time.Millisecond || got.Instance != a.Instance || got.Upstream != a.Upstream || got.Status != a.Status ||
			got.Duration != a.Duration || got.Error != a.Error || string(got.Answer) != string(a.Answer) {
			t.Errorf("attempt %d is %+v, want %+v", n, got, a)
		}
	}
}

func TestAttemptsThatEndedAtTheSameTimeAreAllKept(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		id := i.mustStore(t, note("workspace", ""))[0]
		var want []db.Attempt
		at := time.Now() // it may have been set back meanwhile
		for n := range 3 {
			o := i.mustClaim(t, id).outcome(db.Retrying)
			o.Attempt = failure(n)
			o.Attempt.At = at
			i.mustFinish(t, o)
			want = append(want, *o.Attempt)
		}
		wantHistory(t, i.details(t, id), want)
	})
}

func TestOnlyTheHolderOfAClaimCanEndIt(t *testing.T) {
	for _, state := range []db.State{db.Delivered, db.Retrying, db.Dead, db.Waiting} {
		t.Run(string(state), func(t *testing.T) {
			eachEngine(t, func(t *testing.T, d *database) {
				instances := d.startAll(t)
				i, other := instances[0], instances[len(instances)-1]
				id := i.mustStore(t, note("workspace", ""))[0]
				first := i.mustClaim(t, id)
				i.mustFinish(t, first.outcome(db.Retrying))
				if applied := i.finish(t, first.outcome(state)); len(applied) != 0 {
					t.Error("it had an effect on a delivery that nobody holds")
				}
				i.wantState(t, id, db.Retrying, 1)

				second := i.mustClaim(t, id)
				wrong := second.outcome(state)
				wrong.Token = newToken()
				if applied := i.finish(t, first.outcome(state), wrong); len(applied) != 0 {
					t.Error("it had an effect with the token of another claim")
				}
				if applied := other.finish(t, second.outcome(state)); d.shared && len(applied) != 0 {
					t.Error("it had an effect from another instance")
				} else if !d.shared && len(applied) != 1 {
					t.Error("the holder could not end its claim")
				}
				if d.shared {
					i.wantState(t, id, db.Delivering, 1)
					i.mustFinish(t, second.outcome(state))
				}
				if applied := i.finish(t, second.outcome(state)); len(applied) != 0 {
					t.Error("it had an effect twice")
				}
				want, attempts := state, 2
				if state == db.Waiting {
					want, attempts = db.Retrying, 1
				}
				i.wantState(t, id, want, attempts)
				if got := i.details(t, id); len(got.History) > attempts {
					t.Errorf("outcomes without an effect have left attempts: %+v", got.History)
				}
			})
		})
	}
}

// The outcome of the claim before is written once more when its reply was lost, with that of
// the claim that followed.
func TestABatchWithTwoOutcomesOfADelivery(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		id := i.mustStore(t, note("workspace", ""))[0]
		first := i.mustClaim(t, id).outcome(db.Retrying)
		first.Attempt = failure(0)
		i.mustFinish(t, first)
		second := i.mustClaim(t, id).outcome(db.Delivered)
		if applied := i.finish(t, first, second); !slices.Equal(applied, []int64{id}) {
			t.Errorf("applied: %v, want only that of the claim", applied)
		}
		i.wantState(t, id, db.Delivered, 2)
		wantHistory(t, i.details(t, id), []db.Attempt{*first.Attempt})
	})
}

func TestABatchAppliesThoseOutcomesThatCount(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		i.mustStore(t, notes(8)...)
		states := []db.State{db.Delivered, db.Retrying, db.Dead, db.Waiting}
		outcomes := []db.Outcome{{ID: 1 << 40, Token: newToken(), State: db.Delivered, Attempt: failure(1)}}
		var want []int64
		taken := i.take(t, lane, 8)
		for n, h := range taken {
			o := h.outcome(states[n/2])
			if n%2 > 0 {
				o.Token = newToken()
			} else {
				want = append(want, h.ID)
			}
			outcomes = append(outcomes, o)
		}
		slices.Reverse(outcomes)
		if applied := i.finish(t, outcomes...); !slices.Equal(applied, want) {
			t.Errorf("applied %v, want %v", applied, want)
		}
		for n, h := range taken {
			d := i.details(t, h.ID)
			want := states[n/2]
			if n%2 > 0 {
				want = db.Delivering
			}
			if d.State != want || (len(d.History) > 0) != (want == db.Retrying || want == db.Dead) {
				t.Errorf("delivery %d is %+v, want it %s", n, d, want)
			}
		}
		if applied := i.finish(t); len(applied) != 0 {
			t.Errorf("of no outcomes, applied %v", applied)
		}
	})
}

func TestAReleasedDeliveryIsAsBeforeItsClaim(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		id := i.mustStore(t, note("workspace", ""))[0]
		release := func(state db.State) {
			t.Helper()
			before := i.details(t, id)
			i.mustFinish(t, i.mustClaim(t, id).outcome(db.Waiting))
			after := i.details(t, id)
			if before.State != state || after.State != state || after.Attempts != before.Attempts || len(after.History) != len(before.History) ||
				after.AgeFrom != before.AgeFrom || after.Upstream != before.Upstream || after.Error != before.Error {
				t.Errorf("it was %+v, and is %+v, want it %s", before, after, state)
			}
		}
		release(db.Waiting)
		release(db.Waiting)
		i.mustFinish(t, i.mustClaim(t, id).outcome(db.Retrying))
		release(db.Retrying)
		release(db.Retrying)
		i.mustFinish(t, i.mustClaim(t, id).outcome(db.Dead))
		i.wantChanged(t, db.Change{Action: db.Retry, IDs: []int64{id}}, id)
		release(db.Waiting)
		if h := i.mustClaim(t, id); h.Attempts != 0 {
			t.Errorf("it had %d attempts since a person retried it, want none", h.Attempts)
		}
	})
}

func TestADeliveryThatWasClaimedWhenItWasStoredCanBeReleased(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		n := note("workspace", "")
		n.Deliveries[0].Token = newToken()
		id := i.mustStore(t, n)[0]
		i.mustFinish(t, held{db.Claimed{ID: id}, n.Deliveries[0].Token}.outcome(db.Waiting))
		i.wantState(t, id, db.Waiting, 0)
		i.mustClaim(t, id)
	})
}

func TestTheNumberOfAttemptsIsNotBounded(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		id := i.mustStore(t, note("workspace", ""))[0]
		const times = 130
		for range times {
			i.mustFinish(t, i.mustClaim(t, id).outcome(db.Retrying))
		}
		if d := i.details(t, id); d.Attempts != times || len(d.History) != times {
			t.Errorf("it had %d attempts, and %d are kept, want %d", d.Attempts, len(d.History), times)
		}
	})
}

func TestWhatThisInstanceHoldsIsKnown(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		instances := d.startAll(t)
		i := instances[0]
		want := make(map[int64]db.Token)
		handed := inLanes(note("workspace", ""), lane, "copy")
		handed.Deliveries[0].Token, handed.Deliveries[1].Token = newToken(), newToken()
		id := i.mustStore(t, handed)[0]
		want[id], want[id+1] = handed.Deliveries[0].Token, handed.Deliveries[1].Token
		i.mustStore(t, notes(3)...)
		for _, h := range i.take(t, lane, 3) {
			want[h.ID] = h.token
		}
		i.mustStore(t, note("workspace", ""))
		for len(want) > 0 {
			held, err := i.Held(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[int64]db.Token)
			for _, h := range held {
				got[h.ID] = h.Token
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("held are %v, want %v", got, want)
			}
			for _, h := range held[:1] {
				i.mustFinish(t, db.Outcome{ID: h.ID, Token: h.Token, State: db.Waiting})
				delete(want, h.ID)
			}
		}
		for _, other := range instances {
			if held, err := other.Held(t.Context()); err != nil || len(held) > 0 {
				t.Errorf("held are %v (%v), want none", held, err)
			}
		}
	})
}

func TestAnInstanceThatWasClosedLeavesItsDeliveriesToTheNextOne(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		i := d.start(t)
		ids := i.mustStore(t, notes(3)...)
		for _, h := range i.take(t, lane, 3) {
			if h.ID == ids[1] {
				i.mustFinish(t, h.outcome(db.Retrying))
			}
		}
		old := i.take(t, lane, 1)[0]
		name := i.Instance()
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
		next := d.start(t)
		if next.Instance() == name {
			t.Errorf("both are called %s", name)
		}
		next.now(t)
		if d.shared {
			d.leave(t, name)
		}
		if _, err := next.TakeOver(t.Context()); err != nil {
			t.Fatal(err)
		}
		next.wantState(t, ids[0], db.Waiting, 0)
		next.wantState(t, ids[1], db.Retrying, 1)
		if applied := next.finish(t, old.outcome(db.Delivered)); len(applied) != 0 {
			t.Error("the claim of an instance that is gone had an effect")
		}
		if taken := next.take(t, lane, 3); !slices.Equal(heldIDs(taken), ids) {
			t.Errorf("claimed %v, want %v", heldIDs(taken), ids)
		}
		next.now(t)
		if n, err := next.TakeOver(t.Context()); n != 0 || err != nil {
			t.Errorf("%d were taken over from one that lives (%v)", n, err)
		}
	})
}
