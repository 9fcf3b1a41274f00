package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivertype"
)

// sqliteDriver is River's driver, but for the calls that move many rows. River
// sends these through JSON and gets each row back whole, bodies too, which is half of
// the work of a delivery; here they are the same statements with nothing more than is
// needed, and in portions, so that none keeps storing from its turn for long.
type sqliteDriver struct {
	*riversqlite.Driver
	db *sql.DB
}

func newSQLiteDriver(db *sql.DB) *sqliteDriver { return &sqliteDriver{riversqlite.New(db), db} }

// GetExecutor implements riverdriver.Driver.
func (d *sqliteDriver) GetExecutor() riverdriver.Executor {
	return &sqliteExecutor{d.Driver.GetExecutor(), d}
}

// UnwrapTx implements riverdriver.Driver.
func (d *sqliteDriver) UnwrapTx(exec riverdriver.ExecutorTx) *sql.Tx {
	if ours, ok := exec.(*sqliteExecutorTx); ok {
		exec = ours.ExecutorTx
	}
	return d.Driver.UnwrapTx(exec)
}

type sqliteExecutor struct {
	riverdriver.Executor
	driver *sqliteDriver
}

// Begin implements riverdriver.Executor.
func (e *sqliteExecutor) Begin(ctx context.Context) (riverdriver.ExecutorTx, error) {
	begun, err := e.Executor.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &sqliteExecutorTx{begun, e.driver}, nil
}

// portion is how many rows a statement changes at most.
const portion = 200

// JobSetStateIfRunningMany implements riverdriver.Executor.
func (e *sqliteExecutor) JobSetStateIfRunningMany(ctx context.Context, params *riverdriver.JobSetStateIfRunningManyParams) ([]*rivertype.JobRow, error) {
	var completed []int64
	others := riverdriver.JobSetStateIfRunningManyParams{Now: params.Now, Schema: params.Schema}
	for i, id := range params.ID {
		if params.State[i] == rivertype.JobStateCompleted && !params.MetadataDoMerge[i] && params.ErrData[i] == nil {
			completed = append(completed, id)
			continue
		}
		others.ID = append(others.ID, id)
		others.Attempt = append(others.Attempt, params.Attempt[i])
		others.ErrData = append(others.ErrData, params.ErrData[i])
		others.FinalizedAt = append(others.FinalizedAt, params.FinalizedAt[i])
		others.MetadataDoMerge = append(others.MetadataDoMerge, params.MetadataDoMerge[i])
		others.MetadataUpdates = append(others.MetadataUpdates, params.MetadataUpdates[i])
		others.ScheduledAt = append(others.ScheduledAt, params.ScheduledAt[i])
		others.State = append(others.State, params.State[i])
	}
	changed := make([]*rivertype.JobRow, 0, len(params.ID))
	for ids := range slices.Chunk(completed, portion) {
		if err := e.complete(ctx, ids); err != nil {
			return nil, err
		}
		for _, id := range ids {
			changed = append(changed, &rivertype.JobRow{ID: id, State: rivertype.JobStateCompleted})
		}
	}
	for at := 0; at < len(others.ID); at += portion {
		end := min(at+portion, len(others.ID))
		rows, err := e.Executor.JobSetStateIfRunningMany(ctx, &riverdriver.JobSetStateIfRunningManyParams{
			ID:              others.ID[at:end],
			Attempt:         others.Attempt[at:end],
			ErrData:         others.ErrData[at:end],
			FinalizedAt:     others.FinalizedAt[at:end],
			MetadataDoMerge: others.MetadataDoMerge[at:end],
			MetadataUpdates: others.MetadataUpdates[at:end],
			Now:             others.Now,
			ScheduledAt:     others.ScheduledAt[at:end],
			Schema:          others.Schema,
			State:           others.State[at:end],
		})
		if err != nil {
			return nil, err
		}
		changed = append(changed, rows...)
	}
	return changed, nil
}

// JobGetAvailable implements riverdriver.Executor. Of the jobs it returns, it sets
// what River and the deliverer ask for.
func (e *sqliteExecutor) JobGetAvailable(ctx context.Context, params *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	found, err := e.driver.db.QueryContext(ctx, `UPDATE river_job SET state = 'running', attempt = attempt + 1,
		attempted_at = datetime('now', 'subsec'), attempted_by = jsonb_insert(coalesce(attempted_by, jsonb('[]')), '$[#]', ?)
		WHERE id IN (
			SELECT id FROM river_job WHERE state = 'available' AND queue = ? AND priority >= 0 AND scheduled_at <= datetime('now', 'subsec')
			ORDER BY priority, scheduled_at, id LIMIT ?)
		RETURNING id, json(args), attempt, created_at, json(errors), kind, max_attempts, json(metadata), priority, scheduled_at`,
		params.ClientID, params.Queue, params.MaxToLock)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	now := time.Now()
	var jobs []*rivertype.JobRow
	for found.Next() {
		job := &rivertype.JobRow{AttemptedAt: &now, AttemptedBy: []string{params.ClientID}, Queue: params.Queue, State: rivertype.JobStateRunning}
		var failures sql.RawBytes
		if err := found.Scan(&job.ID, &job.EncodedArgs, &job.Attempt, &job.CreatedAt, &failures, &job.Kind, &job.MaxAttempts, &job.Metadata, &job.Priority, &job.ScheduledAt); err != nil {
			return nil, err
		}
		if len(failures) > 0 {
			if err := json.Unmarshal(failures, &job.Errors); err != nil {
				return nil, err
			}
		}
		jobs = append(jobs, job)
	}
	return &riverdriver.JobGetAvailableResult{Jobs: jobs}, found.Err()
}

func (e *sqliteExecutor) complete(ctx context.Context, ids []int64) error {
	list, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	_, err = e.driver.db.ExecContext(ctx, `UPDATE river_job SET state = 'completed', finalized_at = datetime('now', 'subsec')
		WHERE id IN (SELECT value FROM json_each(?)) AND state = 'running'`, string(list))
	return err
}

type sqliteExecutorTx struct {
	riverdriver.ExecutorTx
	driver *sqliteDriver
}

// JobInsertFastMany implements riverdriver.Executor. Of the jobs it returns, it sets
// only what this program knows of them.
func (t *sqliteExecutorTx) JobInsertFastMany(ctx context.Context, params *riverdriver.JobInsertFastManyParams) ([]*riverdriver.JobInsertFastResult, error) {
	tx := t.driver.UnwrapTx(t)
	results := make([]*riverdriver.JobInsertFastResult, len(params.Jobs))
	for i, job := range params.Jobs {
		var uniqueStates any
		if len(job.UniqueKey) > 0 {
			uniqueStates = job.UniqueStates
		}
		tags, err := json.Marshal(job.Tags)
		if err != nil {
			return nil, err
		}
		inserted, err := tx.ExecContext(ctx, `INSERT INTO river_job (args, created_at, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags, unique_key, unique_states)
			VALUES (jsonb(?), datetime('now', 'subsec'), ?, ?, jsonb(?), ?, ?, datetime('now', 'subsec'), ?, jsonb(?), ?, ?)
			ON CONFLICT DO NOTHING`,
			job.EncodedArgs, job.Kind, job.MaxAttempts, job.Metadata, job.Priority, job.Queue, string(job.State), tags, job.UniqueKey, uniqueStates)
		if err != nil {
			return nil, fmt.Errorf("inserting: %w", err)
		}
		n, err := inserted.RowsAffected()
		if err != nil {
			return nil, err
		}
		results[i] = &riverdriver.JobInsertFastResult{
			Job:                      &rivertype.JobRow{Kind: job.Kind, Queue: job.Queue, State: job.State},
			UniqueSkippedAsDuplicate: n == 0,
		}
	}
	return results, nil
}

// JobSchedule implements riverdriver.Executor. It does nothing: see sqliteDB.schedule.
func (*sqliteExecutorTx) JobSchedule(context.Context, *riverdriver.JobScheduleParams) ([]*riverdriver.JobScheduleResult, error) {
	return nil, nil
}

// Interface guards
var (
	_ riverdriver.Driver[*sql.Tx] = (*sqliteDriver)(nil)
	_ riverdriver.ExecutorTx      = (*sqliteExecutorTx)(nil)
)
