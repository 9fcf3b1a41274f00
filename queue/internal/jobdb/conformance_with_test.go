package jobdb

import (
	"fmt"
	"maps"
	"strings"
	"testing"
)

// newJobWith makes a job that has n others with it.
func newJobWith(n int, key string) *NewJob {
	j := newJob(0)
	if key != "" {
		j.UniqueKey = []byte(key)
	}
	for k := range n {
		other := newJob(k + 1)
		other.Queue = fmt.Sprint("other-", k+1)
		j.With = append(j.With, other)
	}
	return j
}

func countRows(t *testing.T, d database) int {
	t.Helper()
	return len(d.rows(t))
}

// withBehaviours are those of jobs that are stored together.
var withBehaviours = []behaviour{
	{"jobs that are stored together are what was stored", on(func(t *testing.T, d database, i *instance) {
		for _, key := range []string{"", "key"} {
			j := newJobWith(3, key)
			j.With[1].Token = newToken()
			j.With[2].Tags = []string{"workspace"}
			s := i.store(t, j)[0]
			if s.ID == 0 || len(s.With) != 3 {
				t.Fatalf("with the key %q: %+v", key, s)
			}
			for k, other := range s.With {
				r := find(t, d, other.ID)
				claimed := k == 1
				if other.Err != nil || r.queue != fmt.Sprint("other-", k+1) || r.key != "" || len(r.tags) != len(j.With[k].Tags) ||
					!sameJSON(t, []byte(r.args), j.With[k].Args) || (r.state == StateRunning) != claimed || (r.attempt == 1) != claimed {
					t.Errorf("%+v is %+v", other, r)
				}
			}
			i.mustFinish(t, Outcome{ID: s.With[1].ID, Token: j.With[1].Token, State: StateCompleted})
			jobs, _ := i.claim(t, Claim{Queue: "other-1", Limit: 5})
			if len(jobs) != 1 || jobs[0].ID != s.With[0].ID || jobs[0].Attempt != 1 {
				t.Errorf("claimed %+v", jobs)
			}
		}
	})},
	{"what is with a duplicate is not stored", on(func(t *testing.T, d database, i *instance) {
		first := i.store(t, newJobWith(2, "key"))[0]
		if len(first.With) != 2 {
			t.Fatalf("the first one: %+v", first)
		}
		for range 2 {
			if s := i.store(t, newJobWith(2, "key"))[0]; !s.Duplicate || s.With != nil {
				t.Errorf("again: %+v", s)
			}
		}
		if n := countRows(t, d); n != 3 {
			t.Errorf("%d rows, want 3", n)
		}
	})},
	{"results of jobs that are stored together are in their order", on(func(t *testing.T, d database, i *instance) {
		i.mustStore(t, newJobWith(0, "key 9"), newJobWith(0, "key 1"))
		var jobs []*NewJob
		for n := range 12 {
			key := ""
			if n%3 > 0 {
				key = fmt.Sprint("key ", 11-n)
			}
			j := newJobWith(n%4, key)
			for k, other := range j.With {
				other.Args = fmt.Appendf(nil, `{"n": "%d %d"}`, n, k)
			}
			jobs = append(jobs, j)
		}
		want := 2
		for n, s := range i.store(t, jobs...) {
			if duplicate := n == 2 || n == 10; s.Duplicate != duplicate {
				t.Errorf("job %d: %+v", n, s)
				continue
			} else if duplicate {
				continue
			}
			want += 1 + n%4
			if len(s.With) != n%4 {
				t.Errorf("job %d: %+v, want %d with it", n, s, n%4)
			}
			for k, other := range s.With {
				if r := find(t, d, other.ID); !sameJSON(t, []byte(r.args), jobs[n].With[k].Args) {
					t.Errorf("%d with job %d has the id of %s", k, n, r.args)
				}
			}
		}
		if n := countRows(t, d); n != want {
			t.Errorf("%d rows, want %d", n, want)
		}
	})},
	{"what is with a refused job is not stored", func(t *testing.T, e engine) {
		d := e.create(t)
		i := d.open(t)
		for name, spoil := range spoilers(e) {
			j := newJobWith(2, "")
			spoil(j)
			if s := i.store(t, j)[0]; s.Err == nil || s.ID != 0 || s.With != nil {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if n := countRows(t, d); n != 0 {
			t.Errorf("%d rows, want none", n)
		}
	}},
	{"a job is stored without what is refused of those with it", func(t *testing.T, e engine) {
		d := e.create(t)
		i := d.open(t)
		for name, spoil := range spoilers(e) {
			for place := range 3 {
				j := newJobWith(3, fmt.Sprint(name, place))
				j.With[0].Token = newToken()
				spoil(j.With[place])
				before := countRows(t, d)
				stored := i.store(t, newJobWith(1, ""), j, newJobWith(1, "known"))
				if s := stored[1]; s.ID == 0 || s.Err != nil || len(s.With) != 3 {
					t.Fatalf("%s at %d: %+v", name, place, s)
				}
				for k, s := range stored[1].With {
					if refused := k == place; (s.Err != nil) != refused || (s.ID == 0) != refused {
						t.Errorf("%s at %d: number %d is %+v", name, place, k, s)
					}
				}
				want := before + 2 + 3
				if stored[2].ID != 0 {
					want += 2
				}
				if n := countRows(t, d); n != want {
					t.Errorf("%s at %d: %d rows, want %d", name, place, n, want)
				}
				if s := i.store(t, j)[0]; !s.Duplicate || s.With != nil {
					t.Errorf("%s at %d, again: %+v", name, place, s)
				}
			}
		}
	}},
}

// spoilers returns what makes the engine refuse a job, by name.
func spoilers(e engine) map[string]func(*NewJob) {
	all := map[string]func(*NewJob){
		"a kind that is too long": func(j *NewJob) { j.Kind = strings.Repeat("k", 128) },
		"an empty queue":          func(j *NewJob) { j.Queue = "" },
	}
	maps.Copy(all, e.refused)
	return all
}
