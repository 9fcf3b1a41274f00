package jobdb

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// exportAll follows an export to its end.
func exportAll(t *testing.T, i *instance, limit int) (jobs []ExportedJob) {
	t.Helper()
	for from := int64(0); ; {
		some, next, err := i.Export(t.Context(), from, limit)
		if err != nil || len(some) > limit {
			t.Fatalf("exporting: %d jobs (%v)", len(some), err)
		}
		if jobs = append(jobs, some...); next == 0 {
			return jobs
		}
		from = next
	}
}

// carry takes jobs through the form in which they are outside of a database.
func carry(t *testing.T, jobs []ExportedJob) (carried []ExportedJob) {
	t.Helper()
	for _, job := range jobs {
		text, err := json.Marshal(job)
		if err != nil {
			t.Fatal(err)
		}
		var read ExportedJob
		if err := json.Unmarshal(text, &read); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		carried = append(carried, read)
	}
	return carried
}

// comparable returns an exported job as a text that is the same in all databases, except
// for its id, and times below a millisecond.
func (j ExportedJob) comparable(t *testing.T) string {
	t.Helper()
	j.ID = 0
	fields := j.times()
	if j.UniqueKey != nil {
		j.Origin = ""
	}
	for _, at := range append(slices.Clip(fields[:]), &j.AgeFrom) {
		*at = at.Truncate(time.Millisecond)
	}
	var args, metadata any
	if json.Unmarshal(j.Args, &args) != nil || json.Unmarshal(j.Metadata, &metadata) != nil {
		t.Fatalf("args %s, metadata %s", j.Args, j.Metadata)
	}
	var failures []any
	for _, text := range j.Errors {
		var failure any
		if err := json.Unmarshal(text, &failure); err != nil {
			t.Fatal(err)
		}
		failures = append(failures, failure)
	}
	j.Args, j.Metadata, j.Errors = nil, nil, nil
	text, err := json.Marshal([]any{j, args, metadata, failures})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (i *instance) mustImport(t *testing.T, jobs []ExportedJob, imported, duplicates int64) {
	t.Helper()
	n, twice, err := i.Import(t.Context(), carry(t, jobs))
	if err != nil || n != imported || twice != duplicates {
		t.Errorf("imported %d jobs, and %d duplicates (%v), want %d and %d", n, twice, err, imported, duplicates)
	}
}

// mixedJobs stores one job of each state, one after a retry by a person, and one without a
// unique key and with whatever may be in a job.
func mixedJobs(t *testing.T, d database, i *instance) {
	t.Helper()
	ids := oneOfEachState(t, i)
	if _, err := i.Retry(t.Context(), ids[3:4]); err != nil {
		t.Fatal(err)
	}
	again, _ := i.claim(t, Claim{Queue: "queue-completed", Limit: 1})
	i.mustFinish(t, again[0].outcome(StateAvailable)) // so that it has age_from
	plain := newJob(1)
	plain.Queue, plain.Tags = "plain", []string{`"<\>`, "é"}
	plain.Args = []byte(`{"body": "<\u2028>&\"é", "n": 12345678901234567890, "nested": [{"a": null}]}`)
	twin := newJob(1)
	twin.Queue, twin.Args = plain.Queue, plain.Args
	last := i.mustStore(t, plain, twin)
	jobs, _ := i.claim(t, Claim{Queue: plain.Queue, Limit: 1})
	o := jobs[0].outcome(StateRetryable)
	o.Delay = time.Hour
	i.mustFinish(t, o)
	d.shift(t, -time.Hour, fmt.Sprintf("id = %d", last[0]), "created_at")
}

// moved holds what happens when all jobs go from one database to another, and back.
func moved(t *testing.T, from, to, back *instance) {
	t.Helper()
	jobs := exportAll(t, from, 3)
	n := int64(len(jobs))
	to.mustImport(t, jobs[:3], 3, 0) // and then it broke off
	to.mustImport(t, jobs, n-3, 3)
	to.mustImport(t, jobs, 0, n)
	there := exportAll(t, to, 1000)
	back.mustImport(t, there, n, 0)
	back.mustImport(t, there, 0, n)
	home := exportAll(t, back, 1000)
	for name, got := range map[string][]ExportedJob{"there": there, "back": home} {
		if len(got) != len(jobs) {
			t.Fatalf("%s are %d jobs, want %d", name, len(got), len(jobs))
		}
		var want, have []string
		for k := range jobs {
			want, have = append(want, jobs[k].comparable(t)), append(have, got[k].comparable(t))
		}
		slices.Sort(want)
		slices.Sort(have)
		for k := range want {
			if have[k] != want[k] {
				t.Errorf("%s is\n%s, want\n%s", name, have[k], want[k])
			}
		}
	}
}

// newSQLite returns another database, beside the one that a test is about.
func newSQLite(t *testing.T) *instance {
	t.Helper()
	return (&sqliteFile{path: filepath.Join(t.TempDir(), "other.db")}).open(t)
}

var moveBehaviours = []behaviour{
	{"jobs move to SQLite and back", on(func(t *testing.T, d database, i *instance) {
		mixedJobs(t, d, i)
		other := newSQLite(t)
		moved(t, i, other, newSQLite(t))
		i.mustImport(t, exportAll(t, other, 1000), 0, int64(len(d.rows(t))))
		i.mustImport(t, exportAll(t, i, 1000), 0, int64(len(d.rows(t))))
	})},
	{"jobs move from SQLite and back", func(t *testing.T, e engine) {
		f := &sqliteFile{path: filepath.Join(t.TempDir(), "source.db")}
		source := f.open(t)
		mixedJobs(t, f, source)
		moved(t, source, e.create(t).open(t), newSQLite(t))
	}},
	{"a claimed job is exported as it would be released", on(func(t *testing.T, d database, i *instance) {
		id := i.mustStore(t, newJob(1))[0]
		fresh := i.mustClaim(t, id)
		want := func(state State, attempt int) {
			t.Helper()
			jobs := exportAll(t, i, 10)
			if len(jobs) != 1 || jobs[0].State != state || jobs[0].Attempt != attempt || len(jobs[0].AttemptedBy) != attempt {
				t.Errorf("exported %+v, want it %s after %d attempts", jobs, state, attempt)
			}
			jobs[0].State = StateRunning
			if n, _, err := i.Import(t.Context(), jobs); err == nil || n != 0 || !strings.Contains(err.Error(), fmt.Sprintf("job %d", id)) {
				t.Errorf("imported %d claimed jobs (%v)", n, err)
			}
		}
		want(StateAvailable, 0)
		i.mustFinish(t, fresh.outcome(StateRetryable))
		again := i.mustClaim(t, id)
		want(StateRetryable, 1)
		i.mustFinish(t, again.outcome(StateDiscarded))
		if _, err := i.Retry(t.Context(), []int64{id}); err != nil {
			t.Fatal(err)
		}
		i.mustClaim(t, id)
		want(StateAvailable, 2)
		wantState(t, d, id, StateRunning, 3)
	})},
	{"imported jobs are delivered, and are duplicates", on(func(t *testing.T, d database, i *instance) {
		f := &sqliteFile{path: filepath.Join(t.TempDir(), "source.db")}
		source := f.open(t)
		j := newJob(5)
		j.UniqueKey = []byte("key")
		source.mustStore(t, j)
		i.mustImport(t, exportAll(t, source, 10), 1, 0)
		if stored := i.store(t, j); !stored[0].Duplicate {
			t.Errorf("stored %+v, want a duplicate", stored[0])
		}
		jobs := claimN(t, i, 1)
		if jobs[0].Attempt != 1 || !sameJSON(t, jobs[0].Args, j.Args) {
			t.Errorf("claimed %+v", jobs[0])
		}
		i.mustFinish(t, jobs[0].outcome(StateCompleted))
		wantState(t, d, jobs[0].ID, StateCompleted, 1)
	})},
	{"of what is imported, only what is wrong is refused", on(func(t *testing.T, d database, i *instance) {
		good := ExportedJob{
			Origin: "here/1", Queue: testQueue, Kind: testKind, State: StateAvailable, Priority: 1, MaxAttempts: 20,
			CreatedAt: time.Now(), ScheduledAt: time.Now(), Args: []byte(`{"n": 1}`),
		}
		var jobs []ExportedJob
		for n, spoil := range []func(*ExportedJob){
			func(*ExportedJob) {},
			func(j *ExportedJob) { j.State = "nonesuch" },
			func(j *ExportedJob) { j.State = StateRunning },
			func(j *ExportedJob) { j.State = StateCompleted }, // without an end
			func(j *ExportedJob) { j.Priority = 5 },
			func(j *ExportedJob) { j.Queue = "" },
			func(j *ExportedJob) { j.Kind = strings.Repeat("k", 128) },
			func(j *ExportedJob) { j.Args = []byte("[]") },
			func(j *ExportedJob) { j.Args = nil },
			func(j *ExportedJob) { j.Errors = append(j.Errors, []byte("7")) },
			func(j *ExportedJob) { j.Origin = "" },
			func(j *ExportedJob) { j.CreatedAt = time.Time{} },
			func(j *ExportedJob) { j.Metadata = []byte("7") }, // which is left out
		} {
			job := good
			job.ID = int64(100 + n)
			job.Origin = fmt.Sprintf("here/%d", n)
			spoil(&job)
			jobs = append(jobs, job)
		}
		imported, duplicates, err := i.Import(t.Context(), jobs)
		if imported != 2 || duplicates != 0 {
			t.Errorf("imported %d jobs, and %d duplicates, want 2 and 0", imported, duplicates)
		}
		if refused, ok := errors.AsType[*RefusedError](err); !ok || len(refused.Jobs) != 11 {
			t.Errorf("refused are %v, want 11 jobs", err)
		}
		for _, job := range jobs[1:12] {
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("job %d: ", job.ID)) {
				t.Errorf("no error names job %d: %v", job.ID, err)
			}
		}
		if rows := d.rows(t); len(rows) != 2 {
			t.Errorf("%d rows, want 2", len(rows))
		}
	})},
	{"rows that are malformed are exported", func(t *testing.T, e engine) {
		d := e.create(t)
		i := d.open(t)
		for _, b := range e.broken {
			id := i.mustStore(t, newJob(1))[0]
			b.spoil(t, d, id)
		}
		jobs := exportAll(t, i, 100)
		if len(jobs) != len(e.broken) {
			t.Errorf("exported %d jobs, want %d", len(jobs), len(e.broken))
		}
		jobs = slices.DeleteFunc(jobs, func(j ExportedJob) bool { return string(j.Args) == "null" }) // which cannot be imported
		newSQLite(t).mustImport(t, jobs, int64(len(jobs)), 0)
	}},
}
