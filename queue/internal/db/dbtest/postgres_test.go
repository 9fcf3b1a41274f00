//go:build postgres

package dbtest_test

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/postgres"
)

// serverURL is of the server that .ci/postgres starts.
var serverURL = cmp.Or(os.Getenv("TEST_POSTGRES_URL"), "postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable")

func init() {
	engines["postgres"] = func(t *testing.T) *database {
		d, _ := newPostgres(t)
		return d
	}
}

// newPostgres makes a schema of its own, which is dropped when the test ends. All
// instances reach the server through the proxy.
func newPostgres(t *testing.T) (*database, *proxy) {
	t.Helper()
	schema := fmt.Sprintf("conformance_%d", rand.Uint64())
	plainURL, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	network := startProxy(t, plainURL.Host)
	proxied := *plainURL
	proxied.Host = network.Addr().String()
	query := plainURL.Query()
	query.Set("search_path", schema)
	plainURL.RawQuery = query.Encode()
	plain := connect(t, "pgx", plainURL.String())
	exec := func(t *testing.T, statement string, args ...any) {
		t.Helper()
		if _, err := plain.ExecContext(context.WithoutCancel(t.Context()), statement, args...); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
	t.Cleanup(func() {
		exec(t, "DROP SCHEMA IF EXISTS "+schema+" CASCADE")
		network.close()
	})
	return &database{
		shared: true,
		open: func(t *testing.T) (db.DB, error) {
			return postgres.Open(t.Context(), proxied.String(), schema, zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)))
		},
		leave: func(t *testing.T, instance string) {
			t.Helper()
			exec(t, "UPDATE instance SET beat_at = beat_at - interval '31 seconds' WHERE id = $1", instance)
			exec(t, "UPDATE instance SET steady_since = steady_since - interval '31 seconds'")
		},
		connect: func(*testing.T) *sql.DB { return plain },
	}, network
}

// exec runs a statement as an operator would.
func (d *database) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	if _, err := d.connect(t).ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// wantOthers compares which others an instance knows of.
func (i *instance) wantOthers(t *testing.T, others ...*instance) {
	t.Helper()
	peers, err := i.Heartbeat(t.Context(), presence(i))
	if err != nil {
		t.Fatal(err)
	}
	got, want := make(map[string]string), make(map[string]string)
	for _, p := range peers.Others {
		got[p.Instance] = fmt.Sprintf("%+v", p)
	}
	for _, other := range others {
		p := presence(other)
		p.Instance = other.Instance()
		want[p.Instance] = fmt.Sprintf("%+v", p)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || peers.Exclusive {
		t.Errorf("%s knows of %v, want %v", i.Instance(), got, want)
	}
}

func presence(i *instance) db.Presence {
	return db.Presence{
		Version: "v1", Lanes: []db.Lane{{Endpoint: endpoint, Name: lane}, {Endpoint: "other", Name: "of"}},
		Configs: map[string]string{endpoint: "hash of " + i.Instance()},
	}
}

// holding makes an instance hold three deliveries: one that was handed over, and two that
// were claimed, for a first attempt and a second one.
func holding(t *testing.T, i *instance) (ids []int64, taken []held) {
	t.Helper()
	first := i.mustStore(t, note("workspace", "second attempt"))
	i.mustFinish(t, i.mustClaim(t, first[0]).outcome(db.Retrying))
	handed := note("workspace", "handed")
	handed.Deliveries[0].Token = newToken()
	ids = slices.Concat(first, i.mustStore(t, note("workspace", "first attempt"), handed))
	return ids, append(i.take(t, lane, 2), held{db.Claimed{ID: ids[2]}, handed.Deliveries[0].Token})
}

func (i *instance) wantHolding(t *testing.T, ids []int64) {
	t.Helper()
	for n, attempts := range []int{1, 0, 0} {
		i.wantState(t, ids[n], db.Delivering, attempts)
	}
}

func (i *instance) wantReleased(t *testing.T, ids []int64) {
	t.Helper()
	i.wantState(t, ids[0], db.Retrying, 1)
	i.wantState(t, ids[1], db.Waiting, 0)
	i.wantState(t, ids[2], db.Waiting, 0)
}

func (i *instance) wantTakenOver(t *testing.T, want int64) {
	t.Helper()
	if n, err := i.TakeOver(t.Context()); n != want || err != nil {
		t.Errorf("%d were taken over (%v), want %d", n, err, want)
	}
}

func TestPostgresInstances(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, d *database, one, two *instance){
		"those that live know each other": func(t *testing.T, _ *database, one, two *instance) {
			for range 2 {
				two.wantOthers(t, one)
				one.wantOthers(t, two)
			}
			if one.Instance() == two.Instance() {
				t.Error("both have one name")
			}
		},
		"one that has closed the database is not known any more": func(t *testing.T, _ *database, one, two *instance) {
			if err := one.Close(); err != nil {
				t.Fatal(err)
			}
			two.wantOthers(t)
		},
		"what one that was killed was delivering is released": func(t *testing.T, d *database, one, two *instance) {
			ids, taken := holding(t, one)
			two.wantTakenOver(t, 0)
			d.leave(t, one.Instance())
			two.wantTakenOver(t, 3)
			two.wantReleased(t, ids)
			two.wantOthers(t)
			two.take(t, lane, 3)
			for _, h := range taken {
				for _, state := range []db.State{db.Delivered, db.Retrying, db.Waiting} {
					if applied := one.finish(t, h.outcome(state)); len(applied) > 0 {
						t.Errorf("the late one finished delivery %d as %s", h.ID, state)
					}
				}
			}
			if held, err := one.Held(t.Context()); err != nil || len(held) > 0 {
				t.Errorf("the late one holds %v (%v)", held, err)
			}
			one.wantOthers(t, two) // it is back
			two.wantOthers(t, one)
		},
		"nothing is released before it is gone": func(t *testing.T, d *database, one, two *instance) {
			ids, _ := holding(t, one)
			d.leave(t, two.Instance()) // which makes one steady, too
			two.wantOthers(t, one)
			d.exec(t, "UPDATE instance SET beat_at = beat_at - interval '25 seconds' WHERE id = $1", one.Instance())
			d.exec(t, "UPDATE instance SET steady_since = now() - interval '1 hour'")
			two.wantTakenOver(t, 0)
			two.wantHolding(t, ids)
		},
		"one whose own heartbeat was late takes over nothing": func(t *testing.T, d *database, one, two *instance) {
			ids, _ := holding(t, one)
			d.leave(t, one.Instance())
			d.leave(t, two.Instance())
			two.wantTakenOver(t, 0)
			two.wantOthers(t, one) // it has been away: so may all have been
			two.wantTakenOver(t, 0)
			one.wantHolding(t, ids)
		},
		"a step of the clock takes over nothing": func(t *testing.T, d *database, one, two *instance) {
			ids, _ := holding(t, one)
			for _, step := range []string{"- interval '3 hours'", "- interval '40 seconds'", "- interval '2 days'", "+ interval '3 hours'"} {
				for _, first := range []*instance{one, two} {
					second := map[*instance]*instance{one: two, two: one}[first]
					d.exec(t, "UPDATE instance SET steady_since = now() - interval '1 hour', beat_at = now()")
					d.exec(t, "UPDATE instance SET beat_at = beat_at "+step+", steady_since = steady_since "+step)
					d.exec(t, "UPDATE delivery SET stored_at = stored_at "+step+", age_from = age_from "+step+", due_at = due_at "+step)
					second.wantTakenOver(t, 0)
					first.wantOthers(t, second)
					first.wantTakenOver(t, 0)
					second.wantOthers(t, first)
					second.wantTakenOver(t, 0)
					one.wantHolding(t, ids)
				}
			}
		},
		"what nobody known is delivering is released": func(t *testing.T, d *database, one, two *instance) {
			ids, _ := holding(t, one)
			d.leave(t, one.Instance())
			d.exec(t, "DELETE FROM instance WHERE id = $1", one.Instance())
			two.wantTakenOver(t, 3)
			two.wantReleased(t, ids)
		},
		"instances that are gone are forgotten after a day": func(t *testing.T, d *database, one, two *instance) {
			d.leave(t, one.Instance())
			two.wantTakenOver(t, 0)
			if n := d.count(t, "instance"); n != 2 {
				t.Errorf("%d instances are known, want 2", n)
			}
			d.exec(t, "UPDATE instance SET beat_at = beat_at - interval '25 hours' WHERE id = $1", one.Instance())
			two.wantTakenOver(t, 0)
			if n := d.count(t, "instance"); n != 1 {
				t.Errorf("%d instances are known, want 1", n)
			}
		},
		"a pause is known to the other one": func(t *testing.T, _ *database, one, two *instance) {
			if err := one.SetPaused(t.Context(), db.Lane{Endpoint: endpoint, Name: lane}, true); err != nil {
				t.Fatal(err)
			}
			if got, err := two.Paused(t.Context()); err != nil || len(got) != 1 {
				t.Errorf("paused are %v (%v)", got, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := newPostgres(t)
			one, two := d.start(t), d.start(t)
			for _, i := range []*instance{one, two, one} {
				if _, err := i.Heartbeat(t.Context(), presence(i)); err != nil {
					t.Fatal(err)
				}
			}
			test(t, d, one, two)
		})
	}
}

func TestPostgresHeartbeatsHaveATimeLimit(t *testing.T) {
	d, network := newPostgres(t)
	i := d.start(t)
	i.now(t)
	network.stall()
	began := time.Now()
	if _, err := i.Heartbeat(t.Context(), db.Presence{}); err == nil {
		t.Error("a heartbeat succeeded while nothing passed")
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	network.resume()
	i.now(t)
}

// A reply is lost after the transaction has committed. An engine may try a call again whose
// second run changes nothing; whatever it returns, the database is right afterwards.
func TestPostgresLostReplies(t *testing.T) {
	losing := func(t *testing.T, network *proxy, do func(ctx context.Context)) {
		t.Helper()
		network.loseCommits()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		do(ctx)
		if !network.hasLost() {
			t.Error("no reply was lost")
		}
		network.resume()
	}
	t.Run("of a store", func(t *testing.T) {
		d, network := newPostgres(t)
		i := d.start(t)
		batch := []*db.NewNotification{inLanes(note("workspace", "1"), lane, "copy"), note("workspace", "2")}
		token := newToken()
		batch[0].Deliveries[1].Token = token
		losing(t, network, func(ctx context.Context) {
			if stored, err := i.Store(ctx, func() []*db.NewNotification { return batch }); err == nil {
				t.Errorf("stored %+v although the reply was lost", stored)
			}
		})
		for n, s := range i.store(t, batch...) { // Intercom sends it again
			if !s.Duplicate {
				t.Errorf("notification %d was stored twice", n)
			}
		}
		if n := len(i.listIDs(t, db.Filter{})); n != 3 {
			t.Errorf("there are %d deliveries, want 3", n)
		}
		if held, err := i.Held(t.Context()); err != nil || len(held) != 1 || held[0].Token != token {
			t.Errorf("held are %v (%v), want the copy", held, err)
		}
	})
	t.Run("of a claim", func(t *testing.T) {
		d, network := newPostgres(t)
		i := d.start(t)
		ids := i.mustStore(t, notes(3)...)
		token := newToken()
		losing(t, network, func(ctx context.Context) {
			if _, _, err := i.Claim(ctx, db.Claim{Lane: db.Lane{Endpoint: endpoint, Name: lane}, Token: token, Limit: 10, MaxBytes: 1 << 20}); err == nil {
				t.Error("claimed although the reply was lost")
			}
		})
		lost, err := i.Held(t.Context())
		if err != nil || len(lost) != 3 {
			t.Fatalf("held are %v (%v), want 3", lost, err)
		}
		for _, h := range lost {
			i.mustFinish(t, db.Outcome{ID: h.ID, Token: token, State: db.Waiting})
		}
		if taken := i.take(t, lane, 3); !slices.Equal(heldIDs(taken), ids) || taken[0].Attempts != 0 {
			t.Errorf("claimed %v, want %v", heldIDs(taken), ids)
		}
	})
	for _, state := range []db.State{db.Delivered, db.Retrying, db.Dead, db.Waiting} {
		t.Run("of a finish as "+string(state), func(t *testing.T) {
			d, network := newPostgres(t)
			i, other := d.start(t), d.start(t)
			id := i.mustStore(t, note("workspace", ""))[0]
			o := i.mustClaim(t, id).outcome(state)
			losing(t, network, func(ctx context.Context) {
				if applied, err := i.Finish(ctx, []db.Outcome{o}); err == nil && len(applied) > 0 {
					t.Error("it is said to have had an effect although the reply was lost")
				}
			})
			ended := i.details(t, id)
			if ended.State != state {
				t.Errorf("it is %+v, want it %s", ended, state)
			}
			if applied := i.finish(t, o); len(applied) != 0 {
				t.Error("the outcome had an effect twice")
			}
			if again := i.details(t, id); again.Delivery != ended.Delivery || len(again.History) != len(ended.History) {
				t.Errorf("it was %+v, and is %+v", ended, again)
			}
			if state == db.Waiting || state == db.Retrying {
				second := other.mustClaim(t, id)
				if applied := i.finish(t, o); len(applied) != 0 {
					t.Error("the outcome had an effect on another one's claim")
				}
				other.mustFinish(t, second.outcome(db.Delivered))
			}
		})
	}
}

// Connections are cut while two instances store, claim and finish. In the end, all that was
// acknowledged has been delivered, and once: a finish whose reply was lost is tried again.
func TestPostgresLosesNothingWhenConnectionsAreCut(t *testing.T) {
	d, network := newPostgres(t)
	instances := []*instance{d.start(t), d.start(t)}
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	var working sync.WaitGroup
	var mu sync.Mutex
	acknowledged, delivered := make(map[int64]bool), make(map[int64]int)
	var failures atomic.Int32
	for n := range 4 {
		i := instances[n%2]
		working.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				batch := notes(3)
				batch[0].NotificationID = fmt.Sprint(n, k)
				stored, err := i.Store(t.Context(), func() []*db.NewNotification { return batch })
				if err != nil {
					failures.Add(1)
					continue
				}
				mu.Lock()
				for _, s := range stored {
					acknowledged[db.DeliveryID(s.ID, 0)] = true
				}
				mu.Unlock()
			}
		})
		working.Go(func() {
			for ctx.Err() == nil {
				token := newToken()
				claimed, _, err := i.Claim(t.Context(), db.Claim{Lane: db.Lane{Endpoint: endpoint, Name: lane}, Token: token, Limit: 5, MaxBytes: 1 << 20})
				if err != nil {
					failures.Add(1)
					continue
				}
				var outcomes []db.Outcome
				mu.Lock()
				for _, c := range claimed {
					delivered[c.ID]++
					outcomes = append(outcomes, held{c, token}.outcome(db.Delivered))
				}
				mu.Unlock()
				for { // until it is known
					if _, err := i.Finish(t.Context(), outcomes); err == nil {
						break
					}
					failures.Add(1)
				}
			}
		})
	}
	working.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			time.Sleep(30 * time.Millisecond)
			switch n % 3 {
			case 0:
				network.cut()
			case 1:
				network.loseCommits()
			case 2:
				network.resume()
			}
		}
		network.resume()
	})
	working.Wait()
	for _, i := range instances { // all finishes are known, so whatever is left was claimed by a lost reply
		lost, err := i.Held(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var outcomes []db.Outcome
		for _, h := range lost {
			if delivered[h.ID] > 0 {
				t.Errorf("delivery %d was delivered, and is still held", h.ID)
			}
			outcomes = append(outcomes, db.Outcome{ID: h.ID, Token: h.Token, State: db.Waiting})
		}
		i.mustFinish(t, outcomes...)
	}
	for _, c := range instances[0].claimAll(t, db.Claim{}) {
		if delivered[c.ID]++; c.Attempts != 0 {
			t.Errorf("delivery %d had %d attempts, want none", c.ID, c.Attempts)
		}
	}
	for _, id := range instances[0].listIDs(t, db.Filter{}) {
		if delivered[id] != 1 {
			t.Errorf("delivery %d was delivered %d times", id, delivered[id])
		}
		delete(acknowledged, id)
	}
	delete(acknowledged, 0) // duplicates of what was stored without a reply
	if len(acknowledged) > 0 {
		t.Errorf("%d were acknowledged, and are lost", len(acknowledged))
	}
	if len(delivered) == 0 || failures.Load() == 0 {
		t.Errorf("%d were delivered, and %d calls failed: it tested nothing", len(delivered), failures.Load())
	}
}
