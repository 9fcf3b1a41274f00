package jobdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// postgresDurably makes the commit of the transaction that it is in durable.
const postgresDurably = `set_config('synchronous_commit', CASE
			WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN 'on'
			ELSE current_setting('synchronous_commit') END, true)`

// postgresInsert is a part of postgresStore. It ends before the unique key.
const postgresInsert = `
		INSERT INTO {s}river_job (
			args, kind, max_attempts, queue, tags, state, attempt, attempted_at, attempted_by, unique_key, unique_states
		)
		SELECT args, kind, max_attempts, queue, tags::text[],
			CASE WHEN holder = '' THEN 'available' ELSE 'running' END::{s}river_job_state,
			CASE WHEN holder = '' THEN 0 ELSE 1 END,
			CASE WHEN holder <> '' THEN now() END,
			CASE WHEN holder <> '' THEN ARRAY[holder] END,`

// postgresStore commits durably whatever the server's default is, and in this very
// transaction: behind PgBouncer, the next one may have another session. If there is a
// duplicate, the transaction writes a row all the same, so that its commit waits for the
// disk and the standby like the first one's.
//
// The jobs in With of another job have its unique key as the column leader. A job without
// a key is no duplicate, so theirs is NULL.
const postgresStore = `
	WITH stored AS (` + postgresInsert + `
			unique_key, CASE WHEN unique_key IS NOT NULL THEN B'11111111' END
		FROM (SELECT unnest($1::jsonb[]) AS args, unnest($2::text[]) AS kind, unnest($3::smallint[]) AS max_attempts,
			unnest($4::text[]) AS queue, unnest($5::text[]) AS tags, unnest($6::text[]) AS holder, unnest($7::bytea[]) AS unique_key) AS job
		WHERE (SELECT ` + postgresDurably + `) IS NOT NULL
		ON CONFLICT (unique_key)
			WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND {s}river_job_state_in_bitmask(unique_states, state)
			DO NOTHING
		RETURNING id, unique_key
	), others AS (` + postgresInsert + `
			NULL, NULL
		FROM (SELECT unnest($8::jsonb[]) AS args, unnest($9::text[]) AS kind, unnest($10::smallint[]) AS max_attempts,
			unnest($11::text[]) AS queue, unnest($12::text[]) AS tags, unnest($13::text[]) AS holder, unnest($14::bytea[]) AS leader) AS job
		WHERE leader IS NULL OR leader IN (SELECT unique_key FROM stored)
		RETURNING id
	), touched AS (
		INSERT INTO {instances} (id, updated_at) SELECT $15::text, now() WHERE (SELECT count(*) FROM stored) < $16::bigint
		ON CONFLICT (id) DO UPDATE SET updated_at = now()
	)
	SELECT id, unique_key, false FROM stored UNION ALL SELECT id, NULL, true FROM others`

// Store implements DB.
func (d *postgresDB) Store(ctx context.Context, collect func() []*NewJob) (stored []Stored, err error) {
	var jobs []*NewJob
	err = d.use(ctx, d.storing, func(conn *pgx.Conn) error {
		if collect != nil {
			jobs, collect = collect(), nil
			stored = make([]Stored, len(jobs))
		}
		return d.storeAll(ctx, conn, jobs, stored)
	})
	if err != nil {
		return nil, fmt.Errorf("storing: %w", err)
	}
	return stored, nil
}

// storeAll inserts jobs in the order of their unique keys: two instances that wait for
// each other's duplicates would never end.
func (d *postgresDB) storeAll(ctx context.Context, conn *pgx.Conn, jobs []*NewJob, stored []Stored) error {
	order := make([]int, 0, len(jobs))
	for i := range jobs {
		stored[i] = Stored{}
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int { return bytes.Compare(jobs[a].UniqueKey, jobs[b].UniqueKey) })
	return d.store(ctx, conn, jobs, order, stored)
}

// store inserts the jobs of an order. If the server refuses them, it inserts each half of
// them, so that in the end only those are refused that it would refuse alone.
func (d *postgresDB) store(ctx context.Context, conn *pgx.Conn, jobs []*NewJob, order []int, stored []Stored) error {
	if len(order) == 0 {
		return nil
	}
	err := d.insert(ctx, conn, jobs, order, stored)
	switch {
	case !postgresRefused(err):
		return err
	case len(order) == 1:
		stored[order[0]], err = d.storeAlone(ctx, conn, jobs[order[0]], err)
		return err
	}
	half := len(order) / 2
	if err := d.store(ctx, conn, jobs, order[:half], stored); err != nil {
		return err
	}
	return d.store(ctx, conn, jobs, order[half:], stored)
}

// storeAlone inserts a job that the server refused together with those in its With. It
// inserts each with a statement of its own, in one transaction, without those that the
// server refuses.
func (d *postgresDB) storeAlone(ctx context.Context, conn *pgx.Conn, job *NewJob, refused error) (Stored, error) {
	if len(job.With) == 0 {
		return Stored{Err: postgresJobError(refused)}, nil
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return Stored{}, err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // has no effect after the commit
	leader := *job
	leader.With = nil
	stored, err := d.try(ctx, tx, &leader)
	if err != nil {
		return Stored{}, err
	}
	if stored.ID != 0 {
		for _, other := range job.With {
			result, err := d.try(ctx, tx, other)
			if err != nil {
				return Stored{}, err
			}
			stored.With = append(stored.With, result)
		}
	}
	return stored, tx.Commit(ctx)
}

// try inserts a job. If the server refuses it, the transaction goes on as if it had not been
// tried.
func (d *postgresDB) try(ctx context.Context, tx pgx.Tx, job *NewJob) (Stored, error) {
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return Stored{}, err
	}
	stored := make([]Stored, 1)
	err = d.insert(ctx, savepoint, []*NewJob{job}, []int{0}, stored)
	if postgresRefused(err) {
		return Stored{Err: postgresJobError(err)}, savepoint.Rollback(ctx)
	}
	if err != nil {
		return Stored{}, err
	}
	return stored[0], savepoint.Commit(ctx)
}

// postgresJobError is without the server's details, which quote from the job.
func postgresJobError(err error) error {
	return fmt.Errorf("PostgreSQL refuses the job (SQLSTATE %s)", postgresCode(err))
}

// postgresColumns has the columns of jobs to be inserted.
type postgresColumns struct {
	args, keys                   [][]byte
	kinds, queues, tags, holders []string
	maxAttempts                  []int16
}

func (c *postgresColumns) add(job *NewJob, key []byte, instance string) {
	c.args = append(c.args, job.Args)
	if len(key) == 0 {
		key = nil
	}
	c.keys = append(c.keys, key)
	c.kinds = append(c.kinds, job.Kind)
	c.queues = append(c.queues, job.Queue)
	c.tags = append(c.tags, postgresArray(job.Tags))
	c.maxAttempts = append(c.maxAttempts, int16(min(max(job.MaxAttempts, 1), math.MaxInt16)))
	by := ""
	if job.Token != 0 {
		by = holder(instance, job.Token)
	}
	c.holders = append(c.holders, by)
}

func (c *postgresColumns) params() []any {
	return []any{postgresJSON{c.args}, c.kinds, c.maxAttempts, c.queues, c.tags, c.holders, postgresKeys{c.keys}}
}

// insert inserts the jobs of an order, and those in their With, with one statement.
func (d *postgresDB) insert(ctx context.Context, db postgresBatcher, jobs []*NewJob, order []int, stored []Stored) error {
	var leaders, others postgresColumns
	for _, place := range order {
		job := jobs[place]
		leaders.add(job, job.UniqueKey, d.instance)
		for _, other := range job.With {
			others.add(other, job.UniqueKey, d.instance)
		}
	}
	var ids []int64 // of others
	err := postgresPatient(ctx, db, postgresScan(func(rows pgx.Rows) (err error) {
		ids, err = inserted(rows, leaders.keys, order, stored)
		return err
	}), d.sql(postgresStore), slices.Concat(leaders.params(), others.params(), []any{d.instance, len(order)})...)
	if err != nil {
		return err
	}
	return d.assign(jobs, order, stored, ids)
}

// inserted reads what came of the jobs of an order, which have these keys, and returns the ids
// of those in their With.
func inserted(rows pgx.Rows, keys [][]byte, order []int, stored []Stored) (others []int64, err error) {
	// Rows come in the order of the jobs, without the duplicates and what is with them.
	next := 0
	for rows.Next() {
		var id int64
		var key []byte
		var other bool
		if err := rows.Scan(&id, &key, &other); err != nil {
			return nil, err
		}
		if other {
			others = append(others, id)
			continue
		}
		for ; next < len(order) && !bytes.Equal(keys[next], key); next++ {
			stored[order[next]] = Stored{Duplicate: true}
		}
		if next == len(order) {
			return nil, errPostgresRows
		}
		stored[order[next]] = Stored{ID: id}
		next++
	}
	for ; next < len(order); next++ {
		stored[order[next]] = Stored{Duplicate: true}
	}
	return others, rows.Err()
}

var errPostgresRows = errors.New("PostgreSQL returned other jobs than were stored")

// assign gives the ids of jobs in With, which are in the order of the jobs, to their
// results.
func (d *postgresDB) assign(jobs []*NewJob, order []int, stored []Stored, ids []int64) error {
	inserted := len(ids)
	for _, place := range order {
		if stored[place].ID == 0 {
			continue
		}
		inserted++
		for range jobs[place].With {
			if len(ids) == 0 {
				return errPostgresRows
			}
			stored[place].With = append(stored[place].With, Stored{ID: ids[0]})
			ids = ids[1:]
		}
	}
	if len(ids) > 0 {
		return errPostgresRows
	}
	d.changed(int64(inserted))
	return nil
}

// postgresArray writes an array of texts as PostgreSQL reads it.
func postgresArray(texts []string) string {
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	var array strings.Builder
	array.WriteByte('{')
	for i, text := range texts {
		if i > 0 {
			array.WriteByte(',')
		}
		array.WriteString(`"` + quote.Replace(text) + `"`)
	}
	array.WriteByte('}')
	return array.String()
}
