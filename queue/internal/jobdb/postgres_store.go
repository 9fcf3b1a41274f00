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

// postgresStore commits durably whatever the server's default is, and in this very
// transaction: behind PgBouncer, the next one may have another session. If there is a
// duplicate, the transaction writes a row all the same, so that its commit waits for the
// disk and the standby like the first one's.
const postgresStore = `
	WITH stored AS (
		INSERT INTO {s}river_job (
			args, kind, max_attempts, queue, tags, unique_key, unique_states,
			state, attempt, attempted_at, attempted_by
		)
		SELECT args, kind, max_attempts, queue, tags::text[], unique_key, CASE WHEN unique_key IS NOT NULL THEN B'11111111' END,
			CASE WHEN holder = '' THEN 'available' ELSE 'running' END::{s}river_job_state,
			CASE WHEN holder = '' THEN 0 ELSE 1 END,
			CASE WHEN holder <> '' THEN now() END,
			CASE WHEN holder <> '' THEN ARRAY[holder] END
		FROM (SELECT unnest($1::jsonb[]) AS args, unnest($2::text[]) AS kind, unnest($3::smallint[]) AS max_attempts,
			unnest($4::text[]) AS queue, unnest($5::text[]) AS tags, unnest($6::bytea[]) AS unique_key, unnest($7::text[]) AS holder) AS job
		WHERE (SELECT set_config('synchronous_commit', CASE
			WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN 'on'
			ELSE current_setting('synchronous_commit') END, true)) IS NOT NULL
		ON CONFLICT (unique_key)
			WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND {s}river_job_state_in_bitmask(unique_states, state)
			DO NOTHING
		RETURNING id, unique_key
	), touched AS (
		INSERT INTO {instances} (id, updated_at) SELECT $8::text, now() WHERE (SELECT count(*) FROM stored) < $9::bigint
		ON CONFLICT (id) DO UPDATE SET updated_at = now()
	)
	SELECT id, unique_key FROM stored`

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
		stored[order[0]] = Stored{Err: postgresJobError(err)}
		return nil
	}
	half := len(order) / 2
	if err := d.store(ctx, conn, jobs, order[:half], stored); err != nil {
		return err
	}
	return d.store(ctx, conn, jobs, order[half:], stored)
}

// postgresJobError is without the server's details, which quote from the job.
func postgresJobError(err error) error {
	return fmt.Errorf("PostgreSQL refuses the job (SQLSTATE %s)", postgresCode(err))
}

func (d *postgresDB) insert(ctx context.Context, conn *pgx.Conn, jobs []*NewJob, order []int, stored []Stored) error {
	n := len(order)
	args, keys := make([][]byte, n), make([][]byte, n)
	kinds, queues, tags, holders := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	maxAttempts := make([]int16, n)
	for i, place := range order {
		job := jobs[place]
		args[i] = job.Args
		if len(job.UniqueKey) > 0 {
			keys[i] = job.UniqueKey
		}
		kinds[i], queues[i], tags[i] = job.Kind, job.Queue, postgresArray(job.Tags)
		maxAttempts[i] = int16(min(max(job.MaxAttempts, 1), math.MaxInt16))
		if job.Token != 0 {
			holders[i] = holder(d.instance, job.Token)
		}
	}
	rows, err := conn.Query(ctx, d.sql(postgresStore), postgresJSON{args}, kinds, maxAttempts, queues, tags, postgresKeys{keys}, holders, d.instance, n)
	if err != nil {
		return err
	}
	defer rows.Close()
	// Rows come in the order of the jobs, without the duplicates.
	next, inserted := 0, int64(0)
	for rows.Next() {
		var id int64
		var key []byte
		if err := rows.Scan(&id, &key); err != nil {
			return err
		}
		for ; next < n && !bytes.Equal(keys[next], key); next++ {
			stored[order[next]] = Stored{Duplicate: true}
		}
		if next == n {
			return errors.New("PostgreSQL returned a job that was not stored")
		}
		stored[order[next]] = Stored{ID: id}
		next++
		inserted++
	}
	for ; next < n; next++ {
		stored[order[next]] = Stored{Duplicate: true}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	d.changed(inserted)
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
