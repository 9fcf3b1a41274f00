package jobdb

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// jobOf makes a job of a workspace.
func jobOf(workspace string, n int) *NewJob {
	j := newJob(n)
	j.Tags = []string{workspace, fmt.Sprintf("notification-%d", n)}
	return j
}

// storeOf stores jobs of workspaces, as in "a,a,b".
func (i *instance) storeOf(t *testing.T, workspaces string) []int64 {
	t.Helper()
	var jobs []*NewJob
	for n, workspace := range strings.FieldsFunc(workspaces, func(r rune) bool { return r == ',' }) {
		jobs = append(jobs, jobOf(workspace, n))
	}
	return i.mustStore(t, jobs...)
}

// workspacesOf lists the workspaces of jobs, sorted.
func workspacesOf(jobs []Job) string {
	var workspaces []string
	for _, j := range jobs {
		workspaces = append(workspaces, j.Workspace)
	}
	slices.Sort(workspaces)
	return strings.Join(workspaces, ",")
}

func (i *instance) claimsOf(t *testing.T, c Claim, wants ...string) {
	t.Helper()
	for n, want := range wants {
		jobs, more := i.claim(t, c)
		if got := workspacesOf(jobs); got != want || !more && n < len(wants)-1 {
			t.Errorf("claim %d: jobs of %q, want %q; more %t", n, got, want, more)
		}
	}
}

var turnsBehaviours = []behaviour{
	{"workspaces have shares of a claim", on(func(t *testing.T, _ database, i *instance) {
		i.storeOf(t, strings.Repeat("burst,", 50)+"b,c,b,d")
		i.claimsOf(t, Claim{Limit: 8}, "b,b,burst,burst,burst,burst,c,d", "burst,burst,burst,burst,burst,burst,burst,burst")
	})},
	{"workspaces take turns over claims", on(func(t *testing.T, _ database, i *instance) {
		i.storeOf(t, strings.Repeat("a,", 9)+strings.Repeat("b,", 9)+"c,c,d,d")
		i.claimsOf(t, Claim{Limit: 1}, "a", "b", "c", "d", "a", "b", "c", "d", "a", "b", "a")
		i.claimsOf(t, Claim{Limit: 3}, "a,b,b")
	})},
	{"a job of another workspace is claimed before a burst that was stored earlier", func(t *testing.T, e engine) {
		d := e.create(t)
		i := d.open(t)
		i.storeOf(t, strings.Repeat("burst,", 300))
		i.claimsOf(t, Claim{Limit: 20}, strings.TrimSuffix(strings.Repeat("burst,", 20), ","))
		i.storeOf(t, "late")
		i.die()
		i = d.open(t) // a restart loses nothing of it
		jobs, _ := i.claim(t, Claim{Limit: 20})
		if len(jobs) != 20 || !strings.HasSuffix(workspacesOf(jobs), "burst,late") {
			t.Errorf("claimed %q", workspacesOf(jobs))
		}
	}},
	{"a workspace's jobs are claimed in the order in which they were stored", on(func(t *testing.T, _ database, i *instance) {
		i.storeOf(t, strings.Repeat("a,b,c,", 20))
		last := make(map[string]int64)
		for range 15 {
			jobs, _ := i.claim(t, Claim{Limit: 4})
			slices.SortFunc(jobs, func(a, b Job) int { return int(a.ID - b.ID) })
			first := last["a"] + last["b"] + last["c"]
			for _, j := range jobs {
				if j.ID <= last[j.Workspace] {
					t.Errorf("job %d of %s was claimed behind %d", j.ID, j.Workspace, last[j.Workspace])
				}
				if step := j.ID - last[j.Workspace]; first > 0 && last[j.Workspace] > 0 && step != 3 {
					t.Errorf("of %s, %d was claimed next to %d", j.Workspace, j.ID, last[j.Workspace])
				}
				last[j.Workspace] = j.ID
			}
		}
	})},
	{"a thousand workspaces have their turns with a small limit", on(func(t *testing.T, _ database, i *instance) {
		jobs := make([]*NewJob, 0, 2000)
		for n := range 2000 {
			jobs = append(jobs, jobOf(fmt.Sprintf("w%03d", n%1000), n))
		}
		i.mustStore(t, jobs...)
		seen := make(map[string]int)
		for n := 0; n < 1000; {
			some, more := i.claim(t, Claim{Limit: 16})
			if len(some) != 16 || !more {
				t.Fatalf("after %d, claimed %d, more %t", n, len(some), more)
			}
			for _, j := range some {
				if n++; n <= 1000 && seen[j.Workspace] > 0 {
					t.Fatalf("%s had a second turn after %d", j.Workspace, n)
				}
				seen[j.Workspace]++
			}
		}
		if rest := i.claimAll(t); len(rest) != 2000-1008 {
			t.Errorf("%d jobs were left, want 992", len(rest))
		}
	})},
	{"excepted jobs take no turns", on(func(t *testing.T, _ database, i *instance) {
		ids := i.storeOf(t, "a,b,c,d,e,f,g,h,z,z,z,z")
		i.claimsOf(t, Claim{Limit: 2, Except: ids[:7]}, "h,z", "z,z", "z")
		i.claimsOf(t, Claim{Limit: 20, Except: ids[:6]}, "g")
		i.claimsOf(t, Claim{Limit: 20}, "a,b,c,d,e,f")
	})},
	{"a claim's bytes are shared as well", on(func(t *testing.T, _ database, i *instance) {
		for workspace := range strings.SplitSeq("a,a,a,a,b,c", ",") {
			j := jobOf(workspace, 0)
			j.Args = fmt.Appendf(nil, `{"body": "%s"}`, strings.Repeat("x", 1000))
			i.mustStore(t, j)
		}
		i.claimsOf(t, Claim{Limit: 6, MaxBytes: 1}, "a", "b", "c", "a", "a", "a")
	})},
	{"jobs without a workspace are one of their own", on(func(t *testing.T, _ database, i *instance) {
		i.mustStore(t, newJobs(5)...)
		i.storeOf(t, "a,a")
		jobs, _ := i.claim(t, Claim{Limit: 4})
		if got := workspacesOf(jobs); got != ",,a,a" {
			t.Errorf("claimed jobs of %q", got)
		}
	})},
	{"a better priority is claimed first, in turns", on(func(t *testing.T, d database, i *instance) {
		i.storeOf(t, "a,a,b,b")
		ids := i.storeOf(t, "c,c,d")
		d.exec(t, fmt.Sprintf("UPDATE river_job SET priority = 2 WHERE id < %d", ids[0]))
		i.claimsOf(t, Claim{Limit: 2}, "c,d", "a,c", "a,b", "b")
	})},
	{"malformed jobs take no turns from others", func(t *testing.T, e engine) {
		d := e.create(t)
		i := d.open(t)
		ids := i.storeOf(t, strings.Repeat("a,", 30)+"b,c")
		for n, broken := range e.broken {
			broken.spoil(t, d, ids[n])
		}
		var got []Job
		for range 2 {
			jobs, _ := i.claim(t, Claim{Limit: 12})
			got = append(got, jobs...)
		}
		if workspaces := workspacesOf(got); !strings.HasSuffix(workspaces, "a,b,c") {
			t.Errorf("claimed %q", workspaces)
		}
		if rest := i.claimAll(t); len(rest)+len(got) < len(ids)-len(e.broken) {
			t.Errorf("%d of %d jobs were claimed", len(rest)+len(got), len(ids))
		}
	}},
	{"due jobs keep their half beside turns", on(func(t *testing.T, _ database, i *instance) {
		i.storeOf(t, strings.Repeat("a,", 10))
		for _, j := range claimN(t, i, 10) {
			i.mustFinish(t, j.outcome(StateRetryable))
		}
		i.storeOf(t, strings.Repeat("b,", 20)+"c,d")
		jobs, more := i.claim(t, Claim{Limit: 10})
		if got := workspacesOf(jobs); !more || !strings.HasPrefix(got, "a,a,a,a,a,b,b,") || !strings.HasSuffix(got, ",c,d") {
			t.Errorf("claimed %q, more %t", got, more)
		}
	})},
}
