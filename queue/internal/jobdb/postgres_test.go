//go:build postgres

package jobdb

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

// pgShared is the server that .ci/postgres starts.
const pgShared = "postgres://postgres@127.0.0.1:5432/test"

// pgSchema returns the name of a schema that is dropped when the test ends, and a pool
// to look into it.
func pgSchema(t testing.TB, url string) (string, *pgxpool.Pool) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	schema := fmt.Sprintf("jobdb_%d", rand.Uint64())
	t.Cleanup(func() {
		if _, err := pool.Exec(context.Background(), "DROP SCHEMA IF EXISTS "+schema+" CASCADE"); err != nil {
			t.Error(err)
		}
		pool.Close()
	})
	return schema, pool
}

func pgOpen(t testing.TB, url, schema string) *postgresDB {
	t.Helper()
	db, err := OpenPostgres(t.Context(), url, schema, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db.(*postgresDB)
}

// pgTest is a database for one test.
type pgTest struct {
	*postgresDB
	testing.TB
	pool  *pgxpool.Pool
	token Token
}

func newPgTest(t testing.TB) *pgTest {
	t.Helper()
	schema, pool := pgSchema(t, pgShared)
	return &pgTest{postgresDB: pgOpen(t, pgShared, schema), TB: t, pool: pool}
}

// empty returns the same database for a subtest, without jobs.
func (p *pgTest) empty(t testing.TB) *pgTest {
	p = &pgTest{postgresDB: p.postgresDB, TB: t, pool: p.pool, token: p.token + Token(rand.N(1<<30))}
	p.run("TRUNCATE {s}river_job")
	return p
}

func (p *pgTest) next() Token {
	p.token++
	return p.token
}

// run runs a statement on the side.
func (p *pgTest) run(sql string, args ...any) {
	p.Helper()
	if _, err := p.pool.Exec(p.Context(), p.sql(sql), args...); err != nil {
		p.Fatalf("%s: %v", sql, err)
	}
}

// text returns what a query finds, as text.
func (p *pgTest) text(sql string, args ...any) (found string) {
	p.Helper()
	if err := p.pool.QueryRow(p.Context(), p.sql(sql), args...).Scan(&found); err != nil {
		p.Fatalf("%s: %v", sql, err)
	}
	return found
}

func (p *pgTest) store(jobs ...*NewJob) []Stored {
	p.Helper()
	stored, err := p.Store(p.Context(), func() []*NewJob { return jobs })
	if err != nil {
		p.Fatal(err)
	}
	return stored
}

// stored stores one job and returns its id.
func (p *pgTest) stored(queue, args string) int64 {
	p.Helper()
	stored := p.store(pgJob(queue, args, "", 0))[0]
	if stored.ID == 0 {
		p.Fatalf("not stored: %+v", stored)
	}
	return stored.ID
}

func (p *pgTest) claim(claim Claim) ([]Job, bool) {
	p.Helper()
	if claim.Token == 0 {
		claim.Token = p.next()
	}
	if claim.Limit == 0 {
		claim.Limit = 10
	}
	if claim.MaxBytes == 0 {
		claim.MaxBytes = 1 << 20
	}
	jobs, more, err := p.Claim(p.Context(), claim)
	if err != nil {
		p.Fatal(err)
	}
	return jobs, more
}

// one claims the only job of a queue.
func (p *pgTest) one(queue string) Job {
	p.Helper()
	jobs, _ := p.claim(Claim{Queue: queue})
	if len(jobs) != 1 {
		p.Fatalf("claimed %d jobs, want 1", len(jobs))
	}
	return jobs[0]
}

func (p *pgTest) finish(outcomes ...Outcome) []int64 {
	p.Helper()
	applied, err := p.Finish(p.Context(), outcomes)
	if err != nil {
		p.Fatal(err)
	}
	return applied
}

func pgJob(queue, args, key string, token Token) *NewJob {
	job := &NewJob{Queue: queue, Kind: "conversation.user.created", Args: []byte(args), MaxAttempts: 25, Token: token}
	if key != "" {
		job.UniqueKey = []byte(key)
	}
	return job
}

func pgIDs(jobs []Job) (ids []int64) {
	for _, job := range jobs {
		ids = append(ids, job.ID)
	}
	return ids
}

func TestPostgresStore(t *testing.T) {
	p := newPgTest(t)
	token := p.next()
	stored := p.store(
		pgJob("talk", `{"n": 1}`, "key z", 0),
		pgJob("talk", `{"n": 2}`, "", token),
		pgJob("talk", `{"n": 3}`, "key a", token),
		pgJob("talk", `{"n": 4}`, "", 0),
	)
	for i, s := range stored {
		if s.ID == 0 || s.Duplicate || s.Err != nil {
			t.Fatalf("job %d: %+v", i, s)
		}
		if got, want := p.text("SELECT args->>'n' FROM {s}river_job WHERE id = $1", s.ID), fmt.Sprint(i+1); got != want {
			t.Errorf("job %d: the id leads to the job with %s", i, got)
		}
	}
	again := p.store(
		pgJob("talk", `{"n": 5}`, "key m", 0),
		pgJob("talk", `{"n": 6}`, "key z", p.next()),
		pgJob("talk", `{"n": 7}`, "", 0),
		pgJob("talk", `{"n": 8}`, "key a", 0),
	)
	for i, want := range []bool{false, true, false, true} {
		if again[i].Duplicate != want || again[i].Duplicate != (again[i].ID == 0) {
			t.Errorf("job %d: %+v", i, again[i])
		}
	}
	const rows = `SELECT string_agg(concat_ws(' ', args->>'n', state, attempt, attempted_by), ', ' ORDER BY (args->>'n')::int) FROM {s}river_job`
	mine := fmt.Sprintf("{%s#%d}", p.Instance(), token)
	if got, want := p.text(rows), "1 available 0, 2 running 1 "+mine+", 3 running 1 "+mine+", 4 available 0, 5 available 0, 7 available 0"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := p.store(); len(got) != 0 {
		t.Errorf("no jobs: %v", got)
	}
}

func TestPostgresStoreTags(t *testing.T) {
	p := newPgTest(t)
	job := pgJob("talk", `{}`, "", 0)
	job.Tags = []string{`a,b`, `"quoted" \ {braces}`, "", "null", "ünïcode"}
	p.store(job)
	var tags []string
	if err := p.pool.QueryRow(t.Context(), p.sql("SELECT tags FROM {s}river_job")).Scan(&tags); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%q", tags) != fmt.Sprintf("%q", job.Tags) {
		t.Errorf("got %q, want %q", tags, job.Tags)
	}
}

func TestPostgresStoreRefusesOneAlone(t *testing.T) {
	p := newPgTest(t)
	long := pgJob("talk", `{}`, "key of the long tag", 0)
	long.Tags = []string{string(bytes.Repeat([]byte("x"), 256))}
	jobs := []*NewJob{
		pgJob("talk", `{"n": "\u0000 is the body of hunter2"}`, "key 1", 0),
		long,
		pgJob("talk", `{"n": `, "", p.next()),
		pgJob("talk", "{\"n\": \"\xff\"}", "", 0),
	}
	refused := len(jobs)
	for i := range 60 {
		jobs = append(jobs, pgJob("talk", `{}`, fmt.Sprintf("good %d", i), 0))
	}
	for i, s := range p.store(jobs...) {
		switch {
		case i < refused && (s.Err == nil || s.ID != 0 || s.Duplicate):
			t.Errorf("job %d was stored: %+v", i, s)
		case i < refused && bytes.Contains([]byte(s.Err.Error()), []byte("hunter2")):
			t.Errorf("job %d: the error quotes from it: %v", i, s.Err)
		case i >= refused && (s.Err != nil || s.ID == 0):
			t.Errorf("job %d was not stored: %+v", i, s)
		}
	}
}

func TestPostgresClaim(t *testing.T) {
	p := newPgTest(t)
	first, second := p.stored("talk", `{"n": 1}`), p.stored("talk", `{"n": 2}`)
	p.stored("other", `{}`)
	p.run("UPDATE {s}river_job SET created_at = created_at - interval '1 hour', scheduled_at = scheduled_at - interval '1 hour'")
	token := p.next()
	jobs, more := p.claim(Claim{Queue: "talk", Token: token, Limit: 1})
	if len(jobs) != 1 || jobs[0].ID != first || !more {
		t.Fatalf("claimed %v, more: %v; want %d", pgIDs(jobs), more, first)
	}
	job := jobs[0]
	if string(job.Args) != `{"n": 1}` || job.Attempt != 1 || job.Token != token || job.Queue != "talk" || job.Age < time.Hour || job.Age > time.Hour+time.Minute {
		t.Errorf("claimed %+v", job)
	}
	jobs, more = p.claim(Claim{Queue: "talk", Except: []int64{second}})
	if len(jobs) != 0 || more {
		t.Errorf("claimed %v, more: %v; want nothing", pgIDs(jobs), more)
	}
	if jobs, more = p.claim(Claim{Queue: "talk"}); len(jobs) != 1 || jobs[0].ID != second || more {
		t.Errorf("claimed %v, more: %v; want %d", pgIDs(jobs), more, second)
	}
}

// A clock that was set back by hours kept jobs from being claimed for as long.
func TestPostgresClaimsWhatIsStoredInTheFuture(t *testing.T) {
	p := newPgTest(t)
	id := p.stored("talk", `{}`)
	p.run("UPDATE {s}river_job SET created_at = now() + interval '3 hours', scheduled_at = now() + interval '3 hours'")
	if job := p.one("talk"); job.ID != id || job.Age != 0 {
		t.Errorf("claimed %+v", job)
	}
}

func TestPostgresClaimShares(t *testing.T) {
	p := newPgTest(t)
	for range 20 {
		p.stored("talk", `{}`)
	}
	p.run(`UPDATE {s}river_job SET state = 'retryable', attempt = 3, scheduled_at = now() - interval '1 minute' WHERE id % 2 = 0`)
	p.run(`UPDATE {s}river_job SET scheduled_at = now() + interval '1 hour' WHERE id % 10 = 0`)
	kinds := func(jobs []Job) (due, fresh int) {
		for _, job := range jobs {
			if job.Attempt > 1 {
				due++
			} else {
				fresh++
			}
		}
		return due, fresh
	}
	jobs, more := p.claim(Claim{Queue: "talk", Limit: 6})
	if due, fresh := kinds(jobs); due != 3 || fresh != 3 || !more {
		t.Errorf("claimed %d due and %d fresh ones, more: %v", due, fresh, more)
	}
	due, fresh := 3, 3
	for more {
		jobs, more = p.claim(Claim{Queue: "talk", Limit: 6})
		moreDue, moreFresh := kinds(jobs)
		due, fresh = due+moreDue, fresh+moreFresh
	}
	if due != 8 || fresh != 10 {
		t.Errorf("claimed %d due and %d fresh ones in all, want 8 and 10", due, fresh)
	}
}

// One at a time, neither kind may have to wait until there are none of the other.
func TestPostgresClaimSharesOneByOne(t *testing.T) {
	p := newPgTest(t)
	for range 60 {
		p.stored("talk", `{}`)
	}
	p.run(`UPDATE {s}river_job SET state = 'retryable', attempt = 3, scheduled_at = now() - interval '1 minute' WHERE id % 2 = 0`)
	due := 0
	for range 30 {
		jobs, more := p.claim(Claim{Queue: "talk", Limit: 1})
		if len(jobs) != 1 || !more {
			t.Fatalf("claimed %d, more: %v", len(jobs), more)
		}
		if jobs[0].Attempt > 1 {
			due++
		}
	}
	if due == 0 || due == 30 {
		t.Errorf("%d of 30 were due ones", due)
	}
}

func TestPostgresClaimBytes(t *testing.T) {
	all := newPgTest(t)
	random := func(n int) string {
		text := make([]byte, n)
		for i := range text {
			text[i] = 'a' + byte(rand.N(26))
		}
		return string(text)
	}
	for name, body := range map[string]func() string{
		"bodies that cannot be compressed": func() string { return random(100_000) },
		"bodies that can be":               func() string { return string(bytes.Repeat([]byte("<"), 100_000)) },
	} {
		t.Run(name, func(t *testing.T) {
			p := all.empty(t)
			var want []int64
			for range 10 {
				want = append(want, p.stored("talk", fmt.Sprintf(`{"body": %q}`, body())))
			}
			jobs, more := p.claim(Claim{Queue: "talk", MaxBytes: 350_000})
			if fmt.Sprint(pgIDs(jobs)) != fmt.Sprint(want[:3]) || !more {
				t.Errorf("claimed %v, more: %v; want %v", pgIDs(jobs), more, want[:3])
			}
			if got := p.text("SELECT count(*)::text FROM {s}river_job WHERE state = 'available' AND attempt = 0 AND cardinality(attempted_by) IS DISTINCT FROM 1"); got != "7" {
				t.Errorf("%s are still available, want 7", got)
			}
			jobs, more = p.claim(Claim{Queue: "talk", MaxBytes: 1})
			if fmt.Sprint(pgIDs(jobs)) != fmt.Sprint(want[3:4]) || !more {
				t.Errorf("claimed %v, more: %v; want %v", pgIDs(jobs), more, want[3:4])
			}
			for claimed := 4; more; claimed += len(jobs) {
				if jobs, more = p.claim(Claim{Queue: "talk", MaxBytes: 10 << 20}); !more && claimed+len(jobs) != 10 {
					t.Errorf("claimed %d in all, want 10", claimed+len(jobs))
				}
			}
		})
	}
}

func TestPostgresFinish(t *testing.T) {
	all := newPgTest(t)
	const row = `SELECT concat_ws(' ', state, attempt, cardinality(attempted_by), cardinality(errors),
		CASE WHEN finalized_at IS NOT NULL THEN 'final' END, round(extract(epoch FROM scheduled_at - now()))) FROM {s}river_job`
	failure := []byte(`{"at": "2026-11-24T00:00:00Z", "attempt": 1, "error": "502", "trace": "", "upstream": "10.0.0.1"}`)
	for name, test := range map[string]struct {
		outcome Outcome
		want    string
	}{
		"completed":                {Outcome{State: StateCompleted}, "completed 1 1 final 0"},
		"completed with a note":    {Outcome{State: StateCompleted, Error: failure}, "completed 1 1 1 final 0"},
		"retryable":                {Outcome{State: StateRetryable, Delay: 90 * time.Second, Error: failure}, "retryable 1 1 1 90"},
		"discarded":                {Outcome{State: StateDiscarded, Error: failure}, "discarded 1 1 1 final 0"},
		"cancelled":                {Outcome{State: StateCancelled}, "cancelled 1 1 final 0"},
		"released":                 {Outcome{State: StateAvailable}, "available 0 0 0"},
		"an error with a NUL":      {Outcome{State: StateRetryable, Error: []byte(`{"error": "\u0000"}`)}, "retryable 1 1 1 0"},
		"an error that is no JSON": {Outcome{State: StateRetryable, Error: []byte(`oh no`)}, "retryable 1 1 1 0"},
	} {
		t.Run(name, func(t *testing.T) {
			p := all.empty(t)
			p.stored("talk", `{}`)
			job := p.one("talk")
			stale := test.outcome
			stale.ID, stale.Token = job.ID, job.Token+1
			if applied := p.finish(stale); len(applied) != 0 {
				t.Errorf("another claim finished it")
			}
			test.outcome.ID, test.outcome.Token = job.ID, job.Token
			if applied := p.finish(stale, test.outcome); len(applied) != 1 || applied[0] != job.ID {
				t.Errorf("applied %v", applied)
			}
			if got := p.text(row); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if applied := p.finish(test.outcome); len(applied) != 0 {
				t.Errorf("finished twice")
			}
		})
	}
}

func TestPostgresReleaseGoesBack(t *testing.T) {
	all := newPgTest(t)
	for name, test := range map[string]struct {
		before, want string
	}{
		"a retryable one": {
			"state = 'retryable', attempt = 4, attempted_by = '{a#1,b#2,c#3,d#4}', scheduled_at = now() - interval '1 minute'",
			"retryable 4 {a#1,b#2,c#3,d#4} -60",
		},
		"one that a person had retried": {
			"state = 'available', attempt = 4, attempted_by = '{a#1,b#2,c#3,d#4}', scheduled_at = now() - interval '1 minute'",
			"available 4 {a#1,b#2,c#3,d#4} -60",
		},
		"one that a person had retried before the last attempt": {
			"state = 'retryable', attempt = 1, attempted_by = '{a#1}', scheduled_at = now() - interval '1 minute', metadata = '{\"age_from\": \"2026-01-01T00:00:00Z\"}'",
			"retryable 1 {a#1} -60",
		},
		"one whose metadata and attempted_by are malformed": {
			"state = 'available', attempt = 32767, attempted_by = '{{a,b},{c,d}}', scheduled_at = now() - interval '1 minute', metadata = '7'",
			"available 32766 {} -60",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := all.empty(t)
			p.stored("talk", `{}`)
			p.run("UPDATE {s}river_job SET created_at = now() - interval '1 day', " + test.before)
			job := p.one("talk")
			p.finish(Outcome{ID: job.ID, Token: job.Token, State: StateAvailable})
			got := p.text("SELECT concat_ws(' ', state, attempt, attempted_by, round(extract(epoch FROM scheduled_at - now()))) FROM {s}river_job")
			if got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// A person's retry starts the age anew, for this attempt and all that follow.
func TestPostgresAgeOfRetried(t *testing.T) {
	p := newPgTest(t)
	p.stored("talk", `{}`)
	p.run(`UPDATE {s}river_job SET created_at = now() - interval '10 days', scheduled_at = now() - interval '10 days'`)
	if job := p.one("talk"); job.Age < 9*24*time.Hour {
		t.Errorf("stored 10 days ago, but the age is %v", job.Age)
	} else {
		p.finish(Outcome{ID: job.ID, Token: job.Token, State: StateDiscarded})
	}
	p.run(`UPDATE {s}river_job SET state = 'available', finalized_at = NULL, scheduled_at = now() - interval '1 hour'`) // as River does
	for _, state := range []State{StateAvailable, StateRetryable, StateRetryable} {
		job := p.one("talk")
		if job.Age < time.Hour || job.Age > time.Hour+time.Minute {
			t.Errorf("retried an hour ago, but the age is %v", job.Age)
		}
		p.finish(Outcome{ID: job.ID, Token: job.Token, State: state})
	}
}

func TestPostgresAgeWithMalformedMetadata(t *testing.T) {
	p := newPgTest(t)
	p.stored("talk", `{}`)
	p.run(`UPDATE {s}river_job SET state = 'retryable', attempt = 1, metadata = '{"age_from": "the day before"}', created_at = now() - interval '1 hour'`)
	if job := p.one("talk"); job.Age < time.Hour || job.Age > time.Hour+time.Minute {
		t.Errorf("stored an hour ago, but the age is %v", job.Age)
	}
}

// One row with malformed errors kept all that were to be finished with it running.
func TestPostgresSetsMalformedAside(t *testing.T) {
	p := newPgTest(t)
	for range 8 {
		p.stored("talk", `{}`)
	}
	jobs, _ := p.claim(Claim{Queue: "talk"})
	p.run(`UPDATE {s}river_job SET errors = '{{1,2},{3,4}}' WHERE id = $1`, jobs[5].ID)
	var outcomes []Outcome
	for _, job := range jobs {
		outcomes = append(outcomes, Outcome{ID: job.ID, Token: job.Token, State: StateRetryable, Delay: time.Hour, Error: []byte(`{"error": "503"}`)})
	}
	if applied := p.finish(outcomes...); len(applied) != 8 {
		t.Errorf("applied %v", applied)
	}
	if got := p.text("SELECT string_agg(state::text, ' ' ORDER BY id) FROM {s}river_job"); got != strings.Repeat("retryable ", 5)+"cancelled"+strings.Repeat(" retryable", 2) {
		t.Errorf("got %s", got)
	}
	if got, want := p.text("SELECT errors[1]->>'error' FROM {s}river_job WHERE state = 'cancelled'"), "the job's row is malformed, so that it could not be finished as retryable (SQLSTATE 22000)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPostgresOwnRunning(t *testing.T) {
	p := newPgTest(t)
	token := p.next()
	stored := p.store(pgJob("talk", `{}`, "", token), pgJob("talk", `{}`, "", token), pgJob("talk", `{}`, "", token))
	p.run(`UPDATE {s}river_job SET attempted_by = '{elsewhere#1}' WHERE id = $1`, stored[0].ID)
	p.run(`UPDATE {s}river_job SET metadata = '{"cancel_attempted_at": "2026-11-24T00:00:00Z"}' WHERE id = $1`, stored[1].ID)
	own, err := p.OwnRunning(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[int64]Running)
	for _, job := range own {
		got[job.ID] = job
	}
	want := map[int64]Running{stored[1].ID: {stored[1].ID, token, true}, stored[2].ID: {stored[2].ID, token, false}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Each statement that works on jobs may take longer than the server's statement_timeout:
// a trigger makes each of them do so.
func TestPostgresWorksWithAShortStatementTimeout(t *testing.T) {
	schema, pool := pgSchema(t, pgShared)
	p := &pgTest{postgresDB: pgOpen(t, pgShared+"?options=-c%20statement_timeout%3D500ms", schema), TB: t, pool: pool}
	p.run(`CREATE FUNCTION {s}slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.7); RETURN NULL; END $$`)
	p.run(`CREATE TRIGGER slow AFTER INSERT OR UPDATE ON {s}river_job EXECUTE FUNCTION {s}slow()`)
	p.store(pgJob("talk", `{}`, "key", 0))
	jobs, _, err := p.Claim(t.Context(), Claim{Queue: "talk", Token: p.next(), Limit: 1, MaxBytes: 1})
	if err != nil || len(jobs) != 1 {
		t.Fatalf("claimed %v (%v)", jobs, err)
	}
	for _, state := range []State{StateAvailable, StateRetryable, StateCompleted} {
		if _, err := p.Finish(t.Context(), []Outcome{jobs[0].outcome(state)}); err != nil {
			t.Errorf("finishing as %s: %v", state, err)
		}
	}
}

// A transaction that finishes many thousands of jobs would hold their rows for long.
func TestPostgresFinishesInBatches(t *testing.T) {
	p := newPgTest(t)
	p.run(`CREATE TABLE {s}statements (jobs bigint)`)
	p.run(`CREATE FUNCTION {s}note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO {s}statements SELECT count(*) FROM ended; RETURN NULL; END $$`)
	p.run(`CREATE TRIGGER note AFTER UPDATE ON {s}river_job REFERENCING NEW TABLE AS ended EXECUTE FUNCTION {s}note()`)
	token := p.next()
	var jobs []*NewJob
	for range 2*maxRows + 1 {
		jobs = append(jobs, pgJob("talk", `{}`, "", token))
	}
	var outcomes []Outcome
	for _, stored := range p.store(jobs...) {
		outcomes = append(outcomes, Outcome{ID: stored.ID, Token: token, State: StateCompleted})
	}
	if applied := p.finish(outcomes...); len(applied) != len(jobs) {
		t.Errorf("%d of %d outcomes were applied", len(applied), len(jobs))
	}
	if got := p.text("SELECT string_agg(jobs::text, ' ' ORDER BY jobs DESC) FROM {s}statements"); got != "200 200 1" {
		t.Errorf("statements of %s rows", got)
	}
}
