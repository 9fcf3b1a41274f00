package dbtest_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func TestDeliveriesAreClaimedInTheOrderInWhichTheyWereStored(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		var want, got []int64
		for range 30 {
			want = append(want, i.mustStore(t, note("workspace", ""))...)
		}
		for range 8 {
			some, _ := i.claim(t, db.Claim{Limit: 4})
			for _, c := range some {
				got = append(got, c.ID)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("claimed %v, want %v", got, want)
		}
	})
}

func TestAClaimHasAllOfADelivery(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		n := inLanes(note("workspace", "id"), lane, "copy")
		id := i.store(t, n)[0].ID
		for place, name := range []string{lane, "copy"} {
			got, more := i.claim(t, db.Claim{Lane: db.Lane{Name: name}, Limit: 5})
			if len(got) != 1 || more {
				t.Fatalf("claimed %d deliveries, more %t", len(got), more)
			}
			c := got[0]
			if c.ID != db.DeliveryID(id, place) || c.Notification.ID != id || c.Fixed != (place > 0) || c.Attempts != 0 || c.Age < 0 || c.Age > time.Minute {
				t.Errorf("claimed %+v of %d", c, c.Notification.ID)
			}
			if different := differs(c.Notification, n.Notification); different != "" {
				t.Error(different)
			}
			i.wantState(t, c.ID, db.Delivering, 0)
			if again, more := i.claim(t, db.Claim{Lane: db.Lane{Name: name}, Limit: 5}); len(again) != 0 || more {
				t.Errorf("claimed again: %+v, more %t", again, more)
			}
		}
	})
}

func TestOnlyDeliveriesOfTheLaneAreClaimed(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		elsewhere := note("workspace", "")
		elsewhere.Endpoint = "other"
		i.mustStore(t, inLanes(note("workspace", ""), "other"), elsewhere)
		i.mustClaim(t, i.mustStore(t, note("workspace", ""))[0])
	})
}

func TestTheAgeOfAClaimedDeliveryIsSinceItWasStored(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		old, future := past("old", time.Hour, db.Waiting), past("future", -time.Hour, db.Waiting)
		i.put(t, old, future)
		for _, h := range i.take(t, lane, 2) {
			want := map[string]time.Duration{"old": time.Hour}[h.Notification.NotificationID]
			if h.Age < 0 || (h.Age-want).Abs() > time.Minute {
				t.Errorf("%s is %s old, want %s", h.Notification.NotificationID, h.Age, want)
			}
		}
	})
}

func TestExceptedDeliveriesAreLeftAlone(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		ids := i.mustStore(t, notes(9)...)
		due, _ := i.claim(t, db.Claim{Limit: 3, Token: 1 << 40})
		for _, c := range due {
			i.mustFinish(t, held{c, 1 << 40}.outcome(db.Retrying))
		}
		except := []int64{due[1].ID, ids[5], ids[6], ids[8], 1 << 40}
		var got []int64
		for n := 0; ; n++ {
			some, more := i.claim(t, db.Claim{Limit: 2, Except: except})
			if got = append(got, claimedIDs(some)...); !more {
				break
			}
			if n == 20 {
				t.Fatal("there is always more to claim, of what is excepted")
			}
		}
		slices.Sort(got)
		want := slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return slices.Contains(except, id) })
		if !slices.Equal(got, want) {
			t.Errorf("claimed %v, want %v", got, want)
		}
	})
}

func TestManyDeliveriesCanBeExcepted(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		ids := i.mustStore(t, notes(2001)...)
		some, more := i.claim(t, db.Claim{Limit: 3, Except: ids[:2000]})
		if !slices.Equal(claimedIDs(some), ids[2000:]) || more {
			t.Errorf("claimed %v, more %t, want %v", claimedIDs(some), more, ids[2000:])
		}
	})
}

// retryAll lets all of the lane fail once.
func retryAll(t *testing.T, i *instance, n int, delay time.Duration) {
	t.Helper()
	var outcomes []db.Outcome
	for _, h := range i.take(t, lane, n) {
		o := h.outcome(db.Retrying)
		o.Delay = delay
		outcomes = append(outcomes, o)
	}
	i.mustFinish(t, outcomes...)
}

func TestDueAndWaitingDeliveriesShareAClaim(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		i.mustStore(t, notes(40)...)
		retryAll(t, i, 40, 0)
		i.mustStore(t, notes(40)...)
		for n := range 8 {
			some, more := i.claim(t, db.Claim{Limit: 10})
			due := 0
			for _, c := range some {
				due += c.Attempts
			}
			if waiting := len(some) - due; due < 5 || waiting < 5 || n < 6 && !more {
				t.Fatalf("claim %d got %d due and %d waiting deliveries of 10, more %t", n, due, waiting, more)
			}
		}
	})
}

func TestAllThatIsThereIsClaimed(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		i.mustStore(t, notes(25)...)
		for _, kind := range []string{"waiting", "due"} {
			for _, limit := range []int{1, 2, 3, 10, 25, 26} {
				token := newToken()
				got := i.claimAll(t, db.Claim{Limit: limit, Token: token})
				if len(got) != 25 {
					t.Errorf("with limit %d, %d of 25 %s ones were claimed when there was no more", limit, len(got), kind)
				}
				for _, c := range got {
					i.mustFinish(t, held{c, token}.outcome(db.Waiting))
				}
			}
			if kind == "waiting" {
				retryAll(t, i, 25, 0)
			}
		}
	})
}

func TestRetryingDeliveriesAreClaimedWhenTheyAreDue(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		ids := i.mustStore(t, notes(2)...)
		taken := i.take(t, lane, 2)
		soon, late := taken[0].outcome(db.Retrying), taken[1].outcome(db.Retrying)
		soon.Delay, late.Delay = 400*time.Millisecond, time.Hour
		began := time.Now()
		i.mustFinish(t, soon, late)
		if d := i.details(t, ids[1]); (d.DueAt.Sub(i.now(t)) - time.Hour).Abs() > time.Minute {
			t.Errorf("it is due at %s, want in an hour", d.DueAt)
		}
		for {
			some, more := i.claim(t, db.Claim{Limit: 10})
			took := time.Since(began)
			if len(some) == 1 && some[0].ID == ids[0] && some[0].Attempts == 1 && took >= 390*time.Millisecond {
				return
			}
			if len(some) > 0 || more || took > 20*time.Second {
				t.Fatalf("after %s, claimed %v, more %t, want %d after 400 ms", took, claimedIDs(some), more, ids[0])
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

func TestAClaimKeepsToItsBytes(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		large := func(n int) *db.NewNotification {
			one := note("workspace", "")
			one.Body = []byte(strings.Repeat("x", n))
			return one
		}
		for range 6 {
			i.mustStore(t, large(1000))
		}
		retryAll(t, i, 6, 0)
		for range 6 {
			i.mustStore(t, large(1000))
		}
		claimed := 0
		for claimed < 12 {
			some, more := i.claim(t, db.Claim{Limit: 300, MaxBytes: 3500})
			claimed += len(some)
			if len(some) == 0 || len(some) > 3 || more != (claimed < 12) {
				t.Fatalf("claimed %d deliveries of 1000 bytes with 3500 bytes, %d in all, more %t", len(some), claimed, more)
			}
			if left := len(i.listIDs(t, db.Filter{States: []db.State{db.Waiting, db.Retrying}})); left != 12-claimed {
				t.Fatalf("%d are left, want %d", left, 12-claimed)
			}
		}
		ids := i.mustStore(t, large(5000), large(10), large(10))
		some, more := i.claim(t, db.Claim{Limit: 10, MaxBytes: 1000})
		if !slices.Equal(claimedIDs(some), ids[:1]) || !more {
			t.Errorf("claimed %v, more %t, want the first alone, which is larger than the bytes", claimedIDs(some), more)
		}
		some, more = i.claim(t, db.Claim{Limit: 10, MaxBytes: 1000})
		if !slices.Equal(claimedIDs(some), ids[1:]) || more {
			t.Errorf("claimed %v, more %t, want the other two", claimedIDs(some), more)
		}
	})
}

func TestManyThatClaimAtOnceGetEachDeliveryOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		instances := d.startAll(t)
		const total = 600
		ids := instances[0].mustStore(t, notes(total)...)
		var mu sync.Mutex
		var got []int64
		var claimers sync.WaitGroup
		for n := range 8 {
			i := instances[n%len(instances)]
			claimers.Go(func() {
				for more := true; more; {
					token := newToken()
					var some []db.Claimed
					var err error
					some, more, err = i.Claim(t.Context(), db.Claim{Lane: db.Lane{Endpoint: endpoint, Name: lane}, Token: token, Limit: 7, MaxBytes: 1 << 20})
					if err != nil {
						t.Errorf("claiming: %v", err)
						return
					}
					outcomes := make([]db.Outcome, len(some))
					for k, c := range some {
						outcomes[k] = held{c, token}.outcome(db.Delivered)
					}
					if applied, err := i.Finish(t.Context(), outcomes); err != nil || len(applied) != len(some) {
						t.Errorf("finishing: %d of %d, %v", len(applied), len(some), err)
					}
					mu.Lock()
					got = append(got, claimedIDs(some)...)
					mu.Unlock()
				}
			})
		}
		claimers.Wait()
		got = append(got, claimedIDs(instances[0].claimAll(t, db.Claim{}))...) // what others had locked while they looked
		slices.Sort(got)
		if !slices.Equal(got, ids) {
			t.Errorf("%d were claimed, %d of them different, want %d", len(got), len(slices.Compact(slices.Clone(got))), total)
		}
	})
}

// storeOf stores notifications of workspaces, as in "a,a,b".
func (i *instance) storeOf(t *testing.T, workspaces string) []int64 {
	t.Helper()
	var batch []*db.NewNotification
	for workspace := range strings.SplitSeq(workspaces, ",") {
		batch = append(batch, note(workspace, ""))
	}
	return i.mustStore(t, batch...)
}

// wantClaims claims several times, and compares the workspaces, which are sorted.
func (i *instance) wantClaims(t *testing.T, c db.Claim, wants ...string) {
	t.Helper()
	for n, want := range wants {
		some, more := i.claim(t, c)
		if got := workspacesOf(some); got != want || !more && n < len(wants)-1 {
			t.Errorf("claim %d: deliveries of %q, want %q; more %t", n, got, want, more)
		}
	}
}

func workspacesOf(claimed []db.Claimed) string {
	var workspaces []string
	for _, c := range claimed {
		workspaces = append(workspaces, c.Notification.Workspace)
	}
	slices.Sort(workspaces)
	return strings.Join(workspaces, ",")
}

// times repeats the workspace.
func times(workspace string, n int) string {
	return strings.TrimSuffix(strings.Repeat(workspace+",", n), ",")
}

func TestFairQueueing(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, i *instance){
		"workspaces share a claim": func(t *testing.T, i *instance) {
			i.storeOf(t, times("burst", 50)+",b,c,b,d")
			i.wantClaims(t, db.Claim{Limit: 8}, "b,b,burst,burst,burst,burst,c,d", times("burst", 8))
		},
		"the one behind the last workspace is the first of the next claim": func(t *testing.T, i *instance) {
			i.storeOf(t, times("a", 9)+","+times("b", 9)+",c,c,d,d")
			i.wantClaims(t, db.Claim{Limit: 1}, "a", "b", "c", "d", "a", "b", "c", "d", "a", "b", "a")
			i.wantClaims(t, db.Claim{Limit: 3}, "a,b,b")
		},
		"a workspace that is gone is followed by the next one": func(t *testing.T, i *instance) {
			i.storeOf(t, "a,a,c,c,d")
			i.after[lane] = "b"
			i.wantClaims(t, db.Claim{Limit: 2}, "c,d", "a,c", "a")
			i.storeOf(t, "a,b")
			i.after[lane] = "z"
			i.wantClaims(t, db.Claim{Limit: 1}, "a", "b")
		},
		"another workspace's is claimed before a burst that was stored earlier": func(t *testing.T, i *instance) {
			i.storeOf(t, times("burst", 300))
			i.wantClaims(t, db.Claim{Limit: 20}, times("burst", 20))
			i.storeOf(t, "late")
			i.wantClaims(t, db.Claim{Limit: 20}, times("burst", 19)+",late")
		},
		"each workspace's are claimed in the order in which they were stored": func(t *testing.T, i *instance) {
			i.storeOf(t, times("a,b,c", 20))
			last := make(map[string]int64)
			for range 15 {
				some, _ := i.claim(t, db.Claim{Limit: 4})
				slices.SortFunc(some, func(a, b db.Claimed) int { return int(a.ID - b.ID) })
				for _, c := range some {
					workspace := c.Notification.Workspace
					if before := last[workspace]; before != 0 && c.ID != before+db.DeliveryID(3, 0) {
						t.Errorf("of %s, %d was claimed next to %d", workspace, c.ID, before)
					}
					last[workspace] = c.ID
				}
			}
		},
		"a thousand workspaces take turns with a small limit": func(t *testing.T, i *instance) {
			var batch []*db.NewNotification
			for n := range 2000 {
				batch = append(batch, note(fmt.Sprintf("w%03d", n*7%1000), ""))
			}
			i.mustStore(t, batch...)
			seen := make(map[string]int)
			for n := 0; n < 1000; {
				some, more := i.claim(t, db.Claim{Limit: 16})
				if len(some) != 16 || !more {
					t.Fatalf("after %d, claimed %d, more %t", n, len(some), more)
				}
				for _, c := range some {
					if n++; n <= 1000 && seen[c.Notification.Workspace] > 0 {
						t.Fatalf("%s had a second turn after %d", c.Notification.Workspace, n)
					}
					seen[c.Notification.Workspace]++
				}
			}
			if rest := i.claimAll(t, db.Claim{}); len(rest) != 2000-1008 {
				t.Errorf("%d were left, want 992", len(rest))
			}
		},
		"excepted ones take no turns": func(t *testing.T, i *instance) {
			ids := i.storeOf(t, "a,b,c,d,e,f,g,h,z,z,z,z")
			i.wantClaims(t, db.Claim{Limit: 2, Except: ids[:7]}, "h,z", "z,z", "z")
			i.wantClaims(t, db.Claim{Limit: 20, Except: ids[:6]}, "g")
			i.wantClaims(t, db.Claim{Limit: 20}, "a,b,c,d,e,f")
		},
		"the bytes of a claim are shared as well": func(t *testing.T, i *instance) {
			i.storeOf(t, "a,a,a,a,b,c")
			i.wantClaims(t, db.Claim{Limit: 6, MaxBytes: 1}, "a", "b", "c", "a", "a", "a")
		},
		"notifications without a workspace are a workspace": func(t *testing.T, i *instance) {
			i.storeOf(t, ",,,,,a,a")
			i.wantClaims(t, db.Claim{Limit: 4}, ",,a,a")
		},
		"due ones keep their half": func(t *testing.T, i *instance) {
			i.storeOf(t, times("a", 10))
			retryAll(t, i, 10, 0)
			i.storeOf(t, times("b", 20)+",c,d")
			some, more := i.claim(t, db.Claim{Limit: 10})
			if got := workspacesOf(some); !more || got != "a,a,a,a,a,b,b,b,c,d" {
				t.Errorf("claimed %q, more %t", got, more)
			}
		},
		"workspaces are compared by their bytes": func(t *testing.T, i *instance) {
			i.storeOf(t, "a,B,_,é,a,B,_,é") // of which databases have their own opinions
			i.wantClaims(t, db.Claim{Limit: 1}, "B", "_", "a", "é", "B", "_", "a", "é")
		},
	} {
		t.Run(name, func(t *testing.T) { eachDB(t, test) })
	}
}
