package jobdb

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// payloads are arguments that must come back as they are.
var payloads = map[string]string{
	"an empty object":                  `{}`,
	"what HTML escapes":                `{"body": "<a href=\"x\">&amp;'</a>"}`,
	"line separators, as they are":     "{\"body\": \"a\u2028b\u2029c\"}",
	"line separators, escaped":         `{"body": "a\u2028b\u2029c"}`,
	"surrogates, escaped":              `{"body": "\ud83d\ude00 and 😀"}`,
	"control characters":               `{"body": "\u0001\u001f\b\f\n\r\t\u007f"}`,
	"backslashes":                      `{"body": "\\u0000 \\\\ \" \/"}`,
	"large numbers":                    `{"id": 9007199254740993, "other": 123456789012345678901234567890}`,
	"characters outside of Unicode 1":  `{"body": "\uffff \ufffe \ufffd ` + "\U0010ffff" + `"}`,
	"nested":                           `{"a": {"b": [{"c": [[[]]]}, null, true, false, -1.5]}}`,
	"base64 of bytes that are no text": `{"body": {"base64": "AP/+gA=="}, "header": {"X": ["", {"base64": "6Q=="}]}}`,
	"an empty name":                    `{"": "", "a b": " "}`,
}

var storeBehaviours = []behaviour{
	{"arguments come back as they were", on(func(t *testing.T, _ database, i *instance) {
		for name, args := range payloads {
			j := newJob(0)
			j.Args = []byte(args)
			id := i.mustStore(t, j)[0]
			if got := i.mustClaim(t, id).Args; !sameJSON(t, got, j.Args) {
				t.Errorf("%s: %s, want %s", name, got, args)
			}
		}
	})},
	{"4 MiB come back as they were", on(func(t *testing.T, _ database, i *instance) {
		for _, character := range []string{"<", "\u2028", `\u2028`, `\\`, "😀"} {
			j := newJob(0)
			j.Args = []byte(`{"body": "` + strings.Repeat(character, 4<<20/len(character)) + `"}`)
			id := i.mustStore(t, j)[0]
			if got := i.mustClaim(t, id).Args; !sameJSON(t, got, j.Args) {
				t.Errorf("%d bytes of %q come back as %d bytes, such as %.40q", len(j.Args), character, len(got), got)
			}
		}
	})},
	{"a job is what was stored", on(func(t *testing.T, d database, i *instance) {
		j := newJob(7)
		j.Tags, j.UniqueKey, j.MaxAttempts = []string{"workspace", `no"tif,{ic}\ation`}, []byte{0, 1, 0xfe}, 9
		r := find(t, d, i.mustStore(t, j)[0])
		if r.queue != j.Queue || r.kind != j.Kind || r.state != StateAvailable || r.attempt != 0 || r.maxAttempts != 9 ||
			len(r.attemptedBy) != 0 || r.errors != 0 || r.finalized || r.key != "0001fe" || !slices.Equal(r.tags, j.Tags) || !sameJSON(t, []byte(r.args), j.Args) {
			t.Errorf("it is %+v", r)
		}
	})},
	{"no jobs can be stored", on(func(t *testing.T, _ database, i *instance) {
		i.store(t)
	})},
	{"results are in the order of the jobs", on(func(t *testing.T, d database, i *instance) {
		var jobs []*NewJob
		for n := range 60 {
			j := newJob(n)
			if n%3 > 0 {
				j.UniqueKey = fmt.Appendf(nil, "%d", (n*37)%60) // neither in order of the jobs nor alike in length
			}
			if n%2 > 0 {
				j.Token = Token(1 << 40)
			}
			jobs = append(jobs, j)
		}
		for n, id := range i.mustStore(t, jobs...) {
			if r := find(t, d, id); !sameJSON(t, []byte(r.args), jobs[n].Args) {
				t.Errorf("job %d has the id of %s", n, r.args)
			}
		}
		for n, s := range i.store(t, jobs...) {
			if keyed := n%3 > 0; s.Duplicate != keyed || (s.ID == 0) != keyed || s.Err != nil {
				t.Errorf("job %d, stored again: %+v", n, s)
			}
		}
	})},
	{"a job with a token is claimed at once", on(func(t *testing.T, d database, i *instance) {
		mine, others := newJob(0), newJob(1)
		mine.Token = newToken()
		ids := i.mustStore(t, mine, others)
		if r := find(t, d, ids[0]); r.state != StateRunning || r.attempt != 1 || r.holder() != i.holder(mine.Token) || len(r.attemptedBy) != 1 {
			t.Errorf("it is %+v", r)
		}
		i.mustClaim(t, ids[1])
		i.mustFinish(t, Outcome{ID: ids[0], Token: mine.Token, State: StateCompleted})
		wantState(t, d, ids[0], StateCompleted, 1)
	})},
	{"a job is a duplicate in whatever state the first one is", on(func(t *testing.T, d database, i *instance) {
		for _, state := range ourStates {
			first, again := newJob(0), newJob(1)
			first.Queue, again.Queue = string(state), testQueue
			first.UniqueKey, again.UniqueKey = []byte(state), []byte(state)
			id := i.mustStore(t, first)[0]
			i.bring(t, Claim{Queue: first.Queue, Limit: 1}, state)
			before := find(t, d, id)
			again.Token = newToken()
			if s := i.store(t, again)[0]; !s.Duplicate || s.ID != 0 || s.Err != nil {
				t.Errorf("while it is %s: %+v", state, s)
			}
			if after := find(t, d, id); after.state != before.state || after.attempt != before.attempt || after.holder() != before.holder() || after.args != before.args {
				t.Errorf("the duplicate made %+v of %+v", after, before)
			}
		}
		if rows := d.rows(t); len(rows) != 6 {
			t.Errorf("%d rows, want 6", len(rows))
		}
	})},
	{"a key is free again when its job is deleted", on(func(t *testing.T, d database, i *instance) {
		j := newJob(0)
		j.UniqueKey = []byte("key")
		id := i.mustStore(t, j)[0]
		if err := (clientUser{d.client(t), t.Context()}).delete(id); err != nil {
			t.Fatal(err)
		}
		if again := i.mustStore(t, j)[0]; again == id {
			t.Errorf("the id %d is used again", id)
		}
	})},
	{"a refused job takes no other along", func(t *testing.T, e engine) {
		d := e.create(t)
		i := d.open(t)
		known := newJob(0)
		known.UniqueKey = []byte("known")
		i.mustStore(t, known)
		for name, spoil := range spoilers(e) {
			for place := range 3 {
				jobs := append(newJobs(3), known)
				jobs[0].UniqueKey, jobs[2].Token = fmt.Appendf(nil, "%s %d", name, place), newToken()
				spoil(jobs[place])
				for n, s := range i.store(t, jobs...) {
					switch {
					case n == place:
						if s.Err == nil || s.ID != 0 || s.Duplicate {
							t.Errorf("%s at %d: %+v, want an error", name, n, s)
						}
					case n == 3:
						if !s.Duplicate || s.Err != nil {
							t.Errorf("the duplicate beside %s at %d: %+v", name, place, s)
						}
					case s.Err != nil || s.ID == 0:
						t.Errorf("beside %s at %d: %+v", name, place, s)
					default:
						if r := find(t, d, s.ID); !sameJSON(t, []byte(r.args), jobs[n].Args) || (r.state == StateRunning) != (jobs[n].Token != 0) {
							t.Errorf("beside %s at %d: %+v", name, place, r)
						}
					}
				}
			}
		}
	}},
	{"all of a batch can be refused", on(func(t *testing.T, _ database, i *instance) {
		jobs := newJobs(3)
		for n := range jobs {
			jobs[n].Kind = ""
		}
		for n, s := range i.store(t, jobs...) {
			if s.Err == nil || s.ID != 0 {
				t.Errorf("job %d: %+v, want an error", n, s)
			}
		}
	})},
	{"one of many that store the same at once is no duplicate", func(t *testing.T, e engine) {
		d := e.create(t)
		instances := []*instance{d.open(t)}
		if e.shared {
			instances = append(instances, d.open(t))
		}
		const keys, times = 40, 6
		var mu sync.Mutex
		firsts := make(map[string]int)
		var storers sync.WaitGroup
		for n := range times {
			storers.Go(func() {
				jobs := newJobs(keys)
				for k, j := range jobs {
					if n%2 > 0 { // in the opposite order
						k = keys - 1 - k
					}
					j.UniqueKey = fmt.Appendf(nil, "key %d", k)
				}
				stored, err := instances[n%len(instances)].Store(t.Context(), func() []*NewJob { return jobs })
				if err != nil {
					t.Errorf("storing: %v", err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				for k, s := range stored {
					if s.Err != nil {
						t.Errorf("storing: %v", s.Err)
					}
					if !s.Duplicate {
						firsts[string(jobs[k].UniqueKey)]++
					}
				}
			})
		}
		storers.Wait()
		for key, n := range firsts {
			if n != 1 {
				t.Errorf("%s was stored %d times", key, n)
			}
		}
		if rows := d.rows(t); len(rows) != keys || len(firsts) != keys {
			t.Errorf("%d rows and %d keys, want %d", len(rows), len(firsts), keys)
		}
	}},
}

var claimBehaviours = []behaviour{
	{"fresh jobs are claimed in the order in which they were stored", on(func(t *testing.T, _ database, i *instance) {
		var want []int64
		for n := range 30 {
			want = append(want, i.mustStore(t, newJob(n))...)
		}
		var got []int64
		for range 10 {
			jobs, _ := i.claim(t, Claim{Limit: 4})
			slices.SortFunc(jobs, func(a, b Job) int { return int(a.ID - b.ID) })
			for _, j := range jobs {
				got = append(got, j.ID)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("claimed %v, want %v", got, want)
		}
	})},
	{"a claim says whose the job is", on(func(t *testing.T, d database, i *instance) {
		id := i.mustStore(t, newJob(0))[0]
		token := newToken()
		jobs, _ := i.claim(t, Claim{Limit: 5, Token: token})
		if len(jobs) != 1 || jobs[0].ID != id || jobs[0].Token != token || jobs[0].Queue != testQueue || jobs[0].Attempt != 1 {
			t.Fatalf("claimed %+v", jobs)
		}
		if r := find(t, d, id); r.state != StateRunning || r.attempt != 1 || r.holder() != i.holder(token) {
			t.Errorf("it is %+v", r)
		}
		if again, more := i.claim(t, Claim{Limit: 5}); len(again) != 0 || more {
			t.Errorf("claimed again: %+v, more %t", again, more)
		}
	})},
	{"only jobs of the queue are claimed", on(func(t *testing.T, _ database, i *instance) {
		other := newJob(0)
		other.Queue = "other"
		i.mustStore(t, other)
		mine := i.mustStore(t, newJob(1))[0]
		i.mustClaim(t, mine)
	})},
	{"jobs that are excepted are left alone", func(t *testing.T, e engine) {
		d := e.create(t)
		i := d.open(t)
		ids := i.mustStore(t, newJobs(9)...)
		due, _ := i.claim(t, Claim{Limit: 3})
		for _, j := range due {
			i.mustFinish(t, j.outcome(StateRetryable))
		}
		except := []int64{due[1].ID, ids[5], ids[6], ids[8], 1 << 40}
		var got []int64
		more := true
		for range 20 {
			var jobs []Job
			jobs, more = i.claim(t, Claim{Limit: 2, Except: except})
			got = append(got, idsOf(jobs)...)
			if !more {
				break
			}
		}
		if more {
			t.Error("there is always more to claim, of what is excepted")
		}
		slices.Sort(got)
		want := slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return slices.Contains(except, id) })
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("claimed %v, want %v", got, want)
		}
	}},
	{"due and fresh jobs share a claim", on(func(t *testing.T, _ database, i *instance) {
		i.mustStore(t, newJobs(40)...)
		for _, j := range claimN(t, i, 40) {
			i.mustFinish(t, j.outcome(StateRetryable))
		}
		i.mustStore(t, newJobs(40)...)
		for n := 0; n < 40; n += 5 {
			jobs, more := i.claim(t, Claim{Limit: 10})
			due := 0
			for _, j := range jobs {
				if j.Attempt == 2 {
					due++
				}
			}
			if fresh := len(jobs) - due; due < 5 || fresh < 5 || (n < 30 && !more) {
				t.Fatalf("claim %d got %d due and %d fresh jobs of 10, more %t", n/5, due, fresh, more)
			}
		}
	})},
	{"of due and fresh jobs, those that are there are all claimed", on(func(t *testing.T, _ database, i *instance) {
		i.mustStore(t, newJobs(25)...)
		for _, j := range claimN(t, i, 25) {
			i.mustFinish(t, j.outcome(StateRetryable))
		}
		for _, limit := range []int{1, 2, 3, 10} { // due ones only
			var got []Job
			for more := true; more; {
				var jobs []Job
				jobs, more = i.claim(t, Claim{Limit: limit})
				if len(jobs) > limit {
					t.Fatalf("claimed %d of %d", len(jobs), limit)
				}
				if got = append(got, jobs...); len(got) > 25 {
					t.Fatal("claimed more than there is")
				}
			}
			if len(got) != 25 {
				t.Errorf("with limit %d, %d of 25 were claimed when there was no more", limit, len(got))
			}
			for _, j := range got {
				i.mustFinish(t, Outcome{ID: j.ID, Token: j.Token, State: StateAvailable})
			}
		}
	})},
	{"jobs that are not due are not claimed", on(func(t *testing.T, d database, i *instance) {
		ids := i.mustStore(t, newJobs(3)...)
		for n, j := range i.claimAll(t) {
			o := j.outcome(StateRetryable)
			o.Delay = time.Hour * time.Duration(n+1)
			i.mustFinish(t, o)
		}
		if jobs := i.claimAll(t); len(jobs) != 0 {
			t.Errorf("claimed %+v", jobs)
		}
		d.shift(t, -2*time.Hour, fmt.Sprintf("id = %d", ids[1]), "scheduled_at", "attempted_at")
		if j := i.mustClaim(t, ids[1]); j.Attempt != 2 {
			t.Errorf("attempt %d, want 2", j.Attempt)
		}
	})},
	{"a claim keeps to its bytes", on(func(t *testing.T, d database, i *instance) {
		jobs := newJobs(12)
		for n, j := range jobs {
			j.Args = fmt.Appendf(nil, `{"n": %d, "body": "%s"}`, n, strings.Repeat("語<<<", 64<<10/len("語<<<")))
		}
		i.mustStore(t, jobs...)
		for _, j := range claimN(t, i, 6) {
			i.mustFinish(t, j.outcome(StateRetryable))
		}
		claimed := 0
		for range 12 {
			before := d.rows(t)
			some, more := i.claim(t, Claim{Limit: 300, MaxBytes: 200 << 10})
			size := 0
			for _, j := range some {
				size += len(j.Args)
			}
			claimed += len(some)
			if len(some) == 0 || size > 200<<10 || more != (claimed < 12) {
				t.Fatalf("claimed %d jobs of %d bytes, %d in all, more %t", len(some), size, claimed, more)
			}
			for n, r := range d.rows(t) {
				if mine := slices.Contains(idsOf(some), r.id); !mine && (r.state != before[n].state || r.attempt != before[n].attempt ||
					len(r.attemptedBy) != len(before[n].attemptedBy) || r.errors != before[n].errors) {
					t.Errorf("a job that was left for the next claim was %+v, and is %+v", before[n], r)
				}
			}
			if claimed == 12 {
				return
			}
		}
		t.Errorf("%d of 12 were claimed", claimed)
	})},
	{"a job that is larger than the bytes is claimed alone", on(func(t *testing.T, _ database, i *instance) {
		jobs := newJobs(3)
		for n, j := range jobs {
			j.Args = fmt.Appendf(nil, `{"n": %d, "body": "%s"}`, n, strings.Repeat("x", 10000))
		}
		i.mustStore(t, jobs...)
		for n := range 3 {
			if some, more := i.claim(t, Claim{Limit: 10, MaxBytes: 1}); len(some) != 1 || more != (n < 2) {
				t.Errorf("claim %d: %d jobs, more %t", n, len(some), more)
			}
		}
	})},
	{"many that claim at once get each job once", func(t *testing.T, e engine) {
		d := e.create(t)
		instances := []*instance{d.open(t)}
		if e.shared {
			instances = append(instances, d.open(t))
		}
		const total = 600
		ids := instances[0].mustStore(t, newJobs(total)...)
		var mu sync.Mutex
		var got []int64
		var claimers sync.WaitGroup
		for n := range 8 {
			i := instances[n%len(instances)]
			claimers.Go(func() {
				for more := true; more; {
					var jobs []Job
					var err error
					jobs, more, err = i.Claim(t.Context(), Claim{Queue: testQueue, Token: newToken(), Limit: 7, MaxBytes: 1 << 20})
					if err != nil {
						t.Errorf("claiming: %v", err)
						return
					}
					outcomes := make([]Outcome, len(jobs))
					for k, j := range jobs {
						outcomes[k] = j.outcome(StateCompleted)
					}
					if applied, err := i.Finish(t.Context(), outcomes); err != nil || len(applied) != len(jobs) {
						t.Errorf("finishing: %d of %d, %v", len(applied), len(jobs), err)
					}
					mu.Lock()
					got = append(got, idsOf(jobs)...)
					mu.Unlock()
				}
			})
		}
		claimers.Wait()
		got = append(got, idsOf(instances[0].claimAll(t))...) // what others had locked while they looked
		slices.Sort(got)
		if !slices.Equal(got, ids) {
			t.Errorf("%d jobs were claimed, %d of them different, want %d", len(got), len(slices.Compact(slices.Clone(got))), total)
		}
	}},
}

func claimN(t *testing.T, i *instance, n int) []Job {
	t.Helper()
	jobs, _ := i.claim(t, Claim{Limit: n})
	if len(jobs) != n {
		t.Fatalf("claimed %d jobs, want %d", len(jobs), n)
	}
	return jobs
}

var finishBehaviours = []behaviour{
	{"each outcome has its state", on(func(t *testing.T, d database, i *instance) {
		for _, c := range []struct {
			state     State
			attempt   int
			finalized bool
		}{
			{StateCompleted, 1, true},
			{StateRetryable, 1, false},
			{StateDiscarded, 1, true},
			{StateCancelled, 1, true},
			{StateAvailable, 0, false},
		} {
			j := newJob(0)
			j.Queue = string(c.state)
			i.mustStore(t, j)
			jobs, _ := i.claim(t, Claim{Queue: j.Queue, Limit: 1})
			o := jobs[0].outcome(c.state)
			o.Delay = time.Hour
			i.mustFinish(t, o)
			r := find(t, d, o.ID)
			if r.state != c.state || r.attempt != c.attempt || r.finalized != c.finalized || r.errors != min(len(o.Error), 1) {
				t.Errorf("%s: %+v", c.state, r)
			}
			if c.state == StateRetryable && (r.due-time.Hour).Abs() > time.Minute {
				t.Errorf("it is due in %s, want an hour", r.due)
			}
		}
	})},
	{"errors are appended, whatever the outcome but a release", on(func(t *testing.T, d database, i *instance) {
		for _, last := range []State{StateCompleted, StateRetryable, StateDiscarded, StateCancelled, StateAvailable} {
			j := newJob(0)
			j.Queue = string(last)
			id := i.mustStore(t, j)[0]
			for n := range 4 {
				jobs, _ := i.claim(t, Claim{Queue: j.Queue, Limit: 1})
				if len(jobs) != 1 || jobs[0].Attempt != n+1 {
					t.Fatalf("claim %d: %+v", n, jobs)
				}
				o := jobs[0].outcome(StateRetryable)
				if n == 3 {
					o.State = last
				}
				o.Error = testError(n + 1)
				i.mustFinish(t, o)
			}
			read, err := d.client(t).JobGet(t.Context(), id)
			if err != nil {
				t.Fatalf("River's client: %v", err)
			}
			for n, e := range read.Errors {
				if e.Attempt != n+1 || e.Error != "status 500" || e.At.Year() != 2026 {
					t.Errorf("error %d is %+v", n, e)
				}
			}
			want := 4
			if last == StateAvailable { // which is no attempt
				want = 3
			}
			if len(read.Errors) != want {
				t.Errorf("%s: %d errors, want %d", last, len(read.Errors), want)
			}
		}
	})},
	{"only the holder of a job can end its claim", on(func(t *testing.T, d database, i *instance) {
		for _, state := range []State{StateCompleted, StateRetryable, StateDiscarded, StateCancelled, StateAvailable} {
			id := i.mustStore(t, newJob(0))[0]
			first := i.mustClaim(t, id)
			i.mustFinish(t, first.outcome(StateRetryable))
			if applied := i.finish(t, first.outcome(state)); len(applied) != 0 {
				t.Errorf("%s had an effect on a job that nobody holds", state)
			}
			wantState(t, d, id, StateRetryable, 1)
			second := i.mustClaim(t, id)
			other := second.outcome(state)
			other.Token = newToken()
			if applied := i.finish(t, first.outcome(state), other); len(applied) != 0 {
				t.Errorf("%s with the token of another claim had an effect", state)
			}
			if r := find(t, d, id); r.state != StateRunning || r.attempt != 2 || r.errors != 1 || r.holder() != i.holder(second.Token) {
				t.Errorf("after the late %s it is %+v", state, r)
			}
			i.mustFinish(t, second.outcome(StateCompleted))
			if applied := i.finish(t, second.outcome(state)); len(applied) != 0 {
				t.Errorf("%s had an effect on a completed job", state)
			}
			wantState(t, d, id, StateCompleted, 2)
		}
	})},
	{"a batch applies those outcomes that count", on(func(t *testing.T, d database, i *instance) {
		i.mustStore(t, newJobs(10)...)
		jobs := claimN(t, i, 10)
		var outcomes []Outcome
		var want []int64
		states := []State{StateCompleted, StateRetryable, StateDiscarded, StateCancelled, StateAvailable}
		for n, j := range jobs {
			o := j.outcome(states[n/2])
			if n%2 > 0 {
				o.Token = newToken()
			} else {
				want = append(want, j.ID)
			}
			outcomes = append(outcomes, o)
		}
		outcomes = append(outcomes, Outcome{ID: 1 << 40, Token: jobs[0].Token, State: StateCompleted})
		slices.Reverse(outcomes)
		slices.Sort(want)
		if applied := i.finish(t, outcomes...); !slices.Equal(applied, want) {
			t.Errorf("applied %v, want %v", applied, want)
		}
		for n, j := range jobs {
			r := find(t, d, j.ID)
			if want := map[bool]State{true: states[n/2], false: StateRunning}[n%2 == 0]; r.state != want {
				t.Errorf("job %d is %s, want %s", n, r.state, want)
			}
		}
	})},
	{"no outcomes can be applied", on(func(t *testing.T, _ database, i *instance) {
		if applied := i.finish(t); len(applied) != 0 {
			t.Errorf("applied %v", applied)
		}
	})},
	{"a released job is as it was before its claim", on(func(t *testing.T, d database, i *instance) {
		id := i.mustStore(t, newJob(0))[0]
		release := func() {
			t.Helper()
			before := find(t, d, id)
			j := i.mustClaim(t, id)
			i.mustFinish(t, j.outcome(StateAvailable))
			after := find(t, d, id)
			if after.state != before.state || after.attempt != before.attempt || after.errors != before.errors ||
				!slices.Equal(after.attemptedBy, before.attemptedBy) || after.finalized != before.finalized {
				t.Errorf("it was %+v, and is %+v", before, after)
			}
		}
		release()
		release()
		i.mustFinish(t, i.mustClaim(t, id).outcome(StateRetryable))
		release()
		i.mustFinish(t, i.mustClaim(t, id).outcome(StateRetryable))
		release()
		if err := (clientUser{d.client(t), t.Context()}).retry(id); err != nil {
			t.Fatal(err)
		}
		wantState(t, d, id, StateAvailable, 2)
		release()
		release()
		if j := i.mustClaim(t, id); j.Attempt != 3 {
			t.Errorf("attempt %d, want 3", j.Attempt)
		}
	})},
	{"a job that was claimed when it was stored can be released", on(func(t *testing.T, d database, i *instance) {
		j := newJob(0)
		j.Token = newToken()
		id := i.mustStore(t, j)[0]
		i.mustFinish(t, Outcome{ID: id, Token: j.Token, State: StateAvailable})
		wantState(t, d, id, StateAvailable, 0)
		if again := i.mustClaim(t, id); again.Attempt != 1 {
			t.Errorf("attempt %d, want 1", again.Attempt)
		}
	})},
	{"the number of attempts is not bounded", on(func(t *testing.T, d database, i *instance) {
		j := newJob(0)
		j.MaxAttempts = 2 // the worker decides
		id := i.mustStore(t, j)[0]
		for n := range 130 {
			got := i.mustClaim(t, id)
			if got.Attempt != n+1 {
				t.Fatalf("attempt %d, want %d", got.Attempt, n+1)
			}
			i.mustFinish(t, got.outcome(StateRetryable))
		}
		if r := find(t, d, id); len(r.attemptedBy) > 100 || r.errors != 130 {
			t.Errorf("it has %d errors, want 130; %d instances, want at most 100", r.errors, len(r.attemptedBy))
		}
	})},
	{"an error that the database refuses takes no other outcome along", on(func(t *testing.T, d database, i *instance) {
		i.mustStore(t, newJobs(3)...)
		jobs := claimN(t, i, 3)
		var outcomes []Outcome
		for _, j := range jobs {
			outcomes = append(outcomes, j.outcome(StateRetryable))
		}
		outcomes[1].Error = []byte(`{"error": "cut`)
		if _, err := i.Finish(t.Context(), outcomes); err != nil {
			t.Errorf("finishing: %v", err)
		}
		wantState(t, d, jobs[0].ID, StateRetryable, 1)
		wantState(t, d, jobs[2].ID, StateRetryable, 1)
	})},
	{"running jobs of this process are known", on(func(t *testing.T, _ database, i *instance) {
		handed := newJob(0)
		handed.Token = newToken()
		handedID := i.mustStore(t, handed)[0]
		claimedID := i.mustStore(t, newJob(1))[0]
		claimed := i.mustClaim(t, claimedID)
		i.mustStore(t, newJob(2))
		running, err := i.OwnRunning(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[int64]Token)
		for _, r := range running {
			got[r.ID] = r.Token
			if r.CancelRequested {
				t.Errorf("nobody has asked for the end of %d", r.ID)
			}
		}
		if len(got) != 2 || got[handedID] != handed.Token || got[claimedID] != claimed.Token {
			t.Errorf("running: %+v", running)
		}
	})},
	{"expired jobs are deleted, in batches", on(func(t *testing.T, d database, i *instance) {
		states := ourStates
		ids := make(map[State][]int64)
		for _, queue := range []string{"mine", "other"} {
			for _, state := range states {
				for range 6 {
					j := newJob(0)
					j.Queue = queue
					id := i.mustStore(t, j)[0]
					i.bring(t, Claim{Queue: queue, Limit: 1, Except: ids[StateAvailable]}, state)
					ids[state] = append(ids[state], id)
				}
			}
		}
		d.shift(t, -time.Hour, "id % 2 = 0", "finalized_at")
		d.shift(t, -100*time.Hour, "true", "created_at", "scheduled_at", "attempted_at")
		expire := func(keepCompleted, keepDead time.Duration, want ...int64) {
			t.Helper()
			for _, n := range want {
				got, err := i.Expire(t.Context(), Expiry{Queues: []string{"mine", "another"}, KeepCompleted: keepCompleted, KeepDead: keepDead, Limit: 4})
				if err != nil || got != n {
					t.Errorf("%d were deleted (%v), want %d", got, err, n)
				}
			}
		}
		count := func() string {
			counts := make(map[string]int)
			for _, r := range d.rows(t) {
				counts[r.queue+" "+string(r.state)]++
			}
			text, _ := json.Marshal(counts)
			return string(text)
		}
		before := count()
		expire(2*time.Hour, 2*time.Hour, 0)
		if after := count(); after != before {
			t.Errorf("%s, want %s", after, before)
		}
		expire(30*time.Minute, 2*time.Hour, 3, 0)
		expire(2*time.Hour, 30*time.Minute, 4, 2, 0)
		expire(0, 2*time.Hour, 3, 0)
		if after, want := count(), strings.NewReplacer(
			`"mine cancelled":6`, `"mine cancelled":3`, `"mine discarded":6`, `"mine discarded":3`, `"mine completed":6,`, ``,
		).Replace(before); after != want {
			t.Errorf("left are %s, want %s", after, want)
		}
	})},
}
