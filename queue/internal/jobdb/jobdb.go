// Package jobdb keeps jobs in the tables of River, a job queue in SQLite or PostgreSQL
// (https://riverqueue.com). Its rows mean to River's client and web UI what River's own
// would. The worker that takes jobs from here is not River's: everything that is stored,
// claimed, finished and released is SQL of this package.
//
// A job is `available` until it is claimed, `running` while a process holds it,
// `retryable` between two attempts, and in the end `completed`, `discarded` or
// `cancelled`.
package jobdb

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"
)

// DB stores jobs and hands them out. All methods may be called at the same time from
// several goroutines. SQLite and PostgreSQL implement it.
//
// All times that are stored or compared are the database's. An error of a method means
// that its effect is unknown: the database may have done it, and the reply was lost.
type DB interface {
	// Store inserts jobs in one transaction and returns once they are durable. It calls
	// collect, once, when it may write, so that jobs that arrive while it waits share the
	// transaction. No two jobs of a batch may have the same unique key.
	//
	// Jobs with a token are inserted as running, claimed by this process; all others as
	// available. Results are in the order of the jobs. A job that the database refuses
	// has an error of its own in its result, and the others are stored all the same.
	//
	// A job and those in its With are in one transaction, so that either all of them are
	// durable or none. Those in With are not stored if the job itself is a duplicate or
	// refused. The job is stored without those of them that the database refuses.
	Store(ctx context.Context, collect func() []*NewJob) ([]Stored, error)

	// Probe returns nil if Store could store a job now. It writes something and makes it
	// durable, as Store does, because only that shows it.
	Probe(ctx context.Context) error

	// Claim marks up to claim.Limit jobs of a queue as running with the claim's token,
	// and returns them. It takes available ones, whatever their times say, and retryable
	// ones that are due, of which neither kind keeps the other from its half. Of available
	// ones, workspaces take turns, also from claim to claim, and each workspace's are
	// taken in the order in which they were stored. It reports whether there may be more
	// to claim now.
	Claim(ctx context.Context, claim Claim) (jobs []Job, more bool, err error)

	// Finish ends claims. An outcome has an effect only while its claim holds the job. It
	// returns the ids of those that had one.
	Finish(ctx context.Context, outcomes []Outcome) (applied []int64, err error)

	// OwnRunning returns all jobs that are marked as running for this process. Those that
	// the process does not hold come from a lost reply, and are to be released.
	OwnRunning(ctx context.Context) ([]Running, error)

	// Beat tells that this process lives and what it works on, and returns what it knows
	// of the others that share the database.
	Beat(ctx context.Context, self Presence) (Fleet, error)

	// Rescue releases jobs that are marked as running for processes that are gone. They
	// count as not attempted. PostgreSQL takes a process to be gone when its heartbeat
	// has not changed for GoneAfter, as watched by this process.
	Rescue(ctx context.Context) (rescued int64, err error)

	// Reclock makes retryable jobs due after their own delay from now, if their last
	// attempt is in the future by the database's clock, which was then set back.
	Reclock(ctx context.Context) (changed int64, err error)

	// Queues makes sure that there are rows for the queues, which River's UI lists and
	// pauses, and returns the paused ones of all queues.
	Queues(ctx context.Context, names []string) (paused map[string]bool, err error)

	// QueuesWith returns the names of all queues that have jobs in one of the states. Its
	// cost grows with the number of queues, not of jobs.
	QueuesWith(ctx context.Context, states []State) ([]string, error)

	// Changes returns a number that is the same as long as no job has changed.
	Changes(ctx context.Context) (uint64, error)

	// Count counts the jobs of a state by queue. Its cost grows with their number.
	Count(ctx context.Context, state State) (map[string]int64, error)

	// Oldest returns how long ago the oldest unfinished job of each queue was stored.
	Oldest(ctx context.Context) (map[string]time.Duration, error)

	// Expire deletes up to limit finished jobs that are older than they are kept, and
	// returns how many.
	Expire(ctx context.Context, expiry Expiry) (deleted int64, err error)

	// List returns jobs that a filter selects, by id, from page.From on, and the id from
	// which to go on; 0 after the last one. It looks at a bounded number of rows, so it
	// may return few jobs or none although there are more.
	List(ctx context.Context, filter Filter, page Page) (jobs []Record, next int64, err error)

	// Retry makes jobs available now, whatever their state, except running and available
	// ones, and returns the ids of those. As with River's retry, their age starts anew, and
	// max_attempts is raised if they are used up.
	Retry(ctx context.Context, ids []int64) (changed []int64, err error)

	// Delete deletes jobs that are not running, and returns their ids. It asks for the end
	// of running ones, as OwnRunning tells their instance.
	Delete(ctx context.Context, ids []int64) (deleted []int64, err error)

	// Scrub makes what was deleted unreadable in the files of the database, as far as that
	// is in its power: on SQLite it is, on PostgreSQL it is not.
	Scrub(ctx context.Context) error

	// SetPaused pauses or resumes a queue.
	SetPaused(ctx context.Context, queue string, paused bool) error

	// Export returns jobs by id, from the id from on, and the id from which to go on; 0
	// after the last one. Running jobs are exported as if they had been released.
	Export(ctx context.Context, from int64, limit int) (jobs []ExportedJob, next int64, err error)

	// Import stores exported jobs under new ids, and returns once they are durable. Jobs
	// that are there are duplicates, also if they were imported earlier. If jobs are
	// refused, the error is a *RefusedError, and all others are imported all the same.
	Import(ctx context.Context, jobs []ExportedJob) (imported, duplicates int64, err error)

	// UI returns River's web UI on this database. It runs until the context ends.
	UI(ctx context.Context, prefix string, logger *slog.Logger) (http.Handler, error)

	// Instance returns the name of this process in the database: the host's name and a
	// number.
	Instance() string

	// Close ends all use of the database. It tells the others that this process is gone.
	Close() error
}

// State is the state of a job, as River names it.
type State string

// The states of a job.
const (
	StateAvailable State = "available" // waits to be claimed
	StateRunning   State = "running"   // is claimed
	StateRetryable State = "retryable" // waits for its next attempt
	StateCompleted State = "completed" // delivered
	StateDiscarded State = "discarded" // failed for good
	StateCancelled State = "cancelled" // ended by a person, or because nothing can deliver it
)

// Jobs in unfinished states are yet to be delivered; those in finished ones are kept to be
// looked at, and to recognize duplicates. The last two unfinished states are only for
// River's own worker.
var (
	UnfinishedStates = []State{StateAvailable, StateRunning, StateRetryable, "scheduled", "pending"}
	FinishedStates   = []State{StateCompleted, StateDiscarded, StateCancelled}
)

// Unfinished reports whether a job in this state is yet to be delivered.
func (s State) Unfinished() bool { return !slices.Contains(FinishedStates, s) }

// Token names one claim of this process. Each Store and each Claim has one of its own,
// which must not be 0 and must not be used twice. In the database it stands behind the
// name of the instance, as the last element of attempted_by: "host-4711#12".
type Token uint64

// NewJob is a job to be stored.
type NewJob struct {
	Queue       string
	Kind        string
	Tags        []string // of up to 255 characters each; the first one is the workspace
	Args        []byte   // a JSON object
	MaxAttempts int      // for people who look; the worker decides

	// UniqueKey makes the job a duplicate of any other with the same key, in whatever
	// state that is, for as long as its row is there. Nil: it is a duplicate of none.
	UniqueKey []byte

	// Token claims the job at once, as its first attempt. 0: it is stored as available.
	Token Token

	// With are jobs to be stored together with this one. They have neither a unique key
	// nor others with them.
	With []*NewJob
}

// Stored is what came of a job to be stored.
type Stored struct {
	ID        int64 // 0 for a duplicate or if there is an error
	Duplicate bool  // the first one is as durable as this one would be
	Err       error // the database refused just this job

	With []Stored // of the jobs in With; nil unless this one is stored
}

// Claim says what to claim.
type Claim struct {
	Queue    string
	Token    Token
	Limit    int     // jobs
	MaxBytes int     // of args in all; a first job that is larger is returned all the same
	Except   []int64 // ids of jobs to leave alone
}

// Job is a claimed job.
type Job struct {
	ID      int64
	Token   Token
	Queue   string
	Args    []byte
	Attempt int // the number of the attempt that this claim is, from 1

	// Workspace is the job's first tag, if it has any: jobs with the same take their turns
	// together.
	Workspace string

	// Age is the time since the job was stored, or since a person retried it, when it was
	// claimed.
	Age time.Duration
}

// Outcome ends a claim.
type Outcome struct {
	ID    int64
	Token Token

	// State is the job's next state: completed, retryable, discarded or cancelled. Or it
	// is available, which releases the job: the claim counts as no attempt, and the job
	// goes back to the state that it was claimed from. A job that a person has asked to
	// cancel meanwhile is cancelled instead of released or retryable.
	State State

	Delay time.Duration // until the next attempt of a retryable job

	// Error is appended to the job's errors, unless it is nil or the job is released: a
	// JSON object with the fields of River's AttemptError and any others.
	Error []byte
}

// Running is a job that is marked as running for this process.
type Running struct {
	ID              int64
	Token           Token
	CancelRequested bool // a person has asked for the end of the delivery
}

// Presence is what an instance tells the others.
type Presence struct {
	Queues  []string          // that it works on
	Configs map[string]string // by endpoint: a hash of its config
}

// Fleet is what an instance knows of the others. Instances that are gone are left out.
type Fleet struct {
	Others    []Presence
	Exclusive bool      // nobody else can have the database
	Now       time.Time // by the database's clock, which may step
}

// GoneAfter is how long an instance may give no sign of life before it is taken to be
// gone.
const GoneAfter = 30 * time.Second

// Expiry says which finished jobs to delete.
type Expiry struct {
	Queues        []string // of these queues only
	KeepCompleted time.Duration
	KeepDead      time.Duration // discarded and cancelled ones
	Limit         int
}

// A PermanentError is one that only a person can mend: the config that wants the
// database must be refused.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap returns the error itself.
func (e *PermanentError) Unwrap() error { return e.Err }

// IsPermanent reports whether only a person can mend the error.
func IsPermanent(err error) bool {
	_, permanent := errors.AsType[*PermanentError](err)
	return permanent
}
