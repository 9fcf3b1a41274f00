//go:build postgres

package jobdb

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/tcpproxy"
)

// A reply is lost after the transaction has committed. Nobody knows then of what it has
// claimed, but OwnRunning does.
func TestPostgresLostReplies(t *testing.T) {
	schema := newPostgresSchema(t)
	losing := func(t *testing.T, i *instance, do func() error) {
		t.Helper()
		i.lose()
		err := do()
		i.heal()
		if err == nil {
			t.Fatal("no error, although the reply was lost")
		}
	}
	// released asserts that these jobs, and no others, are marked as running, and releases them.
	released := func(t *testing.T, i *instance, token Token, ids ...int64) {
		t.Helper()
		running, err := i.OwnRunning(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		var outcomes []Outcome
		for _, r := range running {
			got = append(got, r.ID)
			if r.Token != token {
				t.Errorf("%+v, want token %d", r, token)
			}
			outcomes = append(outcomes, Outcome{ID: r.ID, Token: r.Token, State: StateAvailable})
		}
		slices.Sort(got)
		if !slices.Equal(got, ids) {
			t.Errorf("%v are running, want %v", got, ids)
		}
		i.mustFinish(t, outcomes...)
	}

	t.Run("of a store", func(t *testing.T) {
		d := schema.empty(t)
		i := d.open(t)
		jobs := newJobs(4)
		token := newToken()
		for n, j := range jobs {
			j.UniqueKey = fmt.Appendf(nil, "%d", n)
			if n < 2 {
				j.Token = token
			}
		}
		losing(t, i, func() error {
			_, err := i.Store(t.Context(), func() []*NewJob { return jobs })
			return err
		})
		rows := d.rows(t)
		if len(rows) != 4 {
			t.Fatalf("%d rows, want 4", len(rows))
		}
		for n, s := range i.store(t, jobs...) { // as Intercom does
			if !s.Duplicate {
				t.Errorf("job %d, sent again: %+v, want a duplicate", n, s)
			}
		}
		released(t, i, token, rows[0].id, rows[1].id)
		if jobs := i.claimAll(t); len(jobs) != 4 {
			t.Errorf("claimed %+v, want all", jobs)
		}
	})
	t.Run("of a claim", func(t *testing.T) {
		d := schema.empty(t)
		i := d.open(t)
		ids := i.mustStore(t, newJobs(4)...)
		jobs := claimN(t, i, 2)
		slices.SortFunc(jobs, func(a, b Job) int { return int(a.ID - b.ID) })
		i.mustFinish(t, jobs[0].outcome(StateRetryable), jobs[1].outcome(StateRetryable))
		before := d.rows(t)
		token := newToken()
		i.DB.(*postgresDB).fair.Store(false) // or what is lost is the reply to the question for workspaces
		losing(t, i, func() error {
			_, _, err := i.Claim(t.Context(), Claim{Queue: testQueue, Token: token, Limit: 10, MaxBytes: 1 << 20})
			return err
		})
		released(t, i, token, ids...)
		for n, r := range d.rows(t) {
			if r.state != before[n].state || r.attempt != before[n].attempt || !slices.Equal(r.attemptedBy, before[n].attemptedBy) {
				t.Errorf("it was %+v, and is %+v", before[n], r)
			}
		}
	})
	for _, state := range []State{StateCompleted, StateRetryable, StateDiscarded, StateCancelled, StateAvailable} {
		t.Run("of a finish as "+string(state), func(t *testing.T) {
			d := schema.empty(t)
			i, other := d.open(t), d.open(t)
			id := i.mustStore(t, newJob(0))[0]
			first := i.mustClaim(t, id)
			o := first.outcome(state)
			losing(t, i, func() error {
				_, err := i.Finish(t.Context(), []Outcome{o})
				return err
			})
			ended := find(t, d, id)
			if ended.state != state {
				t.Errorf("it is %+v, want it %s", ended, state)
			}
			if applied := i.finish(t, o); len(applied) != 0 {
				t.Error("the outcome had an effect twice")
			}
			if again := find(t, d, id); again.errors != ended.errors || again.attempt != ended.attempt || again.due > ended.due {
				t.Errorf("it was %+v, and is %+v", ended, again)
			}
			if !state.Unfinished() {
				return
			}
			second := other.mustClaim(t, id)
			if applied := i.finish(t, o); len(applied) != 0 {
				t.Error("the outcome had an effect on another one's claim")
			}
			if r := find(t, d, id); r.state != StateRunning || r.holder() != other.holder(second.Token) {
				t.Errorf("it is %+v", r)
			}
			other.mustFinish(t, second.outcome(StateCompleted))
		})
	}
	t.Run("while the server goes on", func(t *testing.T) {
		d := schema.empty(t)
		i, proxy := d.openThrough(t)
		ids := i.mustStore(t, newJobs(3)...)
		if _, err := i.OwnRunning(t.Context()); err != nil { // there is a connection
			t.Fatal(err)
		}
		proxy.Stall(tcpproxy.Replies)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		token := newToken()
		if _, _, err := i.Claim(ctx, Claim{Queue: testQueue, Token: token, Limit: 10, MaxBytes: 1 << 20}); err == nil {
			t.Error("claiming succeeded without a reply")
		}
		proxy.Cut()
		proxy.Resume()
		running, err := i.OwnRunning(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(running) > 0 { // or else the claim did not get that far
			released(t, i, token, ids...)
		}
		if got := idsOf(i.claimAll(t)); !slices.Equal(got, ids) {
			t.Errorf("claimed %v, want %v", got, ids)
		}
	})
}

// fleet is some instances that beat every five seconds.
type fleet struct {
	t         *testing.T
	instances []*instance
}

func (f fleet) beat(i *instance) Fleet {
	f.t.Helper()
	known, err := i.Beat(f.t.Context(), Presence{Queues: []string{"of " + i.Instance()}, Configs: map[string]string{"intercom": i.Instance()}})
	if err != nil {
		f.t.Fatalf("beating: %v", err)
	}
	return known
}

// pass lets time pass, in which all of the fleet beat and rescue. It returns how many jobs
// were rescued.
func (f fleet) pass(duration time.Duration) (rescued int64) {
	f.t.Helper()
	for range duration / (5 * time.Second) {
		passTime(5 * time.Second)
		for _, i := range f.instances {
			f.beat(i)
			rescued += mustRescue(f.t, i)
		}
	}
	return rescued
}

func mustRescue(t *testing.T, i *instance) int64 {
	t.Helper()
	n, err := i.Rescue(t.Context())
	if err != nil {
		t.Fatalf("rescuing: %v", err)
	}
	return n
}

func (f fleet) wantOthers(of *instance, want ...*instance) {
	f.t.Helper()
	var got, names []string
	for _, other := range f.beat(of).Others {
		name := other.Configs["intercom"]
		got = append(got, name)
		if !slices.Equal(other.Queues, []string{"of " + name}) {
			f.t.Errorf("%s works on %v", name, other.Queues)
		}
	}
	for _, i := range want {
		names = append(names, i.Instance())
	}
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		f.t.Errorf("%s knows of %v, want %v", of.Instance(), got, names)
	}
}

// Time passes by the engine's own clock, see passTime.
func TestPostgresLiveness(t *testing.T) {
	schema := newPostgresSchema(t)
	run := func(name string, test func(t *testing.T, d *postgresSchema, one, two *instance)) {
		t.Run(name, func(t *testing.T) {
			d := schema.empty(t)
			test(t, d, d.open(t), d.open(t))
		})
	}
	// running makes one hold jobs, by a store and by claims: of a first and a second attempt
	running := func(t *testing.T, one *instance) (ids []int64, held []Job) {
		t.Helper()
		handed, second := newJob(0), newJob(1)
		handed.Token = newToken()
		ids = one.mustStore(t, handed)
		ids = append(ids, one.mustStore(t, second)...)
		one.mustFinish(t, one.mustClaim(t, ids[1]).outcome(StateRetryable))
		ids = append(ids, one.mustStore(t, newJob(2))...)
		held = claimN(t, one, 2)
		return ids, append(held, Job{ID: ids[0], Token: handed.Token, Attempt: 1})
	}
	wantReleased := func(t *testing.T, d database, ids []int64) {
		t.Helper()
		wantState(t, d, ids[0], StateAvailable, 0)
		wantState(t, d, ids[1], StateRetryable, 1)
		wantState(t, d, ids[2], StateAvailable, 0)
	}
	wantHeld := func(t *testing.T, d database, ids []int64) {
		t.Helper()
		for n, attempt := range []int{1, 2, 1} {
			wantState(t, d, ids[n], StateRunning, attempt)
		}
	}

	run("those that live know each other", func(t *testing.T, _ *postgresSchema, one, two *instance) {
		f := fleet{t, []*instance{one, two}}
		f.beat(two)
		f.wantOthers(one, two)
		f.wantOthers(two, one)
		f.pass(2 * time.Minute)
		f.wantOthers(one, two)
	})
	run("what a killed one was delivering is released after half a minute", func(t *testing.T, d *postgresSchema, one, two *instance) {
		f := fleet{t, []*instance{one, two}}
		ids, _ := running(t, one)
		if n := f.pass(time.Minute); n != 0 {
			t.Errorf("%d were rescued although all live", n)
		}
		one.die()
		f.instances = []*instance{two}
		if n := f.pass(GoneAfter - 10*time.Second); n != 0 {
			t.Errorf("%d were rescued too early", n)
		}
		wantHeld(t, d, ids)
		f.wantOthers(two, one)
		if n := f.pass(20 * time.Second); n != 3 {
			t.Errorf("%d were rescued, want 3", n)
		}
		wantReleased(t, d, ids)
		f.wantOthers(two)
	})
	run("what one that was closed was delivering is released", func(t *testing.T, d *postgresSchema, one, two *instance) {
		f := fleet{t, []*instance{one, two}}
		ids, _ := running(t, one)
		f.pass(time.Minute)
		if err := one.Close(); err != nil {
			t.Fatal(err)
		}
		f.instances = []*instance{two}
		f.wantOthers(two)
		if n := f.pass(GoneAfter + 10*time.Second); n != 3 {
			t.Errorf("%d were rescued, want 3", n)
		}
		wantReleased(t, d, ids)
	})
	run("a late heartbeat costs the claims, and the outcomes do not count", func(t *testing.T, d *postgresSchema, one, two *instance) {
		f := fleet{t, []*instance{one, two}}
		ids, held := running(t, one)
		f.pass(time.Minute)
		f.instances = []*instance{two}
		f.pass(GoneAfter + 10*time.Second)
		wantReleased(t, d, ids)
		taken := two.claimAll(t)
		for _, j := range held {
			for _, state := range []State{StateCompleted, StateRetryable, StateAvailable} {
				if applied := one.finish(t, j.outcome(state)); len(applied) > 0 {
					t.Errorf("the late one finished job %d as %s", j.ID, state)
				}
			}
		}
		if own, err := one.OwnRunning(t.Context()); err != nil || len(own) > 0 {
			t.Errorf("the late one holds %+v (%v)", own, err)
		}
		if len(taken) != 3 {
			t.Errorf("the other one has claimed %+v", taken)
		}
		f.wantOthers(one, two) // it is back
		f.wantOthers(two, one)
		f.instances = []*instance{one, two}
		if n := f.pass(time.Minute); n != 0 {
			t.Errorf("%d were rescued although all live", n)
		}
	})
	run("nobody is gone after all were away", func(t *testing.T, d *postgresSchema, one, two *instance) {
		f := fleet{t, []*instance{one, two}}
		ids, _ := running(t, one)
		f.pass(time.Minute)
		for range 5 {
			passTime(time.Minute) // in which the server cannot be reached
			for n := range 3 {
				f.beat(two) // and one comes back earlier than the other
				if rescued := mustRescue(t, two); rescued != 0 {
					t.Errorf("%d were rescued", rescued)
				}
				if n < 2 {
					passTime(9 * time.Second)
				}
			}
			f.beat(one)
			if rescued := mustRescue(t, one); rescued != 0 {
				t.Errorf("%d were rescued", rescued)
			}
			wantHeld(t, d, ids)
			f.wantOthers(one, two)
		}
	})
	run("one that has not beaten rescues nothing", func(t *testing.T, d *postgresSchema, one, two *instance) {
		ids, _ := running(t, one)
		fleet{t, []*instance{one}}.pass(10 * time.Second)
		for range 10 {
			passTime(time.Minute)
			if n := mustRescue(t, two); n != 0 {
				t.Errorf("%d were rescued", n)
			}
		}
		wantHeld(t, d, ids)
	})
	run("steps of the database's clock make nobody gone", func(t *testing.T, d *postgresSchema, one, two *instance) {
		f := fleet{t, []*instance{one, two}}
		ids, _ := running(t, one)
		f.pass(time.Minute)
		for _, step := range []string{"+ interval '3 hours'", "- interval '3 hours'", "- interval '2 days'"} {
			d.exec(t, "UPDATE intercom_webhook_instance SET updated_at = updated_at "+step)
			d.exec(t, "UPDATE river_job SET attempted_at = attempted_at "+step+", created_at = created_at "+step+", scheduled_at = scheduled_at "+step)
			f.wantOthers(two, one)
			if n := f.pass(10 * time.Second); n != 0 {
				t.Errorf("%d were rescued", n)
			}
			f.wantOthers(one, two)
		}
		wantHeld(t, d, ids)
		// and it is noticed all the same who is gone
		d.exec(t, "UPDATE intercom_webhook_instance SET updated_at = updated_at + interval '3 hours'")
		one.die()
		f.instances = []*instance{two}
		if n := f.pass(GoneAfter + 10*time.Second); n != 3 {
			t.Errorf("%d were rescued, want 3", n)
		}
	})
	run("jobs of instances that nobody knows are released", func(t *testing.T, d *postgresSchema, one, two *instance) {
		f := fleet{t, []*instance{two}}
		ids, _ := running(t, one)
		d.exec(t, "UPDATE river_job SET attempted_by[array_upper(attempted_by, 1)] = '1c9b1b7e-old' WHERE id = "+fmt.Sprint(ids[0])) // as the version before
		d.exec(t, "UPDATE river_job SET attempted_by = NULL WHERE id = "+fmt.Sprint(ids[2]))
		d.exec(t, "DELETE FROM intercom_webhook_instance")
		if n := f.pass(GoneAfter - 10*time.Second); n > 1 {
			t.Errorf("%d were rescued too early", n)
		}
		wantState(t, d, ids[0], StateRunning, 1)
		wantState(t, d, ids[1], StateRunning, 2)
		f.pass(20 * time.Second)
		wantReleased(t, d, ids)
	})
	run("instances are forgotten after a day", func(t *testing.T, d *postgresSchema, one, two *instance) {
		f := fleet{t, []*instance{one, two}}
		f.pass(10 * time.Second)
		one.die()
		f.instances = []*instance{two}
		d.exec(t, "UPDATE intercom_webhook_instance SET updated_at = updated_at - interval '25 hours' WHERE id = '"+one.Instance()+"'")
		f.pass(GoneAfter + 30*time.Second)
		var n int
		if err := d.pool.QueryRow(t.Context(), "SELECT count(*) FROM intercom_webhook_instance").Scan(&n); err != nil || n != 1 {
			t.Errorf("%d instances (%v), want 1", n, err)
		}
	})
	for _, c := range postgresBroken {
		run("a malformed row does not keep others from being rescued: "+c.name, func(t *testing.T, d *postgresSchema, one, two *instance) {
			f := fleet{t, []*instance{one, two}}
			ids, _ := running(t, one)
			bad := one.mustStore(t, newJob(3))[0]
			one.mustClaim(t, bad)
			f.pass(time.Minute)
			c.spoil(t, d, bad)
			one.die()
			f.instances = []*instance{two}
			f.pass(GoneAfter + 10*time.Second)
			wantReleased(t, d, ids)
			if r := find(t, d, bad); r.state == StateRunning {
				t.Errorf("the malformed job is %+v", r)
			}
		})
	}
	run("a heartbeat has a time limit", func(t *testing.T, d *postgresSchema, _, _ *instance) {
		stalled, proxy := d.openThrough(t)
		fleet{t, nil}.beat(stalled)
		proxy.Stall(tcpproxy.Both)
		began := time.Now()
		if _, err := stalled.Beat(t.Context(), Presence{}); err == nil {
			t.Error("a heartbeat succeeded while nothing passed")
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
		proxy.Resume()
		fleet{t, nil}.beat(stalled)
	})
}

// Connections are cut while two instances store, claim and finish. In the end, all that
// was acknowledged has been delivered, and only what may have been: an outcome whose reply
// was lost is tried again.
func TestPostgresLosesNothingWhenConnectionsAreCut(t *testing.T) {
	d := newPostgresSchema(t)
	var proxies []*tcpproxy.Proxy
	var instances []*instance
	for range 2 {
		i, proxy := d.openThrough(t)
		instances, proxies = append(instances, i), append(proxies, proxy)
	}
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	var working, cutting sync.WaitGroup
	var mu sync.Mutex
	acknowledged, delivered := make(map[int64]bool), make(map[int64]int)
	var failures atomic.Int32
	for n := range 4 {
		i := instances[n%2]
		working.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				jobs := newJobs(3)
				for m, j := range jobs {
					j.UniqueKey = fmt.Appendf(nil, "%d %d %d", n, k, m)
				}
				stored, err := i.Store(t.Context(), func() []*NewJob { return jobs })
				if err != nil {
					failures.Add(1)
					continue
				}
				mu.Lock()
				for _, s := range stored {
					acknowledged[s.ID] = true
				}
				mu.Unlock()
			}
		})
		working.Go(func() {
			for ctx.Err() == nil {
				token := newToken()
				jobs, _, err := i.Claim(t.Context(), Claim{Queue: testQueue, Token: token, Limit: 5, MaxBytes: 1 << 20})
				if err != nil {
					failures.Add(1)
					continue
				}
				var outcomes []Outcome
				mu.Lock()
				for _, j := range jobs {
					delivered[j.ID]++
					outcomes = append(outcomes, j.outcome(StateCompleted))
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
	cutting.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			time.Sleep(30 * time.Millisecond)
			switch n % 4 {
			case 0, 1:
				proxies[n%2].Cut()
			case 2:
				proxies[n/4%2].DropReplies(committed)
			case 3:
				proxies[0].Resume()
				proxies[1].Resume()
			}
		}
		proxies[0].Resume()
		proxies[1].Resume()
	})
	working.Wait()
	cutting.Wait()
	// all finishes are known, so whatever is left was claimed by a lost reply
	for _, i := range instances {
		running, err := i.OwnRunning(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var outcomes []Outcome
		for _, r := range running {
			if delivered[r.ID] > 0 {
				t.Errorf("job %d was delivered, and is still running", r.ID)
			}
			outcomes = append(outcomes, Outcome{ID: r.ID, Token: r.Token, State: StateAvailable})
		}
		i.mustFinish(t, outcomes...)
	}
	for _, j := range instances[0].claimAll(t) {
		delivered[j.ID]++
		if j.Attempt != 1 {
			t.Errorf("job %d is at attempt %d, want 1", j.ID, j.Attempt)
		}
	}
	t.Logf("%d acknowledged, %d delivered, %d calls failed", len(acknowledged), len(delivered), failures.Load())
	for id := range acknowledged {
		if delivered[id] != 1 && id != 0 {
			t.Errorf("job %d was acknowledged, and delivered %d times", id, delivered[id])
		}
	}
	for _, r := range d.rows(t) {
		if delivered[r.id] != 1 {
			t.Errorf("it was delivered %d times: %+v", delivered[r.id], r)
		}
	}
	if len(acknowledged) == 0 || failures.Load() == 0 {
		t.Error("nothing was stored, or no connection was cut")
	}
}
