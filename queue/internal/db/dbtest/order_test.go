package dbtest_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// ordered makes a notification of an object that was created so many seconds after the others.
func ordered(object string, created int) *db.NewNotification {
	n := note("workspace", fmt.Sprintf("%s-%d-%d", object, created, rand.Uint64()))
	n.Deliveries[0].Order = db.Order{Key: "workspace " + object, CreatedAt: modelTime.Add(time.Duration(created) * time.Second)}
	return n
}

// turn claims what has its turn in the lane, which must be this delivery; 0 is none.
func (i *instance) turn(t *testing.T, id int64) (h held) {
	t.Helper()
	token := newToken()
	claimed := i.claimAll(t, db.Claim{Token: token, Ordered: true})
	switch {
	case id == 0 && len(claimed) == 0:
	case len(claimed) != 1 || claimed[0].ID != id:
		t.Fatalf("claimed %v, want %d", claimedIDs(claimed), id)
	default:
		h = held{claimed[0], token}
	}
	return h
}

func (i *instance) wantStale(t *testing.T, h held, stale bool) {
	t.Helper()
	if h.Stale != stale || !h.Ordered {
		t.Errorf("delivery %d is stale: %t, ordered: %t; want it ordered, and stale: %t", h.ID, h.Stale, h.Ordered, stale)
	}
}

func TestTheOrderOfAnObject(t *testing.T) {
	tests := map[string]func(t *testing.T, i *instance){
		"the oldest goes first, and one at a time": func(t *testing.T, i *instance) {
			ids := i.mustStore(t, ordered("a", 3), ordered("a", 1), ordered("a", 2), ordered("a", 2))
			for _, n := range []int{1, 2, 3, 0} { // two that are equally old in the order of their arrival
				h := i.turn(t, ids[n])
				i.turn(t, 0)
				i.wantStale(t, h, false)
				i.mustFinish(t, h.outcome(db.Delivered))
			}
		},
		"it is not claimed when it is stored": func(t *testing.T, i *instance) {
			n := ordered("a", 1)
			n.Deliveries[0].Token = newToken()
			i.wantState(t, i.mustStore(t, n)[0], db.Waiting, 0)
		},
		"other objects, workspaces and lanes go on": func(t *testing.T, i *instance) {
			elsewhere := inLanes(note("workspace", "elsewhere"), "other")
			elsewhere.Deliveries[0].Order = ordered("a", 0).Deliveries[0].Order
			i.mustStore(t, ordered("a", 1), ordered("a", 2), ordered("b", 1), elsewhere, note("workspace", "without"))
			if got := i.claimAll(t, db.Claim{Ordered: true}); len(got) != 3 {
				t.Errorf("claimed %v, want one of each object, and the one without an order", claimedIDs(got))
			}
			i.take(t, "other", 0)
			if got := i.claimAll(t, db.Claim{Lane: db.Lane{Name: "other"}, Ordered: true}); len(got) != 1 {
				t.Errorf("claimed %v in the other lane", claimedIDs(got))
			}
		},
		"a failing one holds back its object": func(t *testing.T, i *instance) {
			ids := i.mustStore(t, ordered("a", 1), ordered("a", 2))
			later := i.turn(t, ids[0]).outcome(db.Retrying)
			later.Delay = time.Hour
			i.mustFinish(t, later)
			i.turn(t, 0)
			i.wantChanged(t, db.Change{Action: db.Retry, IDs: ids[:1]}, ids[0])
			i.mustFinish(t, i.turn(t, ids[0]).outcome(db.Dead))
			i.turn(t, ids[1])
		},
		"an older one goes before one that is retrying or waits for a worker": func(t *testing.T, i *instance) {
			first := i.mustStore(t, ordered("a", 5))[0]
			i.mustFinish(t, i.turn(t, first).outcome(db.Retrying))
			if got, _ := i.claim(t, db.Claim{Limit: 1, MaxBytes: 1, Except: []int64{first}, Ordered: true}); len(got) != 0 { // it has its turn now
				t.Fatalf("claimed %v", got)
			}
			older := i.mustStore(t, ordered("a", 4))[0]
			i.mustFinish(t, i.turn(t, older).outcome(db.Delivered))
			i.turn(t, first)
		},
		"a late one is delivered, and stale": func(t *testing.T, i *instance) {
			first := i.mustStore(t, ordered("a", 5))[0]
			running := i.turn(t, first)
			late := i.mustStore(t, ordered("a", 4))[0]
			i.turn(t, 0)
			i.mustFinish(t, running.outcome(db.Delivered))
			h := i.turn(t, late)
			i.wantStale(t, h, true)
			i.mustFinish(t, h.outcome(db.Delivered))
			i.wantChanged(t, db.Change{Action: db.Retry, IDs: []int64{first}}, first) // there is none behind it
			i.wantStale(t, i.turn(t, first), false)
		},
		"one that a person sends again is stale if a newer one was delivered": func(t *testing.T, i *instance) {
			ids := i.mustStore(t, ordered("a", 1), ordered("a", 2), ordered("a", 3))
			for _, id := range ids {
				i.mustFinish(t, i.turn(t, id).outcome(db.Delivered))
			}
			i.wantChanged(t, db.Change{Action: db.Retry, IDs: ids}, ids...)
			for _, id := range ids { // in their order, of which none is delivered now
				h := i.turn(t, id)
				i.wantStale(t, h, false)
				i.mustFinish(t, h.outcome(db.Delivered))
			}
			i.wantChanged(t, db.Change{Action: db.Retry, IDs: ids[:1]}, ids[0])
			i.wantStale(t, i.turn(t, ids[0]), true)
		},
		"dropping and erasing let the next one go": func(t *testing.T, i *instance) {
			ids := i.mustStore(t, ordered("a", 1), ordered("a", 2), ordered("a", 3))
			i.mustFinish(t, i.turn(t, ids[0]).outcome(db.Retrying))
			i.wantChanged(t, db.Change{Action: db.Drop, IDs: ids[:1]}, ids[0])
			i.turn(t, ids[1])
			i.wantChanged(t, db.Change{Action: db.Erase, IDs: ids[1:2]}, ids[1])
			i.turn(t, ids[2])
		},
		"dropping one lets the next one go that was selected, too, but does not fit": func(t *testing.T, i *instance) {
			ids := i.mustStore(t, ordered("a", 1), ordered("a", 2))
			i.mustFinish(t, i.turn(t, ids[0]).outcome(db.Retrying))
			i.wantChanged(t, db.Change{Action: db.Drop, IDs: ids, Filter: db.Filter{States: []db.State{db.Retrying}}}, ids[0])
			i.turn(t, ids[1])
		},
		"sending it to another lane lets the next one go": func(t *testing.T, i *instance) {
			ids := i.mustStore(t, ordered("a", 1), ordered("a", 2))
			i.mustFinish(t, i.turn(t, ids[0]).outcome(db.Retrying))
			i.wantChanged(t, db.Change{Action: db.Send, To: "other", IDs: ids[:1]}, ids[0])
			if d := i.details(t, ids[0]); d.State != db.Dead || d.Reason != db.Cancelled || d.Error != "sent to other" {
				t.Errorf("it is %+v", d.Delivery)
			}
			i.turn(t, ids[1])
			i.take(t, "other", 1)
		},
		"one that is no longer kept lets the next one go": func(t *testing.T, i *instance) {
			ids := i.mustStore(t, ordered("a", 1), ordered("a", 2))
			i.mustFinish(t, i.turn(t, ids[0]).outcome(db.Delivered))
			i.now(t)
			if n, _, err := i.Expire(t.Context(), db.Expiry{Endpoint: endpoint, KeepDelivered: time.Nanosecond, KeepDead: time.Hour, Limit: 10}); n != 1 || err != nil {
				t.Fatalf("%d expired: %v", n, err)
			}
			i.wantStale(t, i.turn(t, ids[1]), false)
		},
		"a released one is placed again": func(t *testing.T, i *instance) {
			first := i.mustStore(t, ordered("a", 5))[0]
			running := i.turn(t, first)
			older := i.mustStore(t, ordered("a", 4))[0]
			i.mustFinish(t, running.outcome(db.Waiting))
			i.mustFinish(t, i.turn(t, older).outcome(db.Delivered))
			i.turn(t, first)
		},
		"a hold is waited for, but not by a retry": func(t *testing.T, i *instance) {
			n := ordered("a", 1)
			n.Deliveries[0].Hold = time.Hour
			id := i.mustStore(t, n, ordered("a", 2))[0]
			i.turn(t, 0) // and the one behind it waits, too
			if d := i.details(t, id); d.State != db.Waiting || d.DueAt.Sub(d.StoredAt) != time.Hour {
				t.Errorf("it is %s, due at %s", d.State, d.DueAt)
			}
			i.wantChanged(t, db.Change{Action: db.Drop, IDs: []int64{id}}, id)
			short := ordered("b", 1)
			short.Deliveries[0].Hold = 50 * time.Millisecond
			held := i.mustStore(t, short)[0]
			for claimed := []db.Claimed(nil); len(claimed) == 0; {
				for _, c := range i.claimAll(t, db.Claim{Token: 7, Ordered: true}) {
					if c.ID == held {
						claimed = append(claimed, c)
						o := db.Outcome{ID: held, Token: 7, State: db.Retrying, Attempt: failure(1)}
						i.mustFinish(t, o)
					}
				}
			}
			i.turn(t, held)
		},
		"what is held back is counted": func(t *testing.T, i *instance) {
			ids := i.mustStore(t, ordered("a", 1), ordered("a", 2), ordered("a", 3), ordered("b", 1), ordered("c", 1), ordered("c", 2))
			first := i.details(t, ids[0])
			i.claimAll(t, db.Claim{Ordered: true})
			_, back, err := i.Backlog(t.Context())
			if err != nil || len(back) != 1 || back[0].Lane != (db.Lane{Endpoint: endpoint, Name: lane}) || back[0].Objects != 2 || back[0].Oldest <= 0 || back[0].By != first.NotificationID {
				t.Errorf("held back are %+v (%v), want two objects, by %s", back, err, first.NotificationID)
			}
		},
		"long and odd keys": func(t *testing.T, i *instance) {
			for _, object := range []string{string(make([]byte, db.MaxOrderKey-10)), "a\xff", "base64:x"} {
				ids := i.mustStore(t, ordered(object, 2), ordered(object, 1))
				h := i.turn(t, ids[1])
				i.mustFinish(t, h.outcome(db.Delivered))
				i.mustFinish(t, i.turn(t, ids[0]).outcome(db.Delivered))
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { eachDB(t, test) })
	}
}

func TestAMoveKeepsTheOrder(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		own := d.start(t)
		for _, way := range [][2]*instance{{own, newSQLite(t).start(t)}, {newSQLite(t).start(t), own}} {
			from, to := way[0], way[1]
			ids := from.mustStore(t, ordered("a", 3), ordered("a", 1), ordered("a", 2))
			from.mustFinish(t, from.turn(t, ids[1]).outcome(db.Delivered))
			moved := from.export(t)
			to.put(t, moved...)
			from.remove(t, moved...)
			for _, n := range []int{2, 0} {
				for _, d := range to.listAll(t) {
					if d.NotificationID == moved[n].NotificationID {
						h := to.turn(t, d.ID)
						to.wantStale(t, h, false)
						to.mustFinish(t, h.outcome(db.Delivered))
					}
				}
			}
		}
	})
}

func (i *instance) listAll(t *testing.T) []db.Delivery {
	t.Helper()
	return i.list(t, db.Filter{}, db.Page{Limit: 100})
}

// Several who store, claim and end deliveries at the same time never have two of an object,
// and deliver all, in the order in which they were created but for those that are stale.
func TestTheOrderHoldsWhileManyWork(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		const objects, each = 20, 15
		instances := d.startAll(t)
		var mu sync.Mutex
		running, newest, left := make(map[string]bool), make(map[string]time.Time), objects*each
		var work sync.WaitGroup
		for range 3 {
			for _, i := range instances {
				work.Go(func() {
					for deadline := time.Now().Add(30 * time.Second); ; {
						mu.Lock()
						done := left == 0
						mu.Unlock()
						if done || time.Now().After(deadline) || t.Failed() {
							return
						}
						token := newToken()
						claimed, _, err := i.Claim(t.Context(), db.Claim{Lane: db.Lane{Endpoint: endpoint, Name: lane}, Token: token, Limit: 8, MaxBytes: 1 << 20, Ordered: true})
						if err != nil {
							t.Errorf("claiming: %v", err)
						}
						var outcomes []db.Outcome
						mu.Lock()
						for _, c := range claimed {
							key := c.Notification.Object
							if running[key] {
								t.Errorf("two of %s at once", key)
							}
							if c.Notification.ReceivedAt.Before(newest[key]) && !c.Stale {
								t.Errorf("%s of %s came after %s", c.Notification.ReceivedAt, key, newest[key])
							}
							running[key] = true
						}
						mu.Unlock()
						mu.Lock()
						for n, c := range claimed {
							h := held{c, token}
							o := h.outcome([]db.State{db.Delivered, db.Delivered, db.Retrying, db.Waiting, db.Dead}[rand.IntN(5)])
							if o.State == db.Delivered {
								newest[c.Notification.Object] = later(newest[c.Notification.Object], c.Notification.ReceivedAt)
							}
							if o.State == db.Delivered || o.State == db.Dead {
								left--
							}
							running[c.Notification.Object] = false
							o.Ordered = n%2 == 0
							outcomes = append(outcomes, o)
						}
						mu.Unlock()
						if _, err := i.Finish(t.Context(), outcomes); err != nil {
							t.Errorf("finishing: %v", err)
						}
					}
				})
			}
		}
		order := rand.Perm(objects * each)
		for n, at := range order {
			one := ordered(fmt.Sprint(at%objects), at)
			one.Object, one.ReceivedAt = fmt.Sprint(at%objects), one.Deliveries[0].Order.CreatedAt // of which the worker would know nothing else
			instances[n%len(instances)].store(t, one)
		}
		work.Wait()
		if left != 0 {
			t.Errorf("%d are left", left)
		}
	})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
