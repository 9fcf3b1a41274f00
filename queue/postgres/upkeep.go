package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// heartbeatTimeout bounds a heartbeat, so that one that hangs is known to be late.
const heartbeatTimeout = 5 * time.Second

// An instance is gone when its heartbeat is older than 30 s by the database's clock, which
// may step forward, and so may that of a whole server that stood still. Then the heartbeat
// before an instance's own looks old, too. So an instance judges others only when its own
// heartbeats have been steady for long enough that all live ones have had theirs.
const (
	goneAfter = `interval '30 seconds'` // db.GoneAfter
	isSteady  = `EXISTS (SELECT FROM {s}instance WHERE id = $1::text
		AND beat_at > now() - interval '10 seconds' AND beat_at <= now() AND steady_since <= now() - interval '15 seconds')`

	heartbeatSQL = `
		INSERT INTO {s}instance AS i (id, version, lanes, configs) VALUES ($1::text, $2::text, $3::json, $4::json)
		ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version, lanes = EXCLUDED.lanes, configs = EXCLUDED.configs, beat_at = now(),
			steady_since = CASE WHEN now() - i.beat_at BETWEEN interval '0' AND interval '10 seconds' THEN i.steady_since ELSE now() END
		RETURNING now()`

	// Until an instance may judge others, it takes all of them to be live.
	peersSQL = `
		SELECT id, version, lanes, configs FROM {s}instance
		WHERE id <> $1::text AND lanes IS NOT NULL AND (beat_at >= now() - ` + goneAfter + ` OR NOT ` + isSteady + `) ORDER BY id`

	// Instances without a row have closed the database.
	takeOverSQL = `
		UPDATE {s}delivery SET ` + released + `
		WHERE id = ANY (ARRAY(
			SELECT id FROM {s}delivery AS d
			WHERE state = 'delivering' AND instance <> $1::text AND ` + isSteady + `
				AND NOT EXISTS (SELECT FROM {s}instance AS i WHERE i.id = d.instance AND i.beat_at >= now() - ` + goneAfter + `)
			ORDER BY id FOR UPDATE SKIP LOCKED
		))
		RETURNING id`

	forgetSQL = `DELETE FROM {s}instance WHERE id <> $1::text AND beat_at < now() - interval '1 day' AND ` + isSteady

	backlogSQL = `
		SELECT left(endpoint, 100), left(lane, 100), state, count(*), greatest((extract(epoch FROM now() - min(stored_at)) * 1000000000)::bigint, 0) FROM (
			SELECT endpoint, lane, state, stored_at FROM {s}delivery WHERE state = 'waiting'
			UNION ALL SELECT endpoint, lane, state, stored_at FROM {s}delivery WHERE state = 'delivering'
			UNION ALL SELECT endpoint, lane, state, stored_at FROM {s}delivery WHERE state = 'retrying'
			UNION ALL SELECT endpoint, lane, state, stored_at FROM {s}delivery WHERE state = 'dead'
		) AS unfinished
		GROUP BY endpoint, lane, state ORDER BY endpoint, lane, state`

	// expiredSQL looks at $6 deliveries after the cursor $5. It returns the last one of these, or
	// 0 if there are no more that could be old enough, and those that are.
	expiredSQL = `
		WITH looked_at AS MATERIALIZED (
			SELECT id, endpoint, state, stored_at, finished_at FROM {s}delivery WHERE id > $5::bigint ORDER BY id LIMIT $6::bigint
		)
		SELECT CASE WHEN count(*) = $6::bigint AND ($7::boolean OR min(stored_at) <= now() - least($1::bigint, $2::bigint) * interval '1 microsecond') THEN max(id) ELSE 0 END,
			ARRAY(SELECT id FROM looked_at AS d WHERE d.endpoint = $3::text AND ` + isExpired + ` ORDER BY id LIMIT $4::bigint)
		FROM looked_at`

	isExpired = `d.finished_at < now() - CASE d.state WHEN 'dead' THEN $2::bigint ELSE $1::bigint END * interval '1 microsecond'`

	// expireOnceSQL waits for nobody who stores: both could wait for a key that the other one has.
	expireOnceSQL = `
		WITH gone AS (
			DELETE FROM {s}once WHERE key = ANY (ARRAY(SELECT key FROM {s}once WHERE until < now() ORDER BY until LIMIT $1::bigint FOR UPDATE SKIP LOCKED)) RETURNING key
		)
		SELECT count(*) FROM gone`

	pauseSQL  = `INSERT INTO {s}lane (endpoint, name, paused_at) VALUES ($1::text, $2::text, now()) ON CONFLICT DO NOTHING`
	resumeSQL = `DELETE FROM {s}lane WHERE endpoint = $1::text AND name = $2::text`
)

// expireRows is how many deliveries Expire looks at.
const expireRows = 10_000

// upkeep implements the part of db.DB that other instances see or that keeps the tables, and
// db.Eraser.
type upkeep struct{ *client }

// Instance implements db.DB.
func (u upkeep) Instance() string { return u.instance }

// Heartbeat implements db.DB.
func (u upkeep) Heartbeat(ctx context.Context, self db.Presence) (known db.Peers, err error) {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	var now []time.Time
	err = u.run(ctx, "heartbeat", durably,
		statement{
			sql: heartbeatSQL, args: []any{u.instance, db.EncodeText(self.Version), append([]db.Lane{}, self.Lanes...), self.Configs},
			scan: each(&now, func(at *time.Time) []any { return []any{(*moment)(at)} }),
		},
		statement{sql: peersSQL, args: []any{u.instance}, scan: each(&known.Others, func(o *db.Presence) []any {
			return []any{&o.Instance, (*encoded)(&o.Version), &o.Lanes, &o.Configs}
		})})
	if err != nil {
		return db.Peers{}, err
	}
	known.Now = now[0]
	return known, nil
}

// TakeOver implements db.DB.
func (u upkeep) TakeOver(ctx context.Context) (int64, error) {
	var ids []int64
	err := u.run(ctx, "releasing deliveries of instances that are gone", plainly,
		statement{sql: forgetSQL, args: []any{u.instance}}, statement{sql: takeOverSQL, args: []any{u.instance}, scan: eachID(&ids)})
	return int64(len(ids)), err
}

// Close implements db.DB.
func (u upkeep) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	defer u.pool.Close()
	return u.run(ctx, "telling other instances that this one is gone", plainly,
		statement{sql: `DELETE FROM {s}instance WHERE id = $1::text`, args: []any{u.instance}})
}

// Backlog implements db.DB.
func (u upkeep) Backlog(ctx context.Context) (counts []db.LaneCount, held []db.HeldBack, err error) {
	err = u.run(ctx, "counting deliveries", plainly, statement{sql: backlogSQL, scan: each(&counts, func(c *db.LaneCount) []any {
		return []any{&c.Lane.Endpoint, &c.Lane.Name, &c.State, &c.Count, &c.Oldest}
	})}, statement{sql: heldBackSQL, scan: each(&held, func(h *db.HeldBack) []any {
		return []any{&h.Lane.Endpoint, &h.Lane.Name, &h.Objects, &h.Oldest, (*encoded)(&h.By)}
	})})
	return counts, held, err
}

// Expire implements db.DB. It goes along the key until it comes to deliveries that were stored
// too lately, or through all of them.
func (u upkeep) Expire(ctx context.Context, expiry db.Expiry) (deleted, cursor int64, err error) {
	for keys := []int64{int64(expiry.Limit)}; expiry.Cursor == 0 && keys[0] == int64(expiry.Limit); {
		if err := u.run(ctx, "deleting old keys", plainly, statement{sql: expireOnceSQL, args: []any{expiry.Limit}, scan: eachID(&keys)}); err != nil {
			return 0, 0, err
		}
	}
	type row struct {
		next int64
		old  []int64
	}
	var found []row
	var gone []int64
	args := []any{expiry.KeepDelivered.Microseconds(), expiry.KeepDead.Microseconds()}
	err = u.run(ctx, "looking for old deliveries", plainly, statement{
		sql:  expiredSQL,
		args: append(args[:2:2], expiry.Endpoint, expiry.Limit, expiry.Cursor, expireRows, expiry.All),
		scan: each(&found, func(r *row) []any { return []any{&r.next, &r.old} }),
	})
	if err != nil {
		return 0, expiry.Cursor, err
	}
	old, cursor := found[0].old, found[0].next
	if len(old) == 0 {
		return 0, cursor, nil
	}
	if len(old) == expiry.Limit {
		cursor = old[len(old)-1]
	}
	q := &conditions{rest: []string{isExpired}, args: args}
	if err := u.run(ctx, "deleting old deliveries", plainly, deletion(old, q, &gone)...); err != nil {
		return 0, expiry.Cursor, err
	}
	return int64(len(gone)), cursor, nil
}

// Paused implements db.DB.
func (u upkeep) Paused(ctx context.Context) (paused []db.Lane, err error) {
	err = u.run(ctx, "reading which lanes are paused", plainly, statement{
		sql:  `SELECT endpoint, name FROM {s}lane ORDER BY endpoint, name`,
		scan: each(&paused, func(l *db.Lane) []any { return []any{&l.Endpoint, &l.Name} }),
	})
	return paused, err
}

// SetPaused implements db.DB.
func (u upkeep) SetPaused(ctx context.Context, lane db.Lane, paused bool) error {
	sql := resumeSQL
	if paused {
		sql = pauseSQL
	}
	return u.run(ctx, "pausing or resuming lane "+lane.Name, durably, statement{sql: sql, args: []any{lane.Endpoint, lane.Name}})
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
	remains = "PostgreSQL has made the space of deleted rows free, and overwrites it as it is used again. Until then the files of the tables still have them: `erase --vacuum` rewrites these, and nothing can be stored meanwhile. "
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
