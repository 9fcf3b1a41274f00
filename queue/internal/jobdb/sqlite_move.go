package jobdb

import (
	"context"
	"database/sql"
	"encoding/json"
)

// sqliteTimeLayout is the form of all times in the database.
const sqliteTimeLayout = "2006-01-02 15:04:05.000"

// Export implements DB.
func (d *sqliteDB) Export(ctx context.Context, from int64, limit int) ([]ExportedJob, int64, error) {
	return export(ctx, d, from, limit)
}

// exported reads jobs. Times that each job must have are now where they are malformed, as for
// a claim.
func (d *sqliteDB) exported(ctx context.Context, ids []int64) (jobs []ExportedJob, err error) {
	rows, err := d.read.QueryContext(ctx, `SELECT id, CAST(queue AS TEXT), CAST(kind AS TEXT), CAST(state AS TEXT), CAST(priority AS INTEGER),
			CASE WHEN json_valid(tags, 9) THEN json(tags) END, CAST(attempt AS INTEGER), CAST(max_attempts AS INTEGER),
			CASE WHEN json_valid(attempted_by, 9) THEN json(attempted_by) END,
			coalesce(unixepoch(created_at, 'subsec'), unixepoch('now', 'subsec')), coalesce(unixepoch(scheduled_at, 'subsec'), unixepoch('now', 'subsec')),
			unixepoch(attempted_at, 'subsec'), unixepoch(finalized_at, 'subsec'),
			CASE WHEN json_valid(errors, 9) THEN json(errors) END, CASE WHEN json_valid(metadata, 9) THEN json(metadata) END,
			CASE WHEN unique_states IS NOT NULL THEN unique_key END,
			CASE WHEN json_valid(args, 8) THEN json(args) ELSE CAST(args AS BLOB) END
		FROM river_job WHERE id IN (SELECT value FROM json_each(?))`, jsonArray(ids))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var j ExportedJob
		var at [4]sql.NullFloat64
		var tags, attemptedBy, errs []byte
		if err := rows.Scan(&j.ID, &j.Queue, &j.Kind, &j.State, &j.Priority, &tags, &j.Attempt, &j.MaxAttempts, &attemptedBy,
			&at[0], &at[1], &at[2], &at[3], &errs, (*[]byte)(&j.Metadata), &j.UniqueKey, (*[]byte)(&j.Args)); err != nil {
			return nil, err
		}
		for i, field := range j.times() {
			if at[i].Valid {
				*field = unixTime(at[i].Float64)
			}
		}
		j.Tags, j.AttemptedBy, j.Errors = jsonTexts(tags), jsonTexts(attemptedBy), jsonObjects[json.RawMessage](errs)
		jobs = append(jobs, j)
	}
	return jobs, rows.Err()
}

// Import implements DB.
func (d *sqliteDB) Import(ctx context.Context, jobs []ExportedJob) (imported, duplicates int64, err error) {
	if err := d.log.usable(); err != nil {
		return 0, 0, err
	}
	prepared, duplicates, refused, err := prepareImports(ctx, d, jobs, sqliteTimeLayout)
	if err != nil {
		return 0, 0, err
	}
	var inserted, known int64
	err = d.inBatches(ctx, len(prepared), func(i int) error {
		rows, err := d.insertImported(prepared[i])
		switch {
		case isConstraint(err):
			refused = append(refused, RefusedJob{prepared[i].ID, err})
		case err != nil:
			return err
		case rows == 0:
			known++
		default:
			inserted++
		}
		return nil
	}, func() {
		imported, duplicates = imported+inserted, duplicates+known
		inserted, known = 0, 0
	})
	if err != nil {
		return imported, duplicates, err
	}
	return imported, duplicates, refusedError(refused)
}

func (d *sqliteDB) insertImported(j importedJob) (rows int64, err error) {
	var attemptedBy, errs any
	if len(j.AttemptedBy) > 0 {
		attemptedBy = jsonArray(j.AttemptedBy)
	}
	if len(j.Errors) > 0 {
		text, err := json.Marshal(j.Errors)
		if err != nil {
			return 0, err
		}
		errs = string(text)
	}
	var at [4]any
	for i, field := range j.times() {
		if !field.IsZero() {
			at[i] = field.UTC().Format(sqliteTimeLayout)
		}
	}
	result, err := d.write.execResult(`INSERT INTO river_job
		(args, attempt, attempted_at, attempted_by, created_at, errors, finalized_at, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags, unique_key, unique_states)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING`,
		string(j.Args), j.Attempt, at[2], attemptedBy, at[0], errs, at[3], j.Kind, j.MaxAttempts, string(j.metadata), j.Priority, j.Queue, at[1],
		string(j.State), jsonArray(append([]string{}, j.Tags...)), j.key, everyState)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}
