package jobdb

import (
	"context"
	"database/sql"
	"encoding/json"
)

// List implements DB.
func (d *sqliteDB) List(ctx context.Context, filter Filter, page Page) ([]Record, int64, error) {
	return list(ctx, d, filter, page)
}

// Of the ways to find jobs, only the index on state, queue, priority, scheduled_at and id
// reads no rows, which have the args in front. (The + keeps SQLite from going by id.)
const sqliteIndexed = ` FROM river_job WHERE state IN (SELECT value FROM json_each(?1)) AND (?2 IS NULL OR queue IN (SELECT value FROM json_each(?2)))`

// allStates are all that River knows.
var allStates = append(append([]State{}, UnfinishedStates...), FinishedStates...)

func sqliteIndexArgs(filter Filter) []any {
	states := filter.States
	if len(states) == 0 {
		states = allStates
	}
	args := []any{jsonArray(states), nil}
	if len(filter.Queues) > 0 {
		args[1] = jsonArray(filter.Queues)
	}
	return args
}

// jsonArray returns a list of numbers or texts as a JSON array.
func jsonArray[T int64 | string | State](values []T) string {
	text, err := json.Marshal(values)
	if err != nil {
		panic(err) // there is nothing that could not be marshalled
	}
	return string(text)
}

func (d *sqliteDB) sparse(ctx context.Context, filter Filter) (bool, error) {
	var n int
	err := d.read.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1`+sqliteIndexed+` LIMIT ?3)`,
		append(sqliteIndexArgs(filter), listSparse+1)...).Scan(&n)
	return n <= listSparse, err
}

func (d *sqliteDB) walk(ctx context.Context, filter Filter, page Page, limit int) ([]int64, error) {
	from, order := `id >= ?3`, `id`
	if page.Newest {
		from, order = `(?3 = 0 OR id <= ?3)`, `id DESC`
	}
	if len(filter.States)+len(filter.Queues) > 0 {
		return d.ids(ctx, `SELECT id`+sqliteIndexed+` AND +`+from+` ORDER BY +`+order+` LIMIT ?4`,
			append(sqliteIndexArgs(filter), page.From, limit)...)
	}
	return d.ids(ctx, `SELECT id FROM river_job WHERE `+from+` ORDER BY `+order+` LIMIT ?4`, nil, nil, page.From, limit)
}

func (d *sqliteDB) records(ctx context.Context, _ Filter, ids []int64, allErrors bool) (found []Record, err error) {
	errs := `json_array(json(errors -> '$[#-1]'))`
	if allErrors {
		errs = `json(errors)`
	}
	rows, err := d.read.QueryContext(ctx, `SELECT id, CAST(queue AS TEXT), CAST(kind AS TEXT), CAST(state AS TEXT),
			CASE WHEN json_valid(tags, 9) THEN json(tags) END, CAST(attempt AS INTEGER), CAST(max_attempts AS INTEGER),
			unixepoch(created_at, 'subsec'), unixepoch(scheduled_at, 'subsec'), unixepoch(attempted_at, 'subsec'), unixepoch(finalized_at, 'subsec'),
			CASE WHEN json_valid(errors, 9) THEN `+errs+` END
		FROM river_job WHERE id IN (SELECT value FROM json_each(?))`, jsonArray(ids))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r Record
		var stored, due, attempted, finalized sql.NullFloat64
		var tags, errs []byte
		if err := rows.Scan(&r.ID, &r.Queue, &r.Kind, &r.State, &tags, &r.Attempt, &r.MaxAttempts, &stored, &due, &attempted, &finalized, &errs); err != nil {
			return nil, err
		}
		r.Tags, r.Errors = jsonTexts(tags), jsonObjects[[]byte](errs)
		for i, at := range []sql.NullFloat64{stored, due, attempted, finalized} {
			if at.Valid {
				*r.times()[i] = unixTime(at.Float64)
			}
		}
		found = append(found, r)
	}
	return found, rows.Err()
}

func (d *sqliteDB) args(ctx context.Context, ids []int64) (map[int64][]byte, error) {
	rows, err := d.read.QueryContext(ctx, `SELECT id, CASE WHEN typeof(args) = 'text' THEN args WHEN json_valid(args, 9) THEN json(args) END
		FROM river_job WHERE id IN (SELECT value FROM json_each(?))`, jsonArray(ids))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	args := make(map[int64][]byte, len(ids))
	for rows.Next() {
		var id int64
		var text []byte
		if err := rows.Scan(&id, &text); err != nil {
			return nil, err
		}
		args[id] = text
	}
	return args, rows.Err()
}
