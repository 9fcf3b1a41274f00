package jobdb

import "context"

// Retry implements DB.
func (d *sqliteDB) Retry(ctx context.Context, ids []int64) (changed []int64, err error) {
	// a row of another program may be unique only in some states, and stays as it is then
	return d.change(ctx, ids, `UPDATE OR IGNORE river_job SET state = 'available', finalized_at = NULL, scheduled_at = datetime('now', 'subsec'),
		max_attempts = CASE WHEN attempt >= max_attempts THEN attempt + 1 ELSE max_attempts END
		WHERE id = ? AND state NOT IN ('available', 'running')`)
}

// Delete implements DB.
func (d *sqliteDB) Delete(ctx context.Context, ids []int64) (deleted []int64, err error) {
	return d.change(ctx, ids, `DELETE FROM river_job WHERE id = ? AND state <> 'running'`,
		`UPDATE river_job SET metadata = json_set(CASE WHEN json_valid(metadata, 6) THEN metadata ELSE '{}' END,
			'$.cancel_attempted_at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
		WHERE id = ? AND state = 'running'`)
}

// change runs a statement for each job, and those that come after it for the jobs that it
// did not change. It returns the ids of those that the first one changed, once that is
// durable.
func (d *sqliteDB) change(ctx context.Context, ids []int64, statement string, others ...string) (changed []int64, err error) {
	var pending []int64
	err = d.inBatches(ctx, len(ids), func(i int) error {
		result, err := d.write.execResult(statement, ids[i])
		if err != nil {
			return err
		}
		rows, err := result.RowsAffected()
		if err != nil {
			return err
		}
		if rows > 0 {
			pending = append(pending, ids[i])
			return nil
		}
		for _, other := range others {
			if err := d.write.exec(other, ids[i]); err != nil {
				return err
			}
		}
		return nil
	}, func() {
		changed, pending = append(changed, pending...), nil
	})
	return changed, err
}

// SetPaused implements DB.
func (d *sqliteDB) SetPaused(ctx context.Context, queue string, paused bool) error {
	return d.transaction(ctx, delivering, func() error {
		return d.write.exec(`INSERT INTO river_queue (name, created_at, metadata, paused_at, updated_at)
			VALUES (?1, datetime('now', 'subsec'), '{}', CASE WHEN ?2 THEN datetime('now', 'subsec') END, datetime('now', 'subsec'))
			ON CONFLICT (name) DO UPDATE SET updated_at = excluded.updated_at,
				paused_at = CASE WHEN ?2 THEN coalesce(paused_at, excluded.paused_at) END`, queue, paused)
	})
}
