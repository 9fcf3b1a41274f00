package jobdb

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

// postgresTurns are common table expressions that choose the jobs of the workspaces whose
// turn it is. They look at one job of each workspace, up to the limit: those behind the last
// one ($6), and then those before it and itself. With one workspace there are no turns. Only
// jobs of the best priority take turns.
const postgresTurns = `
		best AS MATERIALIZED (
			SELECT priority FROM {s}river_job
			WHERE state = 'available' AND queue = $1 AND id <> ALL ($2::bigint[])
			ORDER BY priority, scheduled_at, id LIMIT 1
		), behind(name) AS (
			SELECT (` + postgresWaiting + ` AND {workspace} > $6::text ORDER BY {workspace} LIMIT 1)
			UNION ALL
			SELECT (` + postgresWaiting + ` AND {workspace} > name ORDER BY {workspace} LIMIT 1) FROM behind WHERE name IS NOT NULL
		), before(name) AS (
			SELECT (` + postgresWaiting + ` ORDER BY {workspace} LIMIT 1)
			UNION ALL
			SELECT (` + postgresWaiting + ` AND {workspace} > name ORDER BY {workspace} LIMIT 1) FROM before WHERE name COLLATE "C" < $6::text
		), workspaces AS MATERIALIZED (
			SELECT name, row_number() OVER () AS turn FROM (
				SELECT name FROM (
					SELECT name FROM behind WHERE name IS NOT NULL
					UNION ALL
					SELECT name FROM before WHERE name COLLATE "C" <= $6::text
				) AS listed
				LIMIT greatest({limit}, 2)
			) AS bounded
		), turns AS MATERIALIZED (
			SELECT job.id, job.size, row_number() OVER (ORDER BY job.round, workspaces.turn) AS place
			FROM workspaces, LATERAL (
				SELECT id, size, row_number() OVER () AS round FROM (
					SELECT id, pg_column_size(args) AS size FROM {s}river_job
					WHERE ` + postgresOf + ` AND {workspace} = workspaces.name
					ORDER BY scheduled_at, id LIMIT (SELECT ({limit} + count(*) - 1) / greatest(count(*), 1) FROM workspaces)
					FOR UPDATE SKIP LOCKED
				) AS locked
			) AS job
			WHERE (SELECT count(*) FROM workspaces) > 1
			ORDER BY place LIMIT {limit}
		),`

const (
	// postgresWaiting selects the workspaces of jobs that can be claimed now.
	postgresWaiting = `SELECT {workspace} FROM {s}river_job WHERE ` + postgresOf

	postgresOf = `state = 'available' AND queue = $1 AND priority = (SELECT priority FROM best) AND id <> ALL ($2::bigint[])`

	// postgresWorkspace is a job's workspace: its first tag.
	postgresWorkspace = `(coalesce(tags[1]::text, '') COLLATE "C")`

	// postgresSeveral compares the ends of the index. A claim without turns is cheaper.
	postgresSeveral = `SELECT (SELECT (priority, {workspace}) FROM {s}river_job WHERE state = 'available' AND queue = $1 ORDER BY priority, {workspace} LIMIT 1)
		<> (SELECT (priority, {workspace}) FROM {s}river_job WHERE state = 'available' AND queue = $1 ORDER BY priority DESC, {workspace} DESC LIMIT 1)`

	// postgresTurnsIndex finds the workspaces that have available jobs, and their jobs. It
	// has only available jobs, so what is handed over when it is stored costs it nothing.
	postgresTurnsIndex = `intercom_webhook_turns`

	postgresTurnsColumns = ` ON {s}river_job (queue, priority, {workspace}, scheduled_at, id) WHERE state = 'available'`

	postgresTurnsState = `SELECT coalesce((SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)), false),
		to_regclass($1) IS NOT NULL, EXISTS (SELECT FROM pg_stat_progress_create_index WHERE index_relid = to_regclass($1)),
		NOT EXISTS (SELECT FROM {s}river_job)`

	postgresTurnsRetry = 10 * time.Second
)

// postgresIndex is what is known of an index.
type postgresIndex struct{ valid, exists, inProgress, empty bool }

// prepareTurns makes the index that turns need. If there are jobs already, that can take
// long, so it is done in the background, without a lock that keeps others from storing;
// until it is there, jobs are claimed in the order in which they were stored.
func (d *postgresDB) prepareTurns(ctx context.Context, config *pgxpool.Config) {
	index, err := d.turnsIndex(ctx)
	if err == nil && !index.exists && index.empty {
		// it may fail because another instance does the same at the same time
		_, _ = d.storing.Exec(ctx, d.sql("CREATE INDEX IF NOT EXISTS "+postgresTurnsIndex+postgresTurnsColumns))
		index, err = d.turnsIndex(ctx)
	}
	if err == nil && index.valid {
		d.fair.Store(true)
		return
	}
	ctx, d.stop = context.WithCancel(context.Background())
	d.indexing.Go(func() { d.indexTurns(ctx, config) })
}

func (d *postgresDB) turnsIndex(ctx context.Context) (index postgresIndex, err error) {
	err = d.storing.QueryRow(ctx, d.sql(postgresTurnsState), d.name(postgresTurnsIndex)).Scan(&index.valid, &index.exists, &index.inProgress, &index.empty)
	return index, err
}

// severalWorkspaces reports whether several workspaces have available jobs in a queue, so
// that they must take turns.
func (d *postgresDB) severalWorkspaces(ctx context.Context, queue string) (several bool, err error) {
	if !d.fair.Load() {
		return false, nil
	}
	err = d.query(ctx, func(rows pgx.Rows) error {
		several, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (bool, error) {
			var differ *bool // NULL if there are no available jobs
			err := row.Scan(&differ)
			return differ != nil && *differ, err
		})
		return err
	}, d.sql(postgresSeveral), queue)
	return several, err
}

// indexTurns makes the index, or waits until another instance or a person has made it.
func (d *postgresDB) indexTurns(ctx context.Context, config *pgxpool.Config) {
	logged := false
	for ctx.Err() == nil {
		err := d.createTurnsIndex(ctx, config)
		if index, stateErr := d.turnsIndex(ctx); stateErr == nil && index.valid {
			d.fair.Store(true)
			return
		}
		if err != nil && ctx.Err() == nil && !logged {
			logged = true
			d.logger.Warn("workspaces do not take turns in the database, because the index for that cannot be made: let the owner of the table make it",
				zap.String("statement", d.sql("CREATE INDEX CONCURRENTLY "+postgresTurnsIndex+postgresTurnsColumns)), zap.Error(err))
		}
		_ = pause(ctx, postgresTurnsRetry)
	}
}

// createTurnsIndex makes the index in its own transactions, which does not keep others from
// writing. What an interrupted one has left is of no use. If two instances try at the same
// time, one of them gets an error.
func (d *postgresDB) createTurnsIndex(ctx context.Context, config *pgxpool.Config) error {
	index, err := d.turnsIndex(ctx)
	if err != nil || index.valid || index.inProgress {
		return err
	}
	pool, err := postgresUntimedPool(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if index.exists {
		if _, err := pool.Exec(ctx, "DROP INDEX CONCURRENTLY IF EXISTS "+d.name(postgresTurnsIndex)); err != nil {
			return err
		}
	}
	_, err = pool.Exec(ctx, d.sql("CREATE INDEX CONCURRENTLY IF NOT EXISTS "+postgresTurnsIndex+postgresTurnsColumns))
	return err
}
