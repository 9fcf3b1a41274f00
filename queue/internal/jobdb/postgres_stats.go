package jobdb

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// Each step is one descent of the index on (state, queue, …): to the first queue of the
	// state that comes after the one before.
	postgresQueuesWith = `
		WITH RECURSIVE found AS (
			SELECT state, (SELECT queue FROM {s}river_job AS j WHERE j.state = states.state ORDER BY queue LIMIT 1) AS queue
			FROM unnest($1::text[]::{s}river_job_state[]) AS states(state)
			UNION ALL
			SELECT state, (SELECT queue FROM {s}river_job AS j WHERE j.state = found.state AND j.queue > found.queue ORDER BY queue LIMIT 1)
			FROM found WHERE found.queue IS NOT NULL
		)
		SELECT DISTINCT queue FROM found WHERE queue IS NOT NULL`

	postgresChanges = `SELECT coalesce(pg_stat_get_tuples_inserted(jobs) + pg_stat_get_tuples_updated(jobs) + pg_stat_get_tuples_deleted(jobs), 0)
		FROM to_regclass($1::text) AS jobs`

	postgresCount = `SELECT queue, count(*) FROM {s}river_job WHERE state = $1::text::{s}river_job_state GROUP BY queue`

	postgresReclock = `UPDATE {s}river_job SET scheduled_at = now() + (scheduled_at - attempted_at), attempted_at = now()
		WHERE state = 'retryable' AND attempted_at > now()`

	// A row that is up to date is not touched, so that at rest nothing is written.
	postgresQueues = `
		WITH listed AS (
			INSERT INTO {s}river_queue (name, created_at, updated_at)
			SELECT DISTINCT wanted.name, now(), now() FROM unnest($1::text[]) AS wanted(name) LEFT JOIN {s}river_queue AS q ON q.name = wanted.name
			WHERE q.name IS NULL OR q.updated_at < now() - interval '10 minutes'
			ORDER BY wanted.name
			ON CONFLICT (name) DO UPDATE SET updated_at = now()
		)
		SELECT name FROM {s}river_queue WHERE paused_at IS NOT NULL`

	postgresExpire = `
		WITH completed AS MATERIALIZED (
			SELECT id FROM {s}river_job
			WHERE state = 'completed' AND queue = ANY ($1::text[]) AND finalized_at < now() - $2::bigint * interval '1 microsecond'
			ORDER BY finalized_at LIMIT $4::bigint FOR UPDATE SKIP LOCKED
		), discarded AS MATERIALIZED (
			SELECT id FROM {s}river_job
			WHERE state = 'discarded' AND queue = ANY ($1::text[]) AND finalized_at < now() - $3::bigint * interval '1 microsecond'
			ORDER BY finalized_at LIMIT $4::bigint - (SELECT count(*) FROM completed) FOR UPDATE SKIP LOCKED
		), cancelled AS MATERIALIZED (
			SELECT id FROM {s}river_job
			WHERE state = 'cancelled' AND queue = ANY ($1::text[]) AND finalized_at < now() - $3::bigint * interval '1 microsecond'
			ORDER BY finalized_at LIMIT $4::bigint - (SELECT count(*) FROM completed) - (SELECT count(*) FROM discarded) FOR UPDATE SKIP LOCKED
		)
		DELETE FROM {s}river_job WHERE id = ANY (ARRAY(
			SELECT id FROM completed UNION ALL SELECT id FROM discarded UNION ALL SELECT id FROM cancelled))`
)

// Reclock implements DB. It reads all retryable jobs.
func (d *postgresDB) Reclock(ctx context.Context) (int64, error) {
	changed, err := d.exec(ctx, d.sql(postgresReclock))
	if err != nil {
		return 0, fmt.Errorf("setting retries right after the clock was set back: %w", err)
	}
	return changed, nil
}

// Queues implements DB.
func (d *postgresDB) Queues(ctx context.Context, names []string) (map[string]bool, error) {
	if names == nil {
		names = []string{}
	}
	paused := make(map[string]bool)
	err := d.query(ctx, func(rows pgx.Rows) error {
		var name string
		_, err := pgx.ForEachRow(rows, []any{&name}, func() error {
			paused[name] = true
			return nil
		})
		return err
	}, d.sql(postgresQueues), names)
	if err != nil {
		return nil, fmt.Errorf("listing queues: %w", err)
	}
	return paused, nil
}

// QueuesWith implements DB.
func (d *postgresDB) QueuesWith(ctx context.Context, states []State) (queues []string, err error) {
	names := make([]string, len(states))
	for i, state := range states {
		names[i] = string(state)
	}
	err = d.query(ctx, func(rows pgx.Rows) (err error) {
		queues, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}, d.sql(postgresQueuesWith), names)
	if err != nil {
		return nil, fmt.Errorf("looking for queues with jobs: %w", err)
	}
	return queues, nil
}

// Changes implements DB. What this process changed counts at once, and again up to some
// seconds later, together with what others changed, when the server's statistics have it.
func (d *postgresDB) Changes(ctx context.Context) (uint64, error) {
	var changes uint64
	err := d.query(ctx, func(rows pgx.Rows) (err error) {
		changes, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[uint64])
		return err
	}, postgresChanges, d.name("river_job"))
	if err != nil {
		return 0, fmt.Errorf("reading how much has changed: %w", err)
	}
	return changes + d.changes.Load(), nil
}

// Count implements DB.
func (d *postgresDB) Count(ctx context.Context, state State) (map[string]int64, error) {
	counts := make(map[string]int64)
	err := d.patientRows(ctx, func(rows pgx.Rows) error {
		var queue string
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&queue, &n}, func() error {
			counts[queue] = n
			return nil
		})
		return err
	}, d.sql(postgresCount), string(state))
	if err != nil {
		return nil, fmt.Errorf("counting %s jobs: %w", state, err)
	}
	return counts, nil
}

// Expire implements DB.
func (d *postgresDB) Expire(ctx context.Context, expiry Expiry) (int64, error) {
	deleted, err := d.exec(ctx, d.sql(postgresExpire), expiry.Queues, expiry.KeepCompleted.Microseconds(), expiry.KeepDead.Microseconds(), expiry.Limit)
	if err != nil {
		return 0, fmt.Errorf("deleting old jobs: %w", err)
	}
	return deleted, nil
}

// postgresOldest remembers, by queue, the first jobs that were unfinished when all were
// looked at, by id. As long as one of them is unfinished, so is none that is older: ids
// grow with time. The exception is a job that was finished, and that a person retries,
// which is taken to be new.
type postgresOldest struct {
	mu    sync.Mutex
	first map[string][]int64
}

// postgresFirst is how many jobs of a queue are remembered. When all are finished, all
// retryable jobs of the queue are looked at again, in the index.
const postgresFirst = 1000

const (
	postgresOldestOf = `
		SELECT DISTINCT ON (queue) queue, (extract(epoch FROM now() - created_at) * 1000000)::bigint FROM {s}river_job
		WHERE id = ANY ($1::bigint[]) AND state NOT IN ('completed', 'discarded', 'cancelled')
		ORDER BY queue, id`

	// id + 0 keeps PostgreSQL from walking along the primary key, through all finished
	// jobs. Available jobs are in the index in the order in which they were stored.
	postgresHeads = `
		SELECT wanted.queue, head.id
		FROM unnest($1::text[]) AS wanted(queue), LATERAL (
			(SELECT id FROM {s}river_job WHERE state = 'available' AND queue = wanted.queue ORDER BY priority, scheduled_at, id LIMIT $2)
			UNION ALL (SELECT id FROM {s}river_job WHERE state = 'running' AND queue = wanted.queue ORDER BY id + 0 LIMIT $2)
			UNION ALL (SELECT id FROM {s}river_job WHERE state = 'retryable' AND queue = wanted.queue ORDER BY id + 0 LIMIT $2)
			UNION ALL (SELECT id FROM {s}river_job WHERE state IN ('pending', 'scheduled') AND queue = wanted.queue ORDER BY id + 0 LIMIT $2)
			ORDER BY id LIMIT $2::bigint
		) AS head`
)

// Oldest implements DB. It costs one look at up to a thousand jobs of each queue, and when
// these are finished, one at the index entries of all its retryable jobs (some 0.2 s for a
// million).
func (d *postgresDB) Oldest(ctx context.Context) (map[string]time.Duration, error) {
	queues, err := d.QueuesWith(ctx, UnfinishedStates)
	if err != nil {
		return nil, err
	}
	d.oldest.mu.Lock()
	defer d.oldest.mu.Unlock()
	oldest, err := d.oldestOf(ctx, d.oldest.first)
	if err != nil {
		return nil, fmt.Errorf("looking for the oldest jobs: %w", err)
	}
	first := make(map[string][]int64)
	for queue := range oldest {
		first[queue] = d.oldest.first[queue]
	}
	queues = slices.DeleteFunc(queues, func(queue string) bool { return first[queue] != nil })
	if len(queues) > 0 {
		heads, err := d.heads(ctx, queues)
		if err != nil {
			return nil, fmt.Errorf("looking for the oldest jobs: %w", err)
		}
		more, err := d.oldestOf(ctx, heads)
		if err != nil {
			return nil, fmt.Errorf("looking for the oldest jobs: %w", err)
		}
		maps.Copy(first, heads)
		maps.Copy(oldest, more)
	}
	d.oldest.first = first
	return oldest, nil
}

func (d *postgresDB) oldestOf(ctx context.Context, first map[string][]int64) (map[string]time.Duration, error) {
	oldest := make(map[string]time.Duration)
	if len(first) == 0 {
		return oldest, nil
	}
	err := d.query(ctx, func(rows pgx.Rows) error {
		var queue string
		var age int64
		_, err := pgx.ForEachRow(rows, []any{&queue, &age}, func() error {
			oldest[queue] = max(time.Duration(age)*time.Microsecond, 0)
			return nil
		})
		return err
	}, d.sql(postgresOldestOf), slices.Concat(slices.Collect(maps.Values(first))...))
	return oldest, err
}

func (d *postgresDB) heads(ctx context.Context, queues []string) (map[string][]int64, error) {
	heads := make(map[string][]int64)
	err := d.patientRows(ctx, func(rows pgx.Rows) error {
		clear(heads) // of an attempt that the server aborted
		var queue string
		var id int64
		_, err := pgx.ForEachRow(rows, []any{&queue, &id}, func() error {
			heads[queue] = append(heads[queue], id)
			return nil
		})
		return err
	}, d.sql(postgresHeads), queues, postgresFirst)
	return heads, err
}
