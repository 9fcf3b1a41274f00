package jobdb

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/riverqueue/river/riverdriver/riversqlite"
)

// Queues implements DB.
func (d *sqliteDB) Queues(ctx context.Context, names []string) (paused map[string]bool, err error) {
	rows, err := d.read.QueryContext(ctx, `SELECT name, paused_at IS NOT NULL, updated_at > datetime('now', '-10 minutes') FROM river_queue`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	paused = make(map[string]bool)
	var fresh []string
	for rows.Next() {
		var name string
		var isPaused, isFresh bool
		if err := rows.Scan(&name, &isPaused, &isFresh); err != nil {
			return nil, err
		}
		if isPaused {
			paused[name] = true
		}
		if isFresh {
			fresh = append(fresh, name)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	stale := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(fresh, name) })
	if len(stale) == 0 {
		return paused, nil
	}
	return paused, d.transaction(ctx, delivering, func() error {
		for _, name := range stale {
			err := d.write.exec(`INSERT INTO river_queue (name, created_at, metadata, updated_at)
				VALUES (?, datetime('now', 'subsec'), '{}', datetime('now', 'subsec'))
				ON CONFLICT (name) DO UPDATE SET updated_at = excluded.updated_at`, name)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// QueuesWith implements DB.
func (d *sqliteDB) QueuesWith(ctx context.Context, states []State) ([]string, error) {
	var names []string
	for _, state := range states {
		for last := ""; ; {
			var name sql.NullString
			err := d.read.QueryRowContext(ctx, `SELECT min(queue) FROM river_job WHERE state = ? AND queue > ?`, string(state), last).Scan(&name)
			if err != nil {
				return nil, err
			}
			if !name.Valid {
				break
			}
			last = name.String
			names = append(names, last)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Changes implements DB.
func (d *sqliteDB) Changes(ctx context.Context) (version uint64, err error) {
	// of the connection that writes, as SQLite counts only what others have changed
	if err := d.writeLock.lock(ctx, delivering); err != nil {
		return 0, err
	}
	defer d.writeLock.unlock()
	var others uint64
	if err := d.write.queryRow(`PRAGMA data_version`, nil, &others); err != nil {
		return 0, err
	}
	own, err := d.totalChanges()
	return others<<32 + own - d.probed, err
}

// Count implements DB.
func (d *sqliteDB) Count(ctx context.Context, state State) (map[string]int64, error) {
	rows, err := d.read.QueryContext(ctx, `SELECT queue, count(*) FROM river_job WHERE state = ? GROUP BY queue`, string(state))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	counts := make(map[string]int64)
	for rows.Next() {
		var name string
		var n int64
		if err := rows.Scan(&name, &n); err != nil {
			return nil, err
		}
		counts[name] = n
	}
	return counts, rows.Err()
}

// Oldest implements DB.
func (d *sqliteDB) Oldest(ctx context.Context) (map[string]time.Duration, error) {
	// ids are given in the order of time, and stand in the index
	rows, err := d.read.QueryContext(ctx, `SELECT queue, coalesce(unixepoch('now', 'subsec') - unixepoch(created_at, 'subsec'), 0) FROM river_job WHERE id IN (
		SELECT min(id) FROM river_job WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') GROUP BY state, queue)`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	oldest := make(map[string]time.Duration)
	for rows.Next() {
		var name string
		var age float64
		if err := rows.Scan(&name, &age); err != nil {
			return nil, err
		}
		oldest[name] = max(oldest[name], seconds(age))
	}
	return oldest, rows.Err()
}

// Expire implements DB.
func (d *sqliteDB) Expire(ctx context.Context, expiry Expiry) (deleted int64, err error) {
	for state, keep := range map[State]time.Duration{
		StateCompleted: expiry.KeepCompleted, StateDiscarded: expiry.KeepDead, StateCancelled: expiry.KeepDead,
	} {
		n, err := d.expire(ctx, state, keep, expiry.Queues, expiry.Limit-int(deleted))
		deleted += n
		if err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}

func (d *sqliteDB) expire(ctx context.Context, state State, keep time.Duration, queues []string, limit int) (deleted int64, err error) {
	names, err := json.Marshal(queues)
	if err != nil {
		return 0, err
	}
	ids, err := d.ids(ctx, `SELECT id FROM river_job WHERE state = ? AND finalized_at < datetime('now', 'subsec', ?)
		AND queue IN (SELECT value FROM json_each(?)) LIMIT ?`, string(state), offset(-keep), string(names), limit)
	if err != nil {
		return 0, err
	}
	return d.writeEach(ctx, ids, func(id int64) error {
		return d.write.exec(`DELETE FROM river_job WHERE id = ? AND state = ?`, id, string(state))
	})
}

func (d *sqliteDB) ids(ctx context.Context, query string, args ...any) ([]int64, error) {
	rows, err := d.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return scanIDs(rows)
}

// scanIDs reads the ids that a statement returns, and closes the rows.
func scanIDs(rows *sql.Rows) (ids []int64, err error) {
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// writeEach does something to each row, in transactions of maxRows rows each, and
// returns for how many rows that was committed.
func (d *sqliteDB) writeEach(ctx context.Context, ids []int64, do func(id int64) error) (written int64, err error) {
	for batch := range slices.Chunk(ids, maxRows) {
		err := d.transaction(ctx, delivering, func() error {
			for _, id := range batch {
				if err := do(id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return written, err
		}
		written += int64(len(batch))
	}
	return written, nil
}

// Reclock implements DB.
func (d *sqliteDB) Reclock(ctx context.Context) (changed int64, err error) {
	ids, err := d.ids(ctx, `SELECT id FROM river_job WHERE state = 'retryable' AND attempted_at > datetime('now', 'subsec')`)
	if err != nil {
		return 0, err
	}
	return d.writeEach(ctx, ids, func(id int64) error {
		return d.write.exec(`UPDATE river_job SET attempted_at = datetime('now', 'subsec'),
			scheduled_at = datetime('now', 'subsec', format('%+.3f seconds', unixepoch(scheduled_at, 'subsec') - unixepoch(attempted_at, 'subsec')))
			WHERE id = ? AND state = 'retryable'`, id)
	})
}

// UI implements DB.
func (d *sqliteDB) UI(ctx context.Context, prefix string, logger *slog.Logger) (http.Handler, error) {
	return newUI(ctx, riversqlite.New(d.read), "", prefix, logger)
}

// offset returns a duration as a modifier of SQLite's date functions.
func offset(d time.Duration) string {
	return fmt.Sprintf("%+.3f seconds", d.Seconds())
}
