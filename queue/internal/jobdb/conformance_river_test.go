package jobdb

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

var lookBehaviours = []behaviour{
	{"instances have names of their own", func(t *testing.T, e engine) {
		d := e.create(t)
		one := d.open(t)
		name := one.Instance()
		if !e.shared {
			one.die()
		}
		other := d.open(t).Instance()
		if name == other || name == "" || strings.Contains(name+other, "#") {
			t.Errorf("they are called %q and %q", name, other)
		}
	}},
	{"queues are found by the states of their jobs", on(func(t *testing.T, _ database, i *instance) {
		for _, state := range ourStates {
			for range 3 {
				j := newJob(0)
				j.Queue = string(state)
				i.mustStore(t, j)
			}
			i.bring(t, Claim{Queue: string(state), Limit: 3}, state)
			counts, err := i.Count(t.Context(), state)
			if err != nil || !maps.Equal(counts, map[string]int64{string(state): 3}) {
				t.Errorf("%s jobs: %v (%v), want 3", state, counts, err)
			}
		}
		for _, c := range []struct {
			states []State
			want   []string
		}{
			{UnfinishedStates, []string{"available", "retryable", "running"}},
			{FinishedStates, []string{"cancelled", "completed", "discarded"}},
			{[]State{StateRetryable, StateAvailable}, []string{"available", "retryable"}},
			{[]State{"pending"}, nil},
		} {
			queues, err := i.QueuesWith(t.Context(), c.states)
			slices.Sort(queues)
			if err != nil || !slices.Equal(queues, c.want) {
				t.Errorf("queues with jobs that are %v: %v (%v), want %v", c.states, queues, err, c.want)
			}
		}
	})},
	{"the age of the oldest unfinished job is known", on(func(t *testing.T, d database, i *instance) {
		// in each queue: completed long ago, and then one of each unfinished state
		for n, oldest := range []State{StateRetryable, StateRunning, StateAvailable} {
			states := []State{StateCompleted, oldest, StateRetryable, StateRunning, StateAvailable}
			for k, state := range states {
				j := newJob(0)
				j.Queue = string(oldest)
				id := i.mustStore(t, j)[0]
				hours := 10*(n+1) - k // the older, the smaller the id
				d.shift(t, -time.Duration(hours)*time.Hour, fmt.Sprintf("id = %d", id), "created_at", "scheduled_at")
				if state != StateAvailable {
					jobs, _ := i.claim(t, Claim{Queue: j.Queue, Limit: 1})
					if len(jobs) != 1 || jobs[0].ID != id {
						t.Fatalf("claimed %+v, want job %d", jobs, id)
					}
					o := jobs[0].outcome(state)
					o.Delay = time.Hour
					if state != StateRunning {
						i.mustFinish(t, o)
					}
				}
				if state == oldest && oldest == StateAvailable {
					break // or else it would be claimed in place of the later ones
				}
			}
		}
		ages, err := i.Oldest(t.Context())
		if err != nil || len(ages) != 3 {
			t.Fatalf("oldest: %v (%v)", ages, err)
		}
		for queue, hours := range map[string]int{"retryable": 9, "running": 19, "available": 29} {
			if age, want := ages[queue], time.Duration(hours)*time.Hour; age < want || age > want+time.Minute {
				t.Errorf("the oldest of %s is %s old, want %s", queue, age, want)
			}
		}
	})},
	{"changes are noticed", on(func(t *testing.T, _ database, i *instance) {
		last, err := i.Changes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range []struct {
			name string
			make func()
		}{
			{"storing", func() { i.mustStore(t, newJob(0)) }},
			{"claiming", func() { claimN(t, i, 1) }},
		} {
			change.make()
			noticed := false
			for range 100 { // PostgreSQL tells within a second or so
				now, err := i.Changes(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if noticed = now != last; noticed {
					last = now
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if !noticed {
				t.Errorf("%s is not noticed", change.name)
			}
		}
		quiet := false
		for range 10 {
			time.Sleep(1100 * time.Millisecond)
			now, err := i.Changes(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if quiet = now == last; quiet {
				break
			}
			last = now
		}
		if !quiet {
			t.Error("it changes although nothing does")
		}
	})},
	{"a process alone knows of no others", on(func(t *testing.T, _ database, i *instance) {
		for range 2 {
			fleet, err := i.Beat(t.Context(), Presence{Queues: []string{testQueue}, Configs: map[string]string{"intercom": "hash"}})
			if err != nil || len(fleet.Others) > 0 {
				t.Errorf("others: %+v (%v)", fleet.Others, err)
			}
		}
	})},
}

var riverBehaviours = []behaviour{
	{"River's client reads all jobs", on(func(t *testing.T, d database, i *instance) {
		client := d.client(t)
		for _, state := range ourStates {
			j, id := oneOf(t, i, 0, state)
			read, err := client.JobGet(t.Context(), id)
			if err != nil {
				t.Errorf("%s: %v", state, err)
				continue
			}
			r := find(t, d, id)
			if State(read.State) != state || read.Attempt != r.attempt || read.MaxAttempts != 20 || !slices.Equal(read.AttemptedBy, r.attemptedBy) ||
				len(read.Errors) != r.errors || (read.FinalizedAt != nil) != r.finalized || (read.AttemptedAt != nil) != (r.attempt > 0) ||
				!slices.Equal(read.Tags, j.Tags) || read.Kind != j.Kind || read.Queue != j.Queue || string(read.UniqueKey) != string(state) ||
				len(read.UniqueStates) != 8 || read.Priority != 1 || !sameJSON(t, read.EncodedArgs, j.Args) {
				t.Errorf("%s: %+v", state, read)
			}
			if age := time.Since(read.CreatedAt); age < -time.Second || age > time.Minute {
				t.Errorf("%s: it was stored %s ago", state, age)
			}
			for by, params := range map[string]*river.JobListParams{
				"id":    river.NewJobListParams().IDs(id),
				"kind":  river.NewJobListParams().Kinds(j.Kind),
				"queue": river.NewJobListParams().Queues(j.Queue),
				"state": river.NewJobListParams().States(rivertype.JobState(state)),
				"tags":  river.NewJobListParams().TagsAll(j.Tags...),
				"tag":   river.NewJobListParams().TagsAny(j.Tags[1], "nonesuch"),
			} {
				list, err := client.JobList(t.Context(), params)
				if err != nil {
					t.Errorf("listing by %s: %v", by, err)
				} else if len(list.Jobs) != 1 || list.Jobs[0].ID != id {
					t.Errorf("listing by %s finds %d jobs, want that which is %s", by, len(list.Jobs), state)
				}
			}
		}
		if list, err := client.JobList(t.Context(), river.NewJobListParams().TagsAll("workspace")); err != nil || len(list.Jobs) != 6 {
			t.Errorf("all: %+v (%v)", list, err)
		}
	})},
	{"River's web UI shows all jobs", on(func(t *testing.T, _ database, i *instance) {
		ui := newUIUser(t, i)
		for _, state := range ourStates {
			j := newJob(0)
			j.Queue, j.Tags = "queue-"+string(state), []string{"workspace"}
			id := i.mustStore(t, j)[0]
			i.bring(t, Claim{Queue: j.Queue, Limit: 1}, state)
			for _, path := range []string{fmt.Sprintf("/jobs/%d", id), "/jobs?state=" + string(state)} {
				page, err := ui.ask("GET", path, "")
				if err != nil || !strings.Contains(string(page), j.Queue) {
					t.Errorf("%s: %s (%v)", path, page, err)
				}
			}
		}
		for _, path := range []string{"/states", "/queues", "/features"} {
			if _, err := ui.ask("GET", path, ""); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	})},
	{"persons retry, cancel and delete jobs of each state", on(func(t *testing.T, d database, i *instance) {
		for who, p := range persons(t, d, i) {
			for _, c := range []struct {
				state           State
				retried, cancel State
				deleted         bool
			}{
				{StateAvailable, StateAvailable, StateCancelled, true},
				{StateRunning, StateRunning, StateRunning, false},
				{StateRetryable, StateAvailable, StateCancelled, true},
				{StateCompleted, StateAvailable, StateCompleted, true},
				{StateDiscarded, StateAvailable, StateDiscarded, true},
				{StateCancelled, StateAvailable, StateCancelled, true},
			} {
				var held []Job
				store := func(what string) int64 {
					t.Helper()
					j := newJob(0)
					j.Queue = fmt.Sprintf("%s-%s", what, c.state)
					j.UniqueKey = []byte(who + j.Queue)
					id := i.mustStore(t, j)[0]
					if c.state != StateAvailable {
						jobs, _ := i.claim(t, Claim{Queue: j.Queue, Limit: 1, Except: nil})
						if len(jobs) != 1 || jobs[0].ID != id {
							t.Fatalf("%s: claimed %+v", j.Queue, jobs)
						}
						held = jobs
						if c.state != StateRunning {
							o := jobs[0].outcome(c.state)
							o.Delay = time.Hour
							i.mustFinish(t, o)
						}
					}
					return id
				}

				id := store("retry")
				attempt := find(t, d, id).attempt
				if err := p.retry(id); err != nil {
					t.Errorf("%s retries what is %s: %v", who, c.state, err)
				}
				wantState(t, d, id, c.retried, attempt)
				if c.retried == StateAvailable {
					jobs, _ := i.claim(t, Claim{Queue: "retry-" + string(c.state), Limit: 1})
					if len(jobs) != 1 || jobs[0].ID != id || jobs[0].Attempt != attempt+1 {
						t.Errorf("%s retried what was %s: claimed %+v", who, c.state, jobs)
					} else {
						i.mustFinish(t, jobs[0].outcome(StateCompleted))
					}
				} else {
					i.mustFinish(t, held[0].outcome(StateCompleted))
				}

				id = store("cancel")
				if err := p.cancel(id); err != nil {
					t.Errorf("%s cancels what is %s: %v", who, c.state, err)
				}
				wantState(t, d, id, c.cancel, attempt)
				wantCancelRequested(t, i, id, c.state == StateRunning)
				if c.state == StateRunning {
					i.mustFinish(t, held[0].outcome(StateCancelled))
					wantState(t, d, id, StateCancelled, 1)
				}

				id = store("delete")
				if err := p.delete(id); (err == nil) != c.deleted {
					t.Errorf("%s deletes what is %s: %v", who, c.state, err)
				}
				if exists := slices.ContainsFunc(d.rows(t), func(r row) bool { return r.id == id }); exists == c.deleted {
					t.Errorf("%s deleted what is %s: it exists %t", who, c.state, exists)
				}
				if c.state == StateRunning {
					i.mustFinish(t, held[0].outcome(StateCompleted))
				}
			}
		}
	})},
	{"the outcome of a deleted job has no effect", on(func(t *testing.T, d database, i *instance) {
		ids := i.mustStore(t, newJobs(2)...)
		jobs := claimN(t, i, 2)
		d.exec(t, fmt.Sprintf("DELETE FROM river_job WHERE id = %d", ids[0]))
		if applied := i.finish(t, jobs[0].outcome(StateRetryable), jobs[1].outcome(StateRetryable)); !slices.Equal(applied, ids[1:]) {
			t.Errorf("applied %v, want %v", applied, ids[1:])
		}
		if rows := d.rows(t); len(rows) != 1 {
			t.Errorf("%d rows, want 1", len(rows))
		}
	})},
	{"a job's age begins anew when a person retries it", on(func(t *testing.T, d database, i *instance) {
		for who, p := range persons(t, d, i) {
			for _, state := range []State{StateRetryable, StateCompleted, StateDiscarded, StateCancelled} {
				j := newJob(0)
				j.Queue = string(state)
				id := i.mustStore(t, j)[0]
				next := func(want time.Duration) Job {
					t.Helper()
					jobs, _ := i.claim(t, Claim{Queue: j.Queue, Limit: 1})
					if len(jobs) != 1 || jobs[0].ID != id {
						t.Fatalf("%s: claimed %+v", state, jobs)
					}
					if age := jobs[0].Age; age < want-time.Second || age > want+time.Minute {
						t.Errorf("%s, attempt %d: the age is %s, want %s", state, jobs[0].Attempt, age, want)
					}
					return jobs[0]
				}
				hour := func() { // passes
					d.shift(t, -time.Hour, fmt.Sprintf("id = %d", id), "created_at", "scheduled_at", "attempted_at", "finalized_at")
				}
				hour()
				i.mustFinish(t, next(time.Hour).outcome(StateRetryable))
				hour()
				i.mustFinish(t, next(2*time.Hour).outcome(state))
				if err := p.retry(id); err != nil {
					t.Fatalf("%s: %v", who, err)
				}
				i.mustFinish(t, next(0).outcome(StateAvailable)) // a stop
				i.mustFinish(t, next(0).outcome(StateRetryable))
				i.mustFinish(t, next(0).outcome(StateAvailable))
				i.mustFinish(t, next(0).outcome(StateCompleted))
			}
		}
	})},
	{"a job's age begins anew when a person retries what was never attempted", on(func(t *testing.T, d database, i *instance) {
		id := i.mustStore(t, newJob(0))[0]
		d.shift(t, -time.Hour, "true", "created_at", "scheduled_at")
		p := clientUser{d.client(t), t.Context()}
		if err := errors.Join(p.cancel(id), p.retry(id)); err != nil {
			t.Fatal(err)
		}
		j := i.mustClaim(t, id)
		if j.Age > time.Minute {
			t.Errorf("the age is %s", j.Age)
		}
		i.mustFinish(t, j.outcome(StateRetryable))
		if j := i.mustClaim(t, id); j.Age > time.Minute || j.Attempt != 2 {
			t.Errorf("at attempt %d the age is %s", j.Attempt, j.Age)
		}
	})},
	{"what a person has cancelled and retried is delivered", on(func(t *testing.T, d database, i *instance) {
		p := clientUser{d.client(t), t.Context()}
		for _, running := range []bool{false, true} {
			id := i.mustStore(t, newJob(0))[0]
			if running {
				j := i.mustClaim(t, id)
				if err := p.cancel(id); err != nil {
					t.Fatal(err)
				}
				i.mustFinish(t, j.outcome(StateCancelled))
			} else if err := p.cancel(id); err != nil {
				t.Fatal(err)
			}
			if err := p.retry(id); err != nil {
				t.Fatal(err)
			}
			j := i.mustClaim(t, id)
			wantCancelRequested(t, i, id, false)
			if err := p.cancel(id); err != nil {
				t.Fatal(err)
			}
			wantCancelRequested(t, i, id, true)
			i.mustFinish(t, j.outcome(StateCancelled))
		}
	})},
	{"what a person asked to cancel does not wait again", func(t *testing.T, e engine) {
		for _, state := range []State{StateAvailable, StateRetryable} {
			t.Run("after it ended as "+string(state), func(t *testing.T) {
				d := e.create(t)
				i := d.open(t)
				ids := i.mustStore(t, newJobs(2)...)
				var outcomes []Outcome
				for _, j := range claimN(t, i, 2) {
					outcomes = append(outcomes, j.outcome(state))
				}
				if err := (clientUser{d.client(t), t.Context()}).cancel(ids[0]); err != nil {
					t.Fatal(err)
				}
				i.mustFinish(t, outcomes...) // before the worker saw it
				attempts := map[State]int{StateAvailable: 0, StateRetryable: 1}[state]
				wantState(t, d, ids[0], StateCancelled, attempts)
				wantState(t, d, ids[1], state, attempts)
			})
		}
	}},
	{"what a person asked to cancel is not delivered after its process ended", func(t *testing.T, e engine) {
		if e.shared {
			return // only after half a minute, see TestPostgresLiveness
		}
		d := e.create(t)
		i := d.open(t)
		ids := i.mustStore(t, newJobs(2)...)
		claimN(t, i, 2)
		if err := (clientUser{d.client(t), t.Context()}).cancel(ids[0]); err != nil {
			t.Fatal(err)
		}
		i.die()
		d.open(t)
		wantState(t, d, ids[0], StateCancelled, 0)
		wantState(t, d, ids[1], StateAvailable, 0)
	}},
	{"persons pause queues", on(func(t *testing.T, d database, i *instance) {
		for who, p := range persons(t, d, i) {
			names := []string{who[len(who)-2:] + "-one", who[len(who)-2:] + "-two"}
			wantPaused := func(asked []string, want ...string) {
				t.Helper()
				paused, err := i.Queues(t.Context(), asked)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for name, is := range paused {
					if is {
						got = append(got, name)
					}
				}
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("%s: %v are paused, want %v", who, got, want)
				}
			}
			wantPaused(names)
			if err := p.pause(names[0]); err != nil {
				t.Errorf("%s: %v", who, err)
			}
			wantPaused(names, names[0])
			wantPaused(nil, names[0])
			wantPaused(names[1:], names[0])
			if err := p.resume(names[0]); err != nil {
				t.Errorf("%s: %v", who, err)
			}
			wantPaused(names)
			list, err := d.client(t).QueueList(t.Context(), river.NewQueueListParams().First(100))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if !slices.ContainsFunc(list.Queues, func(q *rivertype.Queue) bool { return q.Name == name && time.Since(q.UpdatedAt) < time.Minute }) {
					t.Errorf("River's client does not list %s: %+v", name, list.Queues)
				}
			}
		}
	})},
}

func wantCancelRequested(t *testing.T, i *instance, id int64, want bool) {
	t.Helper()
	running, err := i.OwnRunning(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	requested := slices.ContainsFunc(running, func(r Running) bool { return r.ID == id && r.CancelRequested })
	if requested != want {
		t.Errorf("the end of job %d is requested: %t, want %t", id, requested, want)
	}
}
