package jobdb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ExportedJob is all of a job that another database needs, in a form that is the same for
// all engines.
type ExportedJob struct {
	ID          int64             `json:"id"`     // in the database that it comes from
	Origin      string            `json:"origin"` // tells jobs without a unique key apart
	Queue       string            `json:"queue"`
	Kind        string            `json:"kind"`
	State       State             `json:"state"`
	Priority    int               `json:"priority"`
	Tags        []string          `json:"tags,omitempty"`
	Attempt     int               `json:"attempt"`
	MaxAttempts int               `json:"max_attempts"`
	AttemptedBy []string          `json:"attempted_by,omitempty"`
	CreatedAt   time.Time         `json:"created_at"`
	ScheduledAt time.Time         `json:"scheduled_at"`
	AttemptedAt time.Time         `json:"attempted_at,omitzero"`
	FinalizedAt time.Time         `json:"finalized_at,omitzero"`
	AgeFrom     time.Time         `json:"age_from,omitzero"` // when a person retried it
	Errors      []json.RawMessage `json:"errors,omitempty"`
	Metadata    json.RawMessage   `json:"metadata,omitempty"`
	UniqueKey   []byte            `json:"unique_key,omitempty"`
	Args        json.RawMessage   `json:"args"`
}

// Keys of metadata. The times of the second one are in the engine's own form, as it
// compares them with scheduled_at.
const (
	keyImportedFrom = "imported_from"
	keyAgeFrom      = "age_from"
)

// exporter is what an engine does for Export.
type exporter interface {
	lister

	// exported reads jobs as they are in the database, in any order.
	exported(ctx context.Context, ids []int64) ([]ExportedJob, error)
}

// export returns as many jobs as may be in memory.
func export(ctx context.Context, e exporter, from int64, limit int) (jobs []ExportedJob, next int64, err error) {
	ids, err := e.walk(ctx, Filter{}, Page{From: from}, limit+1)
	if err != nil {
		return nil, 0, err
	}
	if len(ids) > limit {
		ids, next = ids[:limit], ids[limit]
	}
	size := 0
	for batch := range slices.Chunk(ids, listBatch) {
		if size > listBytes {
			return jobs, batch[0], nil
		}
		found, err := e.exported(ctx, batch)
		if err != nil {
			return nil, 0, err
		}
		slices.SortFunc(found, func(a, b ExportedJob) int { return Page{}.compare(a.ID, b.ID) })
		for _, job := range found {
			size += len(job.Args)
			job.finishExport()
			jobs = append(jobs, job)
		}
	}
	return jobs, next, nil
}

// finishExport takes out of a job what only its own database can use.
func (j *ExportedJob) finishExport() {
	if !json.Valid(j.Args) {
		j.Args = fmt.Appendf(nil, `{"malformed": "%x"}`, j.Args)
	}
	var metadata map[string]json.RawMessage
	if json.Unmarshal(j.Metadata, &metadata) != nil || metadata == nil {
		metadata = make(map[string]json.RawMessage)
	}
	var ageFrom string
	if json.Unmarshal(metadata[keyAgeFrom], &ageFrom) == nil {
		j.AgeFrom = parseAgeFrom(ageFrom)
	}
	if json.Unmarshal(metadata[keyImportedFrom], &j.Origin) == nil && j.Origin != "" {
		j.UniqueKey = nil // it was made by Import
	} else {
		j.Origin = j.newOrigin()
	}
	delete(metadata, keyAgeFrom)
	delete(metadata, keyImportedFrom)
	j.Metadata = mustMarshal(metadata)
	if j.State == StateRunning {
		j.release()
	}
}

// times returns the places of the times, in the order of the fields.
func (j *ExportedJob) times() [4]*time.Time {
	return [4]*time.Time{&j.CreatedAt, &j.ScheduledAt, &j.AttemptedAt, &j.FinalizedAt}
}

// newOrigin returns a name that no job of any other database has: of what never changes.
func (j *ExportedJob) newOrigin() string {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s\x00%s\x00", j.Kind, j.CreatedAt.Format(time.RFC3339Nano))
	hash.Write(j.Args)
	return fmt.Sprintf("%s/%d", hex.EncodeToString(hash.Sum(nil)[:16]), j.ID)
}

// parseAgeFrom reads what either engine writes.
func parseAgeFrom(text string) time.Time {
	for _, layout := range []string{time.RFC3339Nano, sqliteTimeLayout} {
		if at, err := time.Parse(layout, text); err == nil {
			return at
		}
	}
	return time.Time{}
}

// release makes of a running job what a release of its claim would make of it.
func (j *ExportedJob) release() {
	j.State = StateRetryable
	if j.Attempt <= 1 || j.AgeFrom.Equal(j.ScheduledAt) {
		j.State = StateAvailable
	}
	j.Attempt = max(j.Attempt-1, 0)
	if n := len(j.AttemptedBy); n > 0 {
		j.AttemptedBy = j.AttemptedBy[:n-1]
	}
}

// importedJob is a job as it is to be inserted.
type importedJob struct {
	ExportedJob
	metadata []byte
	key      []byte
}

var (
	errImportRunning = errors.New("it is claimed: only a job that nobody works on can be imported")
	errImportOrigin  = errors.New("it has neither a unique key nor an origin, by which it would be known when it is imported again")
	errImportArgs    = errors.New("its args are no JSON object")
	errImportErrors  = errors.New("one of its errors is no JSON object")
)

// prepareImport returns what to insert for a job. Times in the metadata are in a layout.
func prepareImport(job ExportedJob, timeLayout string) (importedJob, error) {
	prepared := importedJob{ExportedJob: job, key: job.UniqueKey}
	var metadata map[string]any
	switch {
	case job.State == StateRunning:
		return prepared, errImportRunning
	case len(job.UniqueKey) == 0 && job.Origin == "":
		return prepared, errImportOrigin
	case !isObject(job.Args):
		return prepared, errImportArgs
	case slices.ContainsFunc(job.Errors, func(failure json.RawMessage) bool { return !isObject(failure) }):
		return prepared, errImportErrors
	case json.Unmarshal(job.Metadata, &metadata) != nil || metadata == nil:
		metadata = make(map[string]any)
	}
	if len(job.UniqueKey) == 0 {
		// the index on unique keys finds it, and so does a person who looks at it
		metadata[keyImportedFrom] = job.Origin
		key := sha256.Sum256([]byte(keyImportedFrom + "\x00" + job.Origin))
		prepared.key = key[:]
	}
	if !job.AgeFrom.IsZero() {
		metadata[keyAgeFrom] = job.AgeFrom.UTC().Format(timeLayout)
	}
	prepared.metadata = mustMarshal(metadata)
	prepared.Attempt = min(max(job.Attempt, 0), math.MaxInt16) // as PostgreSQL has it
	prepared.MaxAttempts = min(max(job.MaxAttempts, 1), math.MaxInt16)
	return prepared, nil
}

func isObject(text json.RawMessage) bool {
	return bytes.HasPrefix(text, []byte("{")) && json.Valid(text)
}

// prepareImports returns what to insert, how many jobs were exported from this very
// database and are still there, and the jobs that cannot be inserted.
func prepareImports(ctx context.Context, e exporter, jobs []ExportedJob, timeLayout string) (prepared []importedJob, atHome int64, refused []RefusedJob, err error) {
	home, err := homeOrigins(ctx, e, jobs)
	if err != nil {
		return nil, 0, nil, err
	}
	for _, job := range jobs {
		one, err := prepareImport(job, timeLayout)
		switch {
		case err != nil:
			refused = append(refused, RefusedJob{job.ID, err})
		case len(job.UniqueKey) == 0 && home[job.Origin]:
			atHome++
		default:
			prepared = append(prepared, one)
		}
	}
	return prepared, atHome, refused, nil
}

// homeOrigins returns those origins of jobs without a unique key that jobs of this database
// have, under the ids that the origins name.
func homeOrigins(ctx context.Context, e exporter, jobs []ExportedJob) (map[string]bool, error) {
	var ids []int64
	for _, job := range jobs {
		_, number, _ := strings.Cut(job.Origin, "/")
		if id, err := strconv.ParseInt(number, 10, 64); err == nil && len(job.UniqueKey) == 0 {
			ids = append(ids, id)
		}
	}
	origins := make(map[string]bool)
	for batch := range slices.Chunk(ids, listBatch) {
		found, err := e.exported(ctx, batch)
		if err != nil {
			return nil, err
		}
		for _, job := range found {
			job.finishExport()
			origins[job.Origin] = true
		}
	}
	return origins, nil
}

// RefusedError is the error of Import for jobs that cannot be imported, while all others
// are.
type RefusedError struct{ Jobs []RefusedJob }

// RefusedJob is a job that cannot be imported.
type RefusedJob struct {
	ID  int64 // in the database that it comes from
	Err error
}

func (e *RefusedError) Error() string {
	lines := make([]string, len(e.Jobs))
	for i, job := range e.Jobs {
		lines[i] = fmt.Sprintf("job %d: %v", job.ID, job.Err)
	}
	return strings.Join(lines, "\n")
}

func refusedError(jobs []RefusedJob) error {
	if len(jobs) == 0 {
		return nil
	}
	return &RefusedError{jobs}
}

func mustMarshal(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // what comes from JSON, or has texts and numbers only, can be marshalled
	}
	return text
}
