package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	backlogSQL = `
		SELECT endpoint, lane, state, count(*), (extract(epoch FROM now() - min(stored_at)) * 1000000)::bigint FROM (
			SELECT endpoint, lane, state, stored_at FROM {s}delivery WHERE state = 'waiting'
			UNION ALL SELECT endpoint, lane, state, stored_at FROM {s}delivery WHERE state = 'delivering'
			UNION ALL SELECT endpoint, lane, state, stored_at FROM {s}delivery WHERE state = 'retrying'
			UNION ALL SELECT endpoint, lane, state, stored_at FROM {s}delivery WHERE state = 'dead'
		) AS unfinished
		GROUP BY endpoint, lane, state ORDER BY endpoint, lane, state`

	// expiredSQL looks at deliveries after the cursor. It returns how many these are, the last
	// id of them, whether all were stored too lately to be old enough, and those that are.
	expiredSQL = `
		WITH looked_at AS MATERIALIZED (
			SELECT id, endpoint, state, stored_at, finished_at FROM {s}delivery WHERE id > $5::bigint ORDER BY id LIMIT $6::bigint
		)
		SELECT (SELECT count(*) FROM looked_at), coalesce((SELECT max(id) FROM looked_at), 0),
			coalesce((SELECT min(stored_at) FROM looked_at) > now() - least($2::bigint, $3::bigint) * interval '1 microsecond', true),
			ARRAY(SELECT id FROM looked_at AS d WHERE d.endpoint = $1::text AND ` + isExpired + ` ORDER BY id LIMIT $4::bigint)`

	isExpired = `d.finished_at < now() - CASE d.state WHEN 'dead' THEN $3::bigint ELSE $2::bigint END * interval '1 microsecond'`

	setPausedSQL = `INSERT INTO {s}lane (endpoint, name, paused_at) VALUES ($1::text, $2::text, now()) ON CONFLICT DO NOTHING`
	setGoingSQL  = `DELETE FROM {s}lane WHERE endpoint = $1::text AND name = $2::text`
)

// expireRows is how many deliveries Expire looks at.
const expireRows = 10_000

// upkeep implements the part of db.DB that keeps the tables, and db.Eraser.
type upkeep struct{ *client }

// Backlog implements db.DB.
func (u upkeep) Backlog(ctx context.Context) (counts []db.LaneCount, err error) {
	err = u.run(ctx, plainly, statement{sql: backlogSQL, scan: func(rows pgx.Rows) error {
		counts = nil
		var count db.LaneCount
		var age int64
		_, err := pgx.ForEachRow(rows, []any{&count.Lane.Endpoint, &count.Lane.Name, &count.State, &count.Count, &age}, func() error {
			count.Oldest = max(time.Duration(age)*time.Microsecond, 0)
			counts = append(counts, count)
			return nil
		})
		return err
	}})
	if err != nil {
		return nil, fmt.Errorf("counting deliveries: %w", err)
	}
	return counts, nil
}

// Expire implements db.DB. It goes along the key until it comes to deliveries that were stored
// too lately. Imported ones, which have older times than their neighbours, may have to wait for
// these.
func (u upkeep) Expire(ctx context.Context, expiry db.Expiry) (deleted, cursor int64, err error) {
	var looked int
	var last int64
	var young bool
	var old, gone []int64
	q := newConditions(db.Filter{Endpoint: expiry.Endpoint}, expiry.KeepDelivered.Microseconds(), expiry.KeepDead.Microseconds())
	err = u.run(ctx, plainly, statement{
		sql:  expiredSQL,
		args: append(q.args[:3:3], expiry.Limit, expiry.Cursor, expireRows),
		scan: func(rows pgx.Rows) error {
			_, err := pgx.ForEachRow(rows, []any{&looked, &last, &young, &old}, func() error { return nil })
			return err
		},
	})
	if err == nil && len(old) > 0 {
		q.texts = append(q.texts, isExpired)
		q.add("d.id = ANY (%s::bigint[])", old)
		err = u.run(ctx, plainly, deletion(old, q, &gone)...)
	}
	switch {
	case err != nil:
		return 0, expiry.Cursor, fmt.Errorf("deleting old deliveries: %w", err)
	case len(old) == expiry.Limit && len(old) > 0:
		cursor = old[len(old)-1]
	case looked == expireRows && !young:
		cursor = last
	}
	return int64(len(gone)), cursor, nil
}

// Paused implements db.DB.
func (u upkeep) Paused(ctx context.Context) (paused []db.Lane, err error) {
	err = u.run(ctx, plainly, statement{sql: `SELECT endpoint, name FROM {s}lane ORDER BY endpoint, name`, scan: func(rows pgx.Rows) (err error) {
		paused, err = pgx.CollectRows(rows, pgx.RowToStructByPos[db.Lane])
		return err
	}})
	if err != nil {
		return nil, fmt.Errorf("reading which lanes are paused: %w", err)
	}
	return paused, nil
}

// SetPaused implements db.DB.
func (u upkeep) SetPaused(ctx context.Context, lane db.Lane, paused bool) error {
	sql := setGoingSQL
	if paused {
		sql = setPausedSQL
	}
	if err := u.run(ctx, durably, statement{sql: sql, args: []any{lane.Endpoint, lane.Name}}); err != nil {
		return fmt.Errorf("pausing or resuming lane %s: %w", lane.Name, err)
	}
	return nil
}

// Scrub implements db.Eraser. It has a connection of its own, as it may take long. Where the
// rights do not allow VACUUM, the server warns and does nothing.
func (u upkeep) Scrub(ctx context.Context, whole bool) (remains string, err error) {
	conn, err := pgx.ConnectConfig(ctx, u.pool.Config().ConnConfig)
	if err != nil {
		return "", fmt.Errorf("vacuuming: %w", withoutUser(err, u.name))
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	vacuum := "VACUUM "
	remains = "PostgreSQL has made the space of deleted rows free, and overwrites it as it is used again. Until then the files of the tables still have them; --vacuum rewrites these. "
	if whole {
		vacuum = "VACUUM (FULL, ANALYZE) "
		remains = "The files of the tables have been rewritten, and no longer have them. "
	}
	for _, table := range []string{"attempt", "delivery", "notification"} {
		if _, err := conn.Exec(ctx, vacuum+u.sql("{s}"+table)); err != nil {
			return "", fmt.Errorf("vacuuming: %w", err)
		}
	}
	return remains + "The server's write-ahead log and its archives, its replicas, and backups that were made before have them until they are overwritten or deleted.", nil
}
