package jobdb

import (
	"context"
	"fmt"
	"slices"
)

const (
	// What another transaction has locked is about to change, and is not to be retried.
	postgresRetry = `
		WITH chosen AS MATERIALIZED (
			SELECT id FROM {s}river_job WHERE id = ANY ($1::bigint[]) AND state NOT IN ('available', 'running') ORDER BY id FOR UPDATE SKIP LOCKED
		)
		UPDATE {s}river_job AS j SET
			state = 'available',
			finalized_at = NULL,
			scheduled_at = now(),
			max_attempts = CASE WHEN j.attempt >= j.max_attempts THEN least(j.attempt::int + 1, 32767) ELSE j.max_attempts END
		FROM chosen WHERE j.id = chosen.id
		RETURNING j.id`

	// Rows are locked in the order of the ids, so that no two transactions wait for each
	// other.
	postgresDelete = `
		WITH chosen AS MATERIALIZED (
			SELECT id, state FROM {s}river_job WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE
		), cancelled AS (
			UPDATE {s}river_job AS j SET
				metadata = CASE WHEN jsonb_typeof(j.metadata) = 'object' THEN j.metadata ELSE '{}' END || jsonb_build_object('cancel_attempted_at', now())
			FROM chosen WHERE j.id = chosen.id AND chosen.state = 'running'
		)
		DELETE FROM {s}river_job AS j USING chosen WHERE j.id = chosen.id AND chosen.state <> 'running'
		RETURNING j.id`

	postgresSetPaused = `
		INSERT INTO {s}river_queue AS q (name, created_at, paused_at, updated_at)
		VALUES ($1::text, now(), CASE WHEN $2::bool THEN now() END, now())
		ON CONFLICT (name) DO UPDATE SET updated_at = now(), paused_at = CASE WHEN $2::bool THEN coalesce(q.paused_at, now()) END`
)

// Retry implements DB.
func (d *postgresDB) Retry(ctx context.Context, ids []int64) ([]int64, error) {
	changed, err := d.change(ctx, postgresRetry, ids)
	if err != nil {
		return changed, fmt.Errorf("retrying jobs: %w", err)
	}
	return changed, nil
}

// Delete implements DB.
func (d *postgresDB) Delete(ctx context.Context, ids []int64) ([]int64, error) {
	deleted, err := d.change(ctx, postgresDelete, ids)
	if err != nil {
		return deleted, fmt.Errorf("deleting jobs: %w", err)
	}
	return deleted, nil
}

// change runs a statement that takes ids, in batches, so that no lock is held for long.
func (d *postgresDB) change(ctx context.Context, statement string, ids []int64) (changed []int64, err error) {
	for batch := range slices.Chunk(ids, maxRows) {
		done, err := d.ids(ctx, statement, batch)
		if err != nil {
			return changed, err
		}
		d.changed(int64(len(done)))
		changed = append(changed, done...)
	}
	return changed, nil
}

// SetPaused implements DB.
func (d *postgresDB) SetPaused(ctx context.Context, queue string, paused bool) error {
	if _, err := d.exec(ctx, d.sql(postgresSetPaused), queue, paused); err != nil {
		return fmt.Errorf("pausing or resuming %s: %w", queue, err)
	}
	return nil
}

// Scrub implements DB. VACUUM makes the space of deleted rows free for others, but it does
// not overwrite it, and the server's log, its replicas and backups keep what they have.
// Where the rights do not allow it, the server warns and does nothing.
func (d *postgresDB) Scrub(ctx context.Context) error {
	_, err := d.working.Exec(ctx, d.sql("VACUUM {s}river_job"))
	if err != nil && postgresCode(err) != "42501" { // insufficient_privilege
		return fmt.Errorf("vacuuming: %w", err)
	}
	return nil
}
