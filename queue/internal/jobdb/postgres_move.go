package jobdb

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

const (
	// postgresTimeLayout is the form of times in the metadata: see postgresUTC.
	postgresTimeLayout = "2006-01-02T15:04:05.000000Z"

	postgresExport = `
		SELECT id, queue, kind, state::text, priority, to_json(tags)::text, attempt, max_attempts, to_json(attempted_by)::text,
			created_at, scheduled_at, attempted_at, finalized_at, to_json(errors)::text, metadata::text,
			CASE WHEN unique_states IS NOT NULL THEN unique_key END, args::text
		FROM {s}river_job WHERE id = ANY ($1::bigint[])`

	// Jobs are durable as those of postgresStore are.
	postgresImport = `
		INSERT INTO {s}river_job (
			args, attempt, attempted_at, attempted_by, created_at, errors, finalized_at, kind, max_attempts, metadata, priority, queue,
			scheduled_at, state, tags, unique_key, unique_states
		)
		SELECT args, attempt, attempted_at, attempted_by, created_at, errors, finalized_at, kind, max_attempts, metadata, priority, queue,
			scheduled_at, state::{s}river_job_state, tags, decode(unique_key, 'hex'), B'11111111'
		FROM jsonb_to_recordset($1::jsonb) AS job(args jsonb, attempt smallint, attempted_at timestamptz, attempted_by text[], created_at timestamptz,
			errors jsonb[], finalized_at timestamptz, kind text, max_attempts smallint, metadata jsonb, priority smallint, queue text,
			scheduled_at timestamptz, state text, tags text[], unique_key text)
		WHERE (SELECT set_config('synchronous_commit', CASE
			WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN 'on'
			ELSE current_setting('synchronous_commit') END, true)) IS NOT NULL
		ON CONFLICT (unique_key)
			WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND {s}river_job_state_in_bitmask(unique_states, state)
			DO NOTHING
		RETURNING id`
)

// Export implements DB.
func (d *postgresDB) Export(ctx context.Context, from int64, limit int) (jobs []ExportedJob, next int64, err error) {
	jobs, next, err = export(ctx, d, from, limit)
	if err != nil {
		return nil, 0, fmt.Errorf("exporting jobs: %w", err)
	}
	return jobs, next, nil
}

func (d *postgresDB) exported(ctx context.Context, ids []int64) (jobs []ExportedJob, err error) {
	err = d.query(ctx, func(rows pgx.Rows) (err error) {
		jobs, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (j ExportedJob, err error) {
			var tags, attemptedBy, errs, metadata, args []byte
			var at [4]pgtype.Timestamptz
			err = row.Scan(&j.ID, &j.Queue, &j.Kind, &j.State, &j.Priority, &tags, &j.Attempt, &j.MaxAttempts, &attemptedBy,
				&at[0], &at[1], &at[2], &at[3], &errs, &metadata, &j.UniqueKey, &args)
			for i, field := range j.times() {
				*field = postgresTime(at[i])
			}
			j.Tags, j.AttemptedBy, j.Errors = jsonTexts(tags), jsonTexts(attemptedBy), jsonObjects[json.RawMessage](errs)
			j.Metadata, j.Args = metadata, args
			return j, err
		})
		return err
	}, d.sql(postgresExport), ids)
	return jobs, err
}

// Import implements DB.
func (d *postgresDB) Import(ctx context.Context, jobs []ExportedJob) (imported, duplicates int64, err error) {
	prepared, duplicates, refused, err := prepareImports(ctx, d, jobs, postgresTimeLayout)
	if err != nil {
		return 0, 0, fmt.Errorf("importing jobs: %w", err)
	}
	// in this order, two instances that import the same never wait for each other for ever
	slices.SortFunc(prepared, func(a, b importedJob) int { return bytes.Compare(a.key, b.key) })
	for batch := range slices.Chunk(prepared, listBatch) {
		inserted, refusedNow, err := d.importAll(ctx, batch)
		if err != nil {
			return imported, duplicates, fmt.Errorf("importing jobs: %w", err)
		}
		d.changed(inserted)
		imported += inserted
		duplicates += int64(len(batch)-len(refusedNow)) - inserted
		refused = append(refused, refusedNow...)
	}
	return imported, duplicates, refusedError(refused)
}

// importAll inserts jobs. If the server refuses them, it inserts each half of them, so that
// in the end only those are refused that it would refuse alone.
func (d *postgresDB) importAll(ctx context.Context, jobs []importedJob) (inserted int64, refused []RefusedJob, err error) {
	if len(jobs) == 0 {
		return 0, nil, nil
	}
	records := make([]postgresRecord, len(jobs))
	for i, job := range jobs {
		records[i] = newPostgresRecord(job)
	}
	text, err := json.Marshal(records)
	if err != nil {
		return 0, nil, err
	}
	ids, err := d.ids(ctx, postgresImport, text)
	switch {
	case !postgresRefused(err):
		return int64(len(ids)), nil, err
	case len(jobs) == 1:
		return 0, []RefusedJob{{jobs[0].ID, postgresJobError(err)}}, nil
	}
	for _, half := range [][]importedJob{jobs[:len(jobs)/2], jobs[len(jobs)/2:]} {
		n, more, err := d.importAll(ctx, half)
		if err != nil {
			return inserted, refused, err
		}
		inserted, refused = inserted+n, append(refused, more...)
	}
	return inserted, refused, nil
}

// postgresRecord is a row for jsonb_to_recordset.
type postgresRecord struct {
	Args        json.RawMessage   `json:"args"`
	Attempt     int               `json:"attempt"`
	AttemptedAt *time.Time        `json:"attempted_at"`
	AttemptedBy []string          `json:"attempted_by"`
	CreatedAt   *time.Time        `json:"created_at"`
	Errors      []json.RawMessage `json:"errors"`
	FinalizedAt *time.Time        `json:"finalized_at"`
	Kind        string            `json:"kind"`
	MaxAttempts int               `json:"max_attempts"`
	Metadata    json.RawMessage   `json:"metadata"`
	Priority    int               `json:"priority"`
	Queue       string            `json:"queue"`
	ScheduledAt *time.Time        `json:"scheduled_at"`
	State       State             `json:"state"`
	Tags        []string          `json:"tags"`
	UniqueKey   string            `json:"unique_key"`
}

func newPostgresRecord(j importedJob) postgresRecord {
	r := postgresRecord{
		Args:        j.Args,
		Attempt:     j.Attempt,
		AttemptedBy: j.AttemptedBy,
		Kind:        j.Kind,
		MaxAttempts: j.MaxAttempts,
		Metadata:    j.metadata,
		Priority:    j.Priority,
		Queue:       j.Queue,
		State:       j.State,
		Tags:        append([]string{}, j.Tags...),
		UniqueKey:   hex.EncodeToString(j.key),
	}
	for i, field := range []**time.Time{&r.CreatedAt, &r.ScheduledAt, &r.AttemptedAt, &r.FinalizedAt} {
		if at := j.times()[i]; !at.IsZero() {
			*field = at
		}
	}
	for _, failure := range j.Errors {
		r.Errors = append(r.Errors, bytes.ReplaceAll(failure, []byte(`\u0000`), []byte(`\ufffd`))) // which jsonb cannot keep
	}
	return r
}
