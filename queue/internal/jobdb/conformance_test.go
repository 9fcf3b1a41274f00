package jobdb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// engine is a kind of database that the suite runs on.
type engine struct {
	create  func(t *testing.T) database // a new one
	shared  bool                        // several instances may have it open
	refused map[string]func(j *NewJob)  // makes jobs that only this engine refuses, by what is wrong
	broken  []brokenValue
}

// brokenValue is SQL of a value in a column that breaks the engine's statements.
type brokenValue struct{ name, column, value string }

// spoil writes the value into a row.
func (b brokenValue) spoil(t *testing.T, d database, id int64) {
	t.Helper()
	d.exec(t, fmt.Sprintf("UPDATE river_job SET %s = %s WHERE id = %d", b.column, b.value, id))
}

// database is what the suite knows of a database beside its instances.
type database interface {
	// open opens it as another process would.
	open(t *testing.T) *instance
	exec(t *testing.T, statement string)
	// rows reads all jobs, in the order of their ids.
	rows(t *testing.T) []row
	// shift adds to the times of jobs, as if the database's clock had been set back.
	shift(t *testing.T, by time.Duration, where string, columns ...string)
	// client returns River's own client that only inserts.
	client(t *testing.T) riverClient
}

// instance is a process that has a database open.
type instance struct {
	DB
	logs *observer.ObservedLogs
	die  func() // ends it as a kill would
	lose func() // makes the replies of all that is written get lost, until heal; nil: there is no network
	heal func()
}

// riverClient is a river.Client of whatever transactions.
type riverClient interface {
	JobCancel(ctx context.Context, id int64) (*rivertype.JobRow, error)
	JobDelete(ctx context.Context, id int64) (*rivertype.JobRow, error)
	JobGet(ctx context.Context, id int64) (*rivertype.JobRow, error)
	JobList(ctx context.Context, params *river.JobListParams) (*river.JobListResult, error)
	JobRetry(ctx context.Context, id int64) (*rivertype.JobRow, error)
	QueueList(ctx context.Context, params *river.QueueListParams) (*river.QueueListResult, error)
	QueuePause(ctx context.Context, name string, opts *river.QueuePauseOpts) error
	QueueResume(ctx context.Context, name string, opts *river.QueuePauseOpts) error
}

// row is a job as it stands in the database.
type row struct {
	id          int64
	queue       string
	kind        string
	state       State
	attempt     int
	maxAttempts int
	attemptedBy []string
	errors      int // -1 if they are malformed
	args        string
	due         time.Duration // until scheduled_at
	finalized   bool
	key         string // in hexadecimal digits
	tags        []string
}

// holder returns who claimed the job last.
func (r row) holder() string {
	if len(r.attemptedBy) == 0 {
		return ""
	}
	return r.attemptedBy[len(r.attemptedBy)-1]
}

// newRow makes a row of columns: text is queue, kind, state, args, unique_key,
// attempted_by and tags, the last two as JSON.
func newRow(id int64, text [7]string, attempt, maxAttempts, errorCount int, due float64, finalized bool) (row, error) {
	r := row{
		id: id, queue: text[0], kind: text[1], state: State(text[2]), args: text[3], key: strings.ToLower(text[4]),
		attempt: attempt, maxAttempts: maxAttempts, errors: errorCount,
		due: time.Duration(due * float64(time.Second)), finalized: finalized,
	}
	return r, errors.Join(json.Unmarshal([]byte(text[5]), &r.attemptedBy), json.Unmarshal([]byte(text[6]), &r.tags))
}

func newLogs() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return zap.New(core), logs
}

var lastToken atomic.Uint64

func newToken() Token { return Token(lastToken.Add(1)) }

// holder is the last element of attempted_by while the instance holds a job.
func (i *instance) holder(token Token) string { return fmt.Sprintf("%s#%d", i.Instance(), token) }

// ourStates are all states that jobs of this package can have.
var ourStates = []State{StateAvailable, StateRunning, StateRetryable, StateCompleted, StateDiscarded, StateCancelled}

const testQueue, testKind = "support", "conversation.user.created"

// newJob makes a job that carries a number, and is a duplicate of none.
func newJob(n int) *NewJob {
	return &NewJob{Queue: testQueue, Kind: testKind, Args: fmt.Appendf(nil, `{"n": %d}`, n), MaxAttempts: 20}
}

func newJobs(n int) []*NewJob {
	jobs := make([]*NewJob, n)
	for i := range jobs {
		jobs[i] = newJob(i)
	}
	return jobs
}

func (i *instance) store(t *testing.T, jobs ...*NewJob) []Stored {
	t.Helper()
	calls := 0
	stored, err := i.Store(t.Context(), func() []*NewJob {
		calls++
		return jobs
	})
	if err != nil {
		t.Fatalf("storing: %v", err)
	}
	if calls != 1 || len(stored) != len(jobs) {
		t.Fatalf("storing collected %d times and returned %d results for %d jobs", calls, len(stored), len(jobs))
	}
	return stored
}

// mustStore stores jobs that must be neither duplicates nor refused.
func (i *instance) mustStore(t *testing.T, jobs ...*NewJob) (ids []int64) {
	t.Helper()
	for n, s := range i.store(t, jobs...) {
		if s.ID == 0 || s.Duplicate || s.Err != nil {
			t.Fatalf("job %d: %+v, want it stored", n, s)
		}
		ids = append(ids, s.ID)
	}
	return ids
}

// bring brings the available jobs of a claim, which must be there, into a state.
func (i *instance) bring(t *testing.T, c Claim, state State) {
	t.Helper()
	if state == StateAvailable {
		return
	}
	jobs, _ := i.claim(t, c)
	if len(jobs) != c.Limit {
		t.Fatalf("claimed %d jobs, want %d", len(jobs), c.Limit)
	}
	if state == StateRunning {
		return
	}
	for _, j := range jobs {
		o := j.outcome(state)
		o.Delay = time.Hour
		i.mustFinish(t, o)
	}
}

func (i *instance) claim(t *testing.T, c Claim) (jobs []Job, more bool) {
	t.Helper()
	if c.Queue == "" {
		c.Queue = testQueue
	}
	if c.Token == 0 {
		c.Token = newToken()
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 30
	}
	jobs, more, err := i.Claim(t.Context(), c)
	if err != nil {
		t.Fatalf("claiming: %v", err)
	}
	return jobs, more
}

// claimAll claims until there is no more.
func (i *instance) claimAll(t *testing.T) (jobs []Job) {
	t.Helper()
	for range 1000 {
		some, more := i.claim(t, Claim{Limit: 100})
		jobs = append(jobs, some...)
		if !more {
			return jobs
		}
	}
	t.Fatal("there is more to claim for ever")
	return nil
}

// mustClaim claims one job, which must be this one.
func (i *instance) mustClaim(t *testing.T, id int64) Job {
	t.Helper()
	jobs := i.claimAll(t)
	if len(jobs) != 1 || jobs[0].ID != id {
		t.Fatalf("claimed %+v, want job %d alone", jobs, id)
	}
	return jobs[0]
}

func (i *instance) finish(t *testing.T, outcomes ...Outcome) []int64 {
	t.Helper()
	applied, err := i.Finish(t.Context(), outcomes)
	if err != nil {
		t.Fatalf("finishing: %v", err)
	}
	slices.Sort(applied)
	return applied
}

func (i *instance) mustFinish(t *testing.T, outcomes ...Outcome) {
	t.Helper()
	if applied := i.finish(t, outcomes...); len(applied) != len(outcomes) {
		t.Fatalf("outcomes applied: %v, want %d", applied, len(outcomes))
	}
}

// testError is an error of an attempt, as the worker writes it.
func testError(attempt int) []byte {
	return fmt.Appendf(nil, `{"at": "2026-01-02T03:04:05Z", "attempt": %d, "error": "status 500", "trace": "", "upstream": "127.0.0.1:9", "answer": "<\u2028>"}`, attempt)
}

func (j Job) outcome(state State) Outcome {
	o := Outcome{ID: j.ID, Token: j.Token, State: state}
	if state != StateCompleted && state != StateAvailable {
		o.Error = testError(j.Attempt)
	}
	return o
}

func find(t *testing.T, d database, id int64) row {
	t.Helper()
	for _, r := range d.rows(t) {
		if r.id == id {
			return r
		}
	}
	t.Fatalf("job %d is lost", id)
	return row{}
}

func wantState(t *testing.T, d database, id int64, state State, attempt int) {
	t.Helper()
	if r := find(t, d, id); r.state != state || r.attempt != attempt {
		t.Errorf("job %d is %s after %d attempts, want %s after %d", id, r.state, r.attempt, state, attempt)
	}
}

func idsOf(jobs []Job) []int64 {
	ids := make([]int64, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	slices.Sort(ids)
	return ids
}

// person is who looks after jobs: with River's client, in its web UI, or with our own API.
type person interface {
	retry(id int64) error
	cancel(id int64) error
	delete(id int64) error
	pause(queue string) error
	resume(queue string) error
}

var errRefused = errors.New("the web UI refused")

type clientUser struct {
	riverClient
	ctx context.Context
}

func (u clientUser) retry(id int64) error      { _, err := u.JobRetry(u.ctx, id); return err }
func (u clientUser) cancel(id int64) error     { _, err := u.JobCancel(u.ctx, id); return err }
func (u clientUser) delete(id int64) error     { _, err := u.JobDelete(u.ctx, id); return err }
func (u clientUser) pause(queue string) error  { return u.QueuePause(u.ctx, queue, nil) }
func (u clientUser) resume(queue string) error { return u.QueueResume(u.ctx, queue, nil) }

type uiUser struct {
	handler http.Handler
	ctx     context.Context
}

func newUIUser(t *testing.T, i *instance) uiUser {
	t.Helper()
	handler, err := i.UI(t.Context(), "/queue", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("making the web UI: %v", err)
	}
	return uiUser{handler, t.Context()}
}

func (u uiUser) ask(method, path, body string) (answer []byte, err error) {
	r := httptest.NewRequestWithContext(u.ctx, method, "/queue/api"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	u.handler.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		return nil, fmt.Errorf("%w: %d %s", errRefused, w.Code, w.Body)
	}
	return w.Body.Bytes(), nil
}

func (u uiUser) order(what string, id int64) error {
	_, err := u.ask(http.MethodPost, "/jobs/"+what, fmt.Sprintf(`{"ids": ["%d"]}`, id))
	return err
}

func (u uiUser) retry(id int64) error  { return u.order("retry", id) }
func (u uiUser) cancel(id int64) error { return u.order("cancel", id) }
func (u uiUser) delete(id int64) error { return u.order("delete", id) }

func (u uiUser) pause(queue string) error {
	_, err := u.ask(http.MethodPut, "/queues/"+queue+"/pause", "")
	return err
}

func (u uiUser) resume(queue string) error {
	_, err := u.ask(http.MethodPut, "/queues/"+queue+"/resume", "")
	return err
}

// apiUser looks after jobs with the methods of DB, and cancels with River's client.
type apiUser struct {
	clientUser
	db DB
}

var errStillThere = errors.New("the job is running, and its end is asked for")

func (u apiUser) retry(id int64) error { _, err := u.db.Retry(u.ctx, []int64{id}); return err }

func (u apiUser) delete(id int64) error {
	deleted, err := u.db.Delete(u.ctx, []int64{id})
	if err == nil && len(deleted) == 0 {
		err = errStillThere
	}
	return err
}

func (u apiUser) pause(queue string) error  { return u.db.SetPaused(u.ctx, queue, true) }
func (u apiUser) resume(queue string) error { return u.db.SetPaused(u.ctx, queue, false) }

// persons returns all, by name.
func persons(t *testing.T, d database, i *instance) map[string]person {
	return map[string]person{
		"River's client": clientUser{d.client(t), t.Context()},
		"River's web UI": newUIUser(t, i),
		"the admin API":  apiUser{clientUser{d.client(t), t.Context()}, i.DB},
	}
}

// conform holds an engine against all that DB promises.
func conform(t *testing.T, e engine) {
	for _, group := range [][]behaviour{storeBehaviours, withBehaviours, claimBehaviours, turnsBehaviours, finishBehaviours, lookBehaviours, riverBehaviours, inspectBehaviours, moveBehaviours, faultBehaviours, probeBehaviours} {
		for _, b := range group {
			t.Run(b.name, func(t *testing.T) { b.test(t, e) })
		}
	}
	t.Run("random sequences agree with a model of the states", func(t *testing.T) { testModel(t, e) })
}

type behaviour struct {
	name string
	test func(t *testing.T, e engine)
}

// on makes a test of one instance on a new database.
func on(test func(t *testing.T, d database, i *instance)) func(*testing.T, engine) {
	return func(t *testing.T, e engine) {
		d := e.create(t)
		test(t, d, d.open(t))
	}
}

// sameJSON reports whether two texts have the same strings and numbers in them.
func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var values [2]any
	for i, text := range [][]byte{a, b} {
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&values[i]); err != nil {
			t.Fatalf("%.100q is no JSON: %v", text, err)
		}
	}
	again := [2][]byte{}
	for i, value := range values {
		again[i], _ = json.Marshal(value)
	}
	return bytes.Equal(again[0], again[1])
}
