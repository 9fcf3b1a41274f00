package jobdb

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

var faultBehaviours = []behaviour{
	{"rescuing leaves alone what this process is delivering", on(func(t *testing.T, d database, i *instance) {
		handed := newJob(0)
		handed.Token = newToken()
		i.mustStore(t, handed, newJob(1))
		i.claimAll(t)
		for range 3 {
			if _, err := i.Beat(t.Context(), Presence{Queues: []string{testQueue}}); err != nil {
				t.Fatal(err)
			}
			if n, err := i.Rescue(t.Context()); n != 0 || err != nil {
				t.Errorf("%d were rescued (%v)", n, err)
			}
		}
		for _, r := range d.rows(t) {
			wantState(t, d, r.id, StateRunning, 1)
		}
	})},
	{"the clock steps back", on(func(t *testing.T, d database, i *instance) {
		ids := i.mustStore(t, newJobs(5)...)
		jobs := claimN(t, i, 5)
		slices.SortFunc(jobs, func(a, b Job) int { return int(a.ID - b.ID) })
		fresh, due, waiting, held, cut := ids[0], ids[1], ids[2], jobs[3], jobs[4]
		later := jobs[2].outcome(StateRetryable)
		later.Delay = 10 * time.Minute
		i.mustFinish(t, jobs[0].outcome(StateAvailable), jobs[1].outcome(StateRetryable), later)

		d.shift(t, 3*time.Hour, "true", "created_at", "scheduled_at", "attempted_at")
		if again := i.mustClaim(t, fresh); again.Attempt != 1 {
			t.Errorf("attempt %d, want 1", again.Attempt)
		}
		if n, err := i.Rescue(t.Context()); n != 0 || err != nil {
			t.Errorf("%d were rescued (%v)", n, err)
		}
		last := cut.outcome(StateRetryable) // it was claimed before the step, and fails after it
		last.Delay = 10 * time.Minute
		i.mustFinish(t, last)
		if _, err := i.Reclock(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, id := range []int64{waiting, cut.ID} {
			if r := find(t, d, id); r.due < 9*time.Minute || r.due > 11*time.Minute || r.state != StateRetryable || r.attempt != 1 {
				t.Errorf("after the step, %d is %+v, want it due in 10 minutes", id, r)
			}
		}
		if r := find(t, d, due); r.due > 10*time.Second {
			t.Errorf("what was due is due in %s", r.due)
		}
		d.shift(t, -10*time.Second, fmt.Sprintf("id = %d", due), "scheduled_at", "attempted_at")
		i.mustClaim(t, due)
		if n, err := i.Reclock(t.Context()); n != 0 || err != nil {
			t.Errorf("%d were changed once more (%v)", n, err)
		}
		if r := find(t, d, held.ID); r.state != StateRunning || r.holder() != i.holder(held.Token) {
			t.Errorf("what runs is %+v", r)
		}
		i.mustFinish(t, held.outcome(StateCompleted))
	})},
	{"the clock steps forth", on(func(t *testing.T, d database, i *instance) {
		ids := i.mustStore(t, newJobs(3)...)
		jobs := claimN(t, i, 3)
		slices.SortFunc(jobs, func(a, b Job) int { return int(a.ID - b.ID) })
		later := jobs[1].outcome(StateRetryable)
		later.Delay = time.Hour
		i.mustFinish(t, jobs[0].outcome(StateAvailable), later)
		d.shift(t, -3*time.Hour, "true", "created_at", "scheduled_at", "attempted_at")
		for _, what := range []func() (int64, error){
			func() (int64, error) { return i.Rescue(t.Context()) },
			func() (int64, error) { return i.Reclock(t.Context()) },
		} {
			if n, err := what(); n != 0 || err != nil {
				t.Errorf("%d were changed (%v)", n, err)
			}
		}
		if got := idsOf(i.claimAll(t)); !slices.Equal(got, ids[:2]) {
			t.Errorf("claimed %v, want %v", got, ids[:2])
		}
		i.mustFinish(t, jobs[2].outcome(StateCompleted))
	})},
	{"what waits is not put off when no clock stepped", on(func(t *testing.T, d database, i *instance) {
		id := i.mustStore(t, newJob(0))[0]
		o := i.mustClaim(t, id).outcome(StateRetryable)
		o.Delay = time.Hour
		i.mustFinish(t, o)
		d.shift(t, -30*time.Minute, "true", "scheduled_at", "attempted_at")
		if n, err := i.Reclock(t.Context()); n != 0 || err != nil {
			t.Errorf("%d were changed (%v)", n, err)
		}
		if r := find(t, d, id); r.due > 31*time.Minute || r.due < 29*time.Minute {
			t.Errorf("it is due in %s", r.due)
		}
	})},
	{"a malformed row sets only itself aside", func(t *testing.T, e engine) {
		for _, c := range e.broken {
			t.Run(c.name, func(t *testing.T) {
				t.Run("before its first claim", func(t *testing.T) {
					d := e.create(t)
					i := d.open(t)
					ids := i.mustStore(t, newJobs(3)...)
					c.spoil(t, d, ids[1])
					wantOthersDelivered(t, d, i, ids, StateCompleted)
				})
				t.Run("when it is due again", func(t *testing.T) {
					d := e.create(t)
					i := d.open(t)
					ids := i.mustStore(t, newJobs(3)...)
					for _, j := range claimN(t, i, 3) {
						i.mustFinish(t, j.outcome(StateRetryable))
					}
					c.spoil(t, d, ids[1])
					wantOthersDelivered(t, d, i, ids, StateDiscarded)
				})
				for _, state := range []State{StateCompleted, StateRetryable, StateDiscarded, StateCancelled, StateAvailable} {
					t.Run("when it ends as "+string(state), func(t *testing.T) {
						d := e.create(t)
						i := d.open(t)
						ids := i.mustStore(t, newJobs(3)...)
						var outcomes []Outcome
						for _, j := range claimN(t, i, 3) {
							o := j.outcome(state)
							o.Delay = time.Hour
							outcomes = append(outcomes, o)
						}
						c.spoil(t, d, ids[1])
						if running, err := i.OwnRunning(t.Context()); err != nil || len(running) < 2 {
							t.Errorf("running: %+v (%v)", running, err)
						}
						applied := i.finish(t, outcomes...)
						for _, n := range []int{0, 2} {
							wantState(t, d, ids[n], state, map[bool]int{true: 0, false: 1}[state == StateAvailable])
							if !slices.Contains(applied, ids[n]) {
								t.Errorf("applied %v, want %d in it", applied, ids[n])
							}
						}
						wantSetAside(t, d, i, ids[1])
					})
				}
				t.Run("when its process ends", func(t *testing.T) {
					if e.shared {
						return // only after half a minute, see TestPostgresLiveness
					}
					d := e.create(t)
					i := d.open(t)
					ids := i.mustStore(t, newJobs(3)...)
					claimN(t, i, 3)
					c.spoil(t, d, ids[1])
					i.die()
					i = d.open(t)
					wantState(t, d, ids[0], StateAvailable, 0)
					wantState(t, d, ids[2], StateAvailable, 0)
					wantSetAside(t, d, i, ids[1])
				})
			})
		}
	}},
	{"a process ends while it delivers", func(t *testing.T, e engine) {
		if e.shared {
			return // see TestPostgresLiveness
		}
		d := e.create(t)
		i := d.open(t)
		handed, first := newJob(0), newJob(1)
		handed.Token = newToken()
		handedID, id := i.mustStore(t, handed)[0], i.mustStore(t, first)[0]
		for n := range 30 { // more often than there are attempts
			i.mustClaim(t, id)
			i.die()
			i = d.open(t)
			wantState(t, d, handedID, StateAvailable, 0)
			wantState(t, d, id, StateAvailable, 0)
			jobs := i.claimAll(t)
			if len(jobs) != 2 || jobs[0].Attempt != 1 || jobs[1].Attempt != 1 {
				t.Fatalf("after end %d: claimed %+v", n, jobs)
			}
			for _, j := range jobs {
				if j.ID == id {
					i.mustFinish(t, j.outcome(StateAvailable))
				}
			}
		}
		i.mustFinish(t, i.mustClaim(t, id).outcome(StateRetryable))
		old := i.mustClaim(t, id)
		i.die()
		i = d.open(t)
		wantState(t, d, id, StateRetryable, 1)
		if applied := i.finish(t, old.outcome(StateCompleted)); len(applied) > 0 {
			t.Error("the claim of a process that has ended had an effect")
		}
	}},
}

// wantOthersDelivered claims and ends all that there is. The second job is malformed.
func wantOthersDelivered(t *testing.T, d database, i *instance, ids []int64, state State) {
	t.Helper()
	for _, j := range i.claimAll(t) {
		if applied := i.finish(t, j.outcome(state)); len(applied) != 1 && j.ID != ids[1] {
			t.Errorf("job %d could not be finished", j.ID)
		}
	}
	for _, n := range []int{0, 2} {
		if r := find(t, d, ids[n]); r.state != state {
			t.Errorf("job %d is %+v, want it %s", ids[n], r, state)
		}
	}
	wantSetAside(t, d, i, ids[1])
	for name, look := range map[string]func() error{
		"QueuesWith": func() error { _, err := i.QueuesWith(t.Context(), UnfinishedStates); return err },
		"Oldest":     func() error { _, err := i.Oldest(t.Context()); return err },
		"Count":      func() error { _, err := i.Count(t.Context(), StateCancelled); return err },
		"Reclock":    func() error { _, err := i.Reclock(t.Context()); return err },
		"Expire": func() error {
			_, err := i.Expire(t.Context(), Expiry{Queues: []string{testQueue}, KeepCompleted: time.Hour, KeepDead: time.Hour, Limit: 10})
			return err
		},
	} {
		if err := look(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// wantSetAside asserts that a malformed job is no longer running. Either it was worked
// like others, or it is cancelled, a line of the log has its id, and River's client can
// read it.
func wantSetAside(t *testing.T, d database, i *instance, id int64) {
	t.Helper()
	if _, err := i.Rescue(t.Context()); err != nil {
		t.Errorf("rescuing: %v", err)
	}
	r := find(t, d, id)
	if r.state == StateRunning {
		t.Errorf("the malformed job is %+v", r)
	}
	if r.state == StateAvailable {
		for _, j := range i.claimAll(t) {
			i.finish(t, j.outcome(StateCompleted))
		}
		if r = find(t, d, id); r.state.Unfinished() {
			t.Errorf("the malformed job is still %+v", r)
		}
	}
	told := slices.ContainsFunc(i.logs.All(), func(e observer.LoggedEntry) bool {
		for _, value := range e.ContextMap() {
			if value == any(id) {
				return e.Level >= zap.WarnLevel
			}
		}
		return false
	})
	if r.state == StateCancelled && r.attempt == 0 && !told {
		t.Errorf("no line of the log has the id of the job that was set aside")
	}
	if told {
		if r.state != StateCancelled {
			t.Errorf("the job that the log tells of is %+v", r)
		}
		if _, err := d.client(t).JobGet(t.Context(), id); err != nil {
			t.Errorf("River's client cannot read the job that was set aside: %v", err)
		}
	}
}
