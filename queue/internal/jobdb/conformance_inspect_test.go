package jobdb

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"
)

// listAll follows a list to its end.
func (i *instance) listAll(t *testing.T, f Filter, p Page) (found []Record) {
	t.Helper()
	for range 1000 {
		some, next, err := i.List(t.Context(), f, p)
		if err != nil {
			t.Fatalf("listing: %v", err)
		}
		if len(some) > p.Limit {
			t.Fatalf("listed %d jobs, want %d at most", len(some), p.Limit)
		}
		if found = append(found, some...); next == 0 {
			return found
		}
		p.From = next
	}
	t.Fatal("the list has no end")
	return nil
}

func recordIDs(records []Record) []int64 {
	ids := make([]int64, len(records))
	for i, r := range records {
		ids[i] = r.ID
	}
	return ids
}

// oneOfEachState stores jobs, and returns their ids in the order of ourStates.
func oneOfEachState(t *testing.T, i *instance) (ids []int64) {
	t.Helper()
	for n, state := range ourStates {
		_, id := oneOf(t, i, n, state)
		ids = append(ids, id)
	}
	return ids
}

// oneOf stores the job number n, and brings it into a state. Its queue, kind, tags and key
// name the state.
func oneOf(t *testing.T, i *instance, n int, state State) (j *NewJob, id int64) {
	t.Helper()
	j = newJob(n)
	j.Queue, j.Kind, j.Tags = "queue-"+string(state), "kind."+string(state), []string{"workspace", "notification-" + string(state)}
	j.UniqueKey = []byte(state)
	id = i.mustStore(t, j)[0]
	i.bring(t, Claim{Queue: j.Queue, Limit: 1}, state)
	return j, id
}

var inspectBehaviours = []behaviour{
	{"a list has what is selected, in both directions", on(func(t *testing.T, d database, i *instance) {
		ids := oneOfEachState(t, i)
		available, running, retryable, completed, discarded, cancelled := ids[0], ids[1], ids[2], ids[3], ids[4], ids[5]
		d.shift(t, -time.Hour, fmt.Sprintf("id = %d", completed), "created_at")
		for name, c := range map[string]struct {
			filter Filter
			want   []int64
		}{
			"all":                     {Filter{}, ids},
			"by id":                   {Filter{IDs: []int64{cancelled, available, cancelled, 1 << 40}}, []int64{available, cancelled}},
			"no ids":                  {Filter{IDs: []int64{}}, nil},
			"by id and state":         {Filter{IDs: ids, States: FinishedStates}, []int64{completed, discarded, cancelled}},
			"by state":                {Filter{States: []State{StateDiscarded, StateRunning}}, []int64{running, discarded}},
			"by queue":                {Filter{Queues: []string{"queue-retryable", "queue-available", "nonesuch"}}, []int64{available, retryable}},
			"by state and queue":      {Filter{States: FinishedStates, Queues: []string{"queue-retryable", "queue-cancelled"}}, []int64{cancelled}},
			"by kind":                 {Filter{Kinds: []string{"kind.running", "kind.completed"}}, []int64{running, completed}},
			"by state and kind":       {Filter{States: FinishedStates, Kinds: []string{"kind.running", "kind.completed"}}, []int64{completed}},
			"by workspace":            {Filter{Workspace: "workspace"}, ids},
			"by notification":         {Filter{Notification: "notification-retryable"}, []int64{retryable}},
			"by both":                 {Filter{Workspace: "other", Notification: "notification-retryable"}, nil},
			"by part of a tag":        {Filter{Workspace: "work"}, nil},
			"stored since":            {Filter{Since: time.Now().Add(-30 * time.Minute)}, slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return id == completed })},
			"stored until":            {Filter{Until: time.Now().Add(-30 * time.Minute)}, []int64{completed}},
			"stored between":          {Filter{Since: time.Now().Add(-20 * time.Minute), Until: time.Now().Add(-10 * time.Minute)}, nil},
			"by error":                {Filter{Error: "STATUS 5"}, []int64{retryable, discarded, cancelled}},
			"by another error":        {Filter{Error: "status 404"}, nil},
			"by what is no error":     {Filter{Error: "127.0.0.1"}, nil},
			"by a state of no job":    {Filter{States: []State{"pending"}}, nil},
			"by an unknown state too": {Filter{Queues: []string{"nonesuch"}}, nil},
		} {
			backwards := slices.Clone(c.want)
			slices.Reverse(backwards)
			for limit := 1; limit <= 7; limit += 3 {
				if got := recordIDs(i.listAll(t, c.filter, Page{Limit: limit})); !slices.Equal(got, c.want) {
					t.Errorf("%s, %d at a time: %v, want %v", name, limit, got, c.want)
				}
				if got := recordIDs(i.listAll(t, c.filter, Page{Limit: limit, Newest: true})); !slices.Equal(got, backwards) {
					t.Errorf("%s, newest first, %d at a time: %v, want %v", name, limit, got, backwards)
				}
			}
		}
		for _, c := range []struct {
			page Page
			want []int64
		}{
			{Page{From: retryable, Limit: 2}, []int64{retryable, completed}},
			{Page{From: retryable, Limit: 2, Newest: true}, []int64{retryable, running}},
			{Page{From: cancelled + 1, Limit: 2}, nil},
			{Page{From: cancelled + 1, Limit: 1, Newest: true}, []int64{cancelled}},
		} {
			for _, filter := range []Filter{{}, {States: ourStates}, {IDs: ids}} {
				if got, _, err := i.List(t.Context(), filter, c.page); err != nil || !slices.Equal(recordIDs(got), c.want) {
					t.Errorf("%+v of %+v: %v (%v), want %v", c.page, filter, recordIDs(got), err, c.want)
				}
			}
		}
	})},
	{"a list looks at a bounded number of rows", on(func(t *testing.T, _ database, i *instance) {
		jobs := newJobs(listRows + 10)
		jobs[listRows+5].Kind = "rare"
		id := i.mustStore(t, jobs...)[listRows+5]
		found, next, err := i.List(t.Context(), Filter{Kinds: []string{"rare"}}, Page{Limit: 10})
		if err != nil || len(found) > 0 || next == 0 || next > id {
			t.Errorf("found %d jobs, and goes on at %d of %d (%v)", len(found), next, id, err)
		}
		if found := i.listAll(t, Filter{Kinds: []string{"rare"}}, Page{Limit: 10}); len(found) != 1 || found[0].ID != id {
			t.Errorf("found %v, want %d", recordIDs(found), id)
		}
	})},
	{"a list has all of a job", on(func(t *testing.T, _ database, i *instance) {
		before := time.Now().Add(-time.Second)
		j := newJob(7)
		j.Tags = []string{"workspace", `"quoted", <\>`}
		id := i.mustStore(t, j)[0]
		for n := 1; n <= 3; n++ {
			o := i.mustClaim(t, id).outcome([]State{0: StateRetryable, 1: StateRetryable, 2: StateDiscarded}[n-1])
			i.mustFinish(t, o)
		}
		for _, p := range []Page{{Limit: 1}, {Limit: 1, Errors: true}, {Limit: 1, Args: true}} {
			found, next, err := i.List(t.Context(), Filter{}, p)
			if err != nil || len(found) != 1 || next != 0 {
				t.Fatalf("%+v: %d jobs, next %d (%v)", p, len(found), next, err)
			}
			r := found[0]
			if r.ID != id || r.Queue != j.Queue || r.Kind != j.Kind || r.State != StateDiscarded || !slices.Equal(r.Tags, j.Tags) ||
				r.Attempt != 3 || r.MaxAttempts != 20 {
				t.Errorf("%+v", r)
			}
			for _, at := range r.times() {
				if at.Before(before) || at.After(time.Now().Add(time.Second)) {
					t.Errorf("times of %+v are not of now", r)
				}
			}
			if p.Args {
				if !sameJSON(t, r.Args, j.Args) {
					t.Errorf("args are %s", r.Args)
				}
			} else if r.Args != nil {
				t.Errorf("has args: %s", r.Args)
			}
			want := [][]byte{testError(3)}
			if p.Errors {
				want = [][]byte{testError(1), testError(2), testError(3)}
			}
			if !slices.EqualFunc(r.Errors, want, func(a, b []byte) bool { return sameJSON(t, a, b) }) {
				t.Errorf("%+v: errors %s", p, r.Errors)
			}
		}
	})},
	{"a list has rows that are malformed", func(t *testing.T, e engine) {
		for _, b := range e.broken {
			t.Run(b.name, func(t *testing.T) {
				d := e.create(t)
				i := d.open(t)
				ids := i.mustStore(t, newJobs(3)...)
				b.spoil(t, d, ids[1])
				for _, filter := range []Filter{{}, {States: ourStates}, {IDs: ids}} {
					if found := i.listAll(t, filter, Page{Limit: 10, Args: true, Errors: true}); !slices.Equal(recordIDs(found), ids) {
						t.Errorf("listed %v, want %v", recordIDs(found), ids)
					}
				}
				if deleted, err := i.Delete(t.Context(), ids); err != nil || len(deleted) != 3 {
					t.Errorf("deleted %v (%v)", deleted, err)
				}
			})
		}
	}},
	{"many are retried and deleted at once, except what is claimed", on(func(t *testing.T, d database, i *instance) {
		n := 3 * maxRows
		ids := i.mustStore(t, newJobs(n)...)
		jobs := claimN(t, i, n)
		var outcomes []Outcome
		for _, j := range jobs[1:] {
			outcomes = append(outcomes, j.outcome(StateDiscarded))
		}
		i.mustFinish(t, outcomes...)
		held := jobs[0]
		want := slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return id == held.ID })
		for range 2 {
			changed, err := i.Retry(t.Context(), append(ids, 1<<40))
			slices.Sort(changed)
			if err != nil || !slices.Equal(changed, want) {
				t.Errorf("retried %d jobs, want %d (%v)", len(changed), len(want), err)
			}
			want = nil // they are available
		}
		wantState(t, d, held.ID, StateRunning, 1)
		deleted, err := i.Delete(t.Context(), append(ids, 1<<40))
		if err != nil || len(deleted) != n-1 || slices.Contains(deleted, held.ID) {
			t.Errorf("deleted %d jobs, want %d (%v)", len(deleted), n-1, err)
		}
		wantCancelRequested(t, i, held.ID, true)
		if rows := d.rows(t); len(rows) != 1 || rows[0].id != held.ID {
			t.Errorf("%d rows are left", len(rows))
		}
		i.mustFinish(t, held.outcome(StateCancelled))
		if deleted, err := i.Delete(t.Context(), ids); err != nil || !slices.Equal(deleted, []int64{held.ID}) {
			t.Errorf("deleted %v, want %d (%v)", deleted, held.ID, err)
		}
		if err := i.Scrub(t.Context()); err != nil {
			t.Error(err)
		}
	})},
	{"attempts that are used up are raised by a retry", on(func(t *testing.T, d database, i *instance) {
		j := newJob(0)
		j.MaxAttempts = 1
		id := i.mustStore(t, j)[0]
		i.mustFinish(t, i.mustClaim(t, id).outcome(StateDiscarded))
		if changed, err := i.Retry(t.Context(), []int64{id}); err != nil || len(changed) != 1 {
			t.Fatalf("retried %v (%v)", changed, err)
		}
		if r := find(t, d, id); r.maxAttempts != 2 || r.attempt != 1 || r.finalized || r.errors != 1 {
			t.Errorf("%+v", r)
		}
	})},
	{"args of a list are bounded", on(func(t *testing.T, _ database, i *instance) {
		var jobs []*NewJob
		for n := range listBatch + 10 {
			j := newJob(n)
			j.Args = fmt.Appendf(nil, `{"n": %d, "body": "%s"}`, n, bytes.Repeat([]byte("x"), listBytes/listBatch))
			jobs = append(jobs, j)
		}
		ids := i.mustStore(t, jobs...)
		found, next, err := i.List(t.Context(), Filter{}, Page{Limit: len(jobs), Args: true})
		if err != nil || len(found) != listBatch || next != ids[listBatch] {
			t.Errorf("listed %d jobs, and goes on at %d (%v), want %d", len(found), next, err, listBatch)
		}
		for n, r := range found {
			if len(r.Args) < len(jobs[n].Args)-2 {
				t.Errorf("job %d has %.20s", n, r.Args)
			}
		}
	})},
}
