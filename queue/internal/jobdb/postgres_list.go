package jobdb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

const (
	postgresIndexed = ` FROM {s}river_job WHERE state = ANY ($1::text[]::{s}river_job_state[]) AND (cardinality($2::text[]) = 0 OR queue = ANY ($2::text[]))`

	postgresSparse = `SELECT count(*) FROM (SELECT 1` + postgresIndexed + ` LIMIT $3::bigint) AS counted`

	// id + 0 keeps PostgreSQL from walking along the primary key.
	postgresWalkIndex       = `SELECT id` + postgresIndexed + ` AND id + 0 >= $3::bigint ORDER BY id + 0 LIMIT $4::bigint`
	postgresWalkIndexNewest = `SELECT id` + postgresIndexed + ` AND ($3::bigint = 0 OR id + 0 <= $3::bigint) ORDER BY id + 0 DESC LIMIT $4::bigint`
	postgresWalk            = `SELECT id FROM {s}river_job WHERE id >= $1::bigint ORDER BY id LIMIT $2::bigint`
	postgresWalkNewest      = `SELECT id FROM {s}river_job WHERE $1::bigint = 0 OR id <= $1::bigint ORDER BY id DESC LIMIT $2::bigint`

	postgresRecords = `
		SELECT id, queue, kind, state::text, to_json(tags)::text, attempt, max_attempts, created_at, scheduled_at, attempted_at, finalized_at,
			to_json(CASE WHEN $2::bool THEN errors ELSE errors[array_upper(errors, 1):] END)::text
		FROM {s}river_job
		WHERE id = ANY ($1::bigint[]) AND (cardinality($3::text[]) = 0 OR kind = ANY ($3::text[])) AND tags::text[] @> $4::text[]
			AND ($5::timestamptz IS NULL OR created_at >= $5::timestamptz) AND ($6::timestamptz IS NULL OR created_at < $6::timestamptz)`

	postgresArgs = `SELECT id, args::text FROM {s}river_job WHERE id = ANY ($1::bigint[])`
)

// List implements DB.
func (d *postgresDB) List(ctx context.Context, filter Filter, page Page) (found []Record, next int64, err error) {
	found, next, err = list(ctx, d, filter, page)
	if err != nil {
		return nil, 0, fmt.Errorf("listing jobs: %w", err)
	}
	return found, next, nil
}

func postgresIndexArgs(filter Filter) []any {
	states := filter.States
	if len(states) == 0 {
		states = allStates
	}
	names := make([]string, len(states))
	for i, state := range states {
		names[i] = string(state)
	}
	return []any{names, append([]string{}, filter.Queues...)}
}

func (d *postgresDB) sparse(ctx context.Context, filter Filter) (bool, error) {
	var n int64
	err := d.query(ctx, func(rows pgx.Rows) (err error) {
		n, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
		return err
	}, d.sql(postgresSparse), append(postgresIndexArgs(filter), listSparse+1)...)
	return n <= listSparse, err
}

func (d *postgresDB) walk(ctx context.Context, filter Filter, page Page, limit int) ([]int64, error) {
	if len(filter.States)+len(filter.Queues) > 0 {
		statement := postgresWalkIndex
		if page.Newest {
			statement = postgresWalkIndexNewest
		}
		return d.ids(ctx, statement, append(postgresIndexArgs(filter), page.From, limit)...)
	}
	if page.Newest {
		return d.ids(ctx, postgresWalkNewest, page.From, limit)
	}
	return d.ids(ctx, postgresWalk, page.From, limit)
}

func (d *postgresDB) records(ctx context.Context, filter Filter, ids []int64, allErrors bool) (found []Record, err error) {
	err = d.query(ctx, func(rows pgx.Rows) (err error) {
		found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Record, err error) {
			var tags, errs []byte
			var at [4]pgtype.Timestamptz
			err = row.Scan(&r.ID, &r.Queue, &r.Kind, &r.State, &tags, &r.Attempt, &r.MaxAttempts, &at[0], &at[1], &at[2], &at[3], &errs)
			r.Tags, r.Errors = jsonTexts(tags), jsonObjects[[]byte](errs)
			for i, field := range r.times() {
				*field = postgresTime(at[i])
			}
			return r, err
		})
		return err
	}, d.sql(postgresRecords), ids, allErrors, append([]string{}, filter.Kinds...), filter.tags(), postgresTimestamp(filter.Since), postgresTimestamp(filter.Until))
	return found, err
}

// postgresTime returns a zero time for none, and for one that is infinite.
func postgresTime(at pgtype.Timestamptz) time.Time {
	if !at.Valid || at.InfinityModifier != pgtype.Finite {
		return time.Time{}
	}
	return at.Time.UTC()
}

// postgresTimestamp is null for a zero time.
func postgresTimestamp(at time.Time) pgtype.Timestamptz {
	return pgtype.Timestamptz{Time: at, Valid: !at.IsZero()}
}

func (d *postgresDB) args(ctx context.Context, ids []int64) (map[int64][]byte, error) {
	args := make(map[int64][]byte, len(ids))
	err := d.query(ctx, func(rows pgx.Rows) error {
		var id int64
		var text []byte
		_, err := pgx.ForEachRow(rows, []any{&id, &text}, func() error {
			args[id] = text
			text = nil
			return nil
		})
		return err
	}, d.sql(postgresArgs), ids)
	return args, err
}
