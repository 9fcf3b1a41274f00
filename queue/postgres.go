package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.uber.org/zap"
	"riverqueue.com/riverui"

	"github.com/caddyserver/caddy/v2"
)

// postgresDB is a database that several instances may share.
type postgresDB struct {
	schemaName string
	id         string // of this instance

	// storing has connections of its own, so that it never waits for one
	storing *pgxpool.Pool
	working *pgxpool.Pool

	inserter riverdriver.Executor // of storing; each new one would ask what the server is able to
	exec     riverdriver.Executor // of working

	aliveSince time.Time // each heartbeat has succeeded; zero if the last one failed
}

const (
	storingConnections = 4
	workingConnections = 16

	// An instance says so often that it is alive, and is taken to be gone after so
	// long without a word.
	heartbeat = 5 * time.Second
	goneAfter = 30 * time.Second
)

// openPostgres connects, and makes the schema and its tables if they are not there.
func openPostgres(ctx context.Context, url, schema string) (_ *postgresDB, err error) {
	d := &postgresDB{schemaName: schema, id: uuid.NewString()}
	defer func() { //nolint:contextcheck // the context may have ended
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.storing, err = pool(ctx, url, storingConnections); err != nil {
		return nil, err
	}
	if d.working, err = pool(ctx, url, workingConnections); err != nil {
		return nil, err
	}
	if err := d.storing.Ping(ctx); err != nil {
		return nil, err
	}
	var fsync string
	if err := d.storing.QueryRow(ctx, "SHOW fsync").Scan(&fsync); err == nil && fsync == "off" {
		caddy.Log().Named(loggerName).Warn("PostgreSQL runs with fsync off: what it has stored is lost with a power cut")
	}
	if schema != "" {
		var exists bool
		if err := d.storing.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)", schema).Scan(&exists); err != nil {
			return nil, err
		}
		if !exists {
			if _, err := d.storing.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{schema}.Sanitize()); err != nil {
				return nil, fmt.Errorf("creating schema %s: %w", schema, err)
			}
		}
	}
	if err := d.migrate(ctx, riverpgxv5.New(d.storing)); err != nil {
		return nil, err
	}
	d.inserter, d.exec = riverpgxv5.New(d.storing).GetExecutor(), riverpgxv5.New(d.working).GetExecutor()
	return d, nil
}

// pool makes connections that commit durably, whatever the server's default is.
func pool(ctx context.Context, url string, connections int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err // pgx takes the password out of it
	}
	config.MaxConns = connections
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "caddy-intercom-webhook"
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false)
			WHERE current_setting('synchronous_commit') IN ('off', 'local')`)
		return err
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// instanceTable has the instances that share the database. River had one for that, and
// took it back. A crash of PostgreSQL must not empty it, as it does unlogged tables: all
// would look gone.
const instanceTable = "intercom_webhook_instance"

// migrationLock keeps instances that start together from migrating together.
const migrationLock = 0x49637771

func (d *postgresDB) migrate(ctx context.Context, driver *riverpgxv5.Driver) error {
	conn, err := d.storing.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	// YugabyteDB before 2025.1 has no such locks, and is the less safe for it
	_, err = conn.Exec(ctx, "SELECT pg_advisory_lock($1)", migrationLock)
	if err != nil && !hasCode(err, "0A000") { // feature_not_supported
		return fmt.Errorf("locking for the migration: %w", err)
	}
	defer conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", migrationLock) //nolint:errcheck // the connection's end unlocks, too
	if err := migrate(ctx, driver, d.schemaName); err != nil {
		return err
	}
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", d.table(instanceTable)).Scan(&exists); err != nil {
		return fmt.Errorf("looking for the table of instances: %w", err)
	}
	if exists {
		return nil // CREATE … IF NOT EXISTS would still ask for the right to create it
	}
	if _, err := conn.Exec(ctx, `CREATE TABLE IF NOT EXISTS `+d.table(instanceTable)+` (id text PRIMARY KEY, updated_at timestamptz NOT NULL)`); err != nil {
		return fmt.Errorf("creating the table of instances: %w", err)
	}
	return nil
}

// hasCode reports whether PostgreSQL answered with this code.
// Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
func hasCode(err error, code string) bool {
	reply, ok := errors.AsType[*pgconn.PgError](err)
	return ok && reply.Code == code
}

func (d *postgresDB) newClient(config *river.Config) (client, error) {
	config.ID, config.Schema = d.id, d.schemaName
	return river.NewClient(riverpgxv5.New(d.working), config)
}

// insert tries again after a deadlock: what completes deliveries locks the same rows
// as their duplicates do, in another order.
func (d *postgresDB) insert(ctx context.Context, collect func() []*riverdriver.JobInsertFastParams) (results []*riverdriver.JobInsertFastResult, err error) {
	jobs := collect()
	again := func() []*riverdriver.JobInsertFastParams { return jobs }
	for range 3 {
		results, err = insertJobs(ctx, d.inserter, d.schemaName, again)
		if !hasCode(err, "40P01") { // deadlock_detected
			break
		}
	}
	return results, err
}

func (d *postgresDB) executor() riverdriver.Executor { return d.exec }

func (d *postgresDB) schema() string { return d.schemaName }

func (d *postgresDB) table(name string) string {
	if d.schemaName == "" {
		return name
	}
	return pgx.Identifier{d.schemaName, name}.Sanitize()
}

// beat says that this instance is alive.
func (d *postgresDB) beat(ctx context.Context) error {
	_, err := d.working.Exec(ctx, `INSERT INTO `+d.table(instanceTable)+` (id, updated_at) VALUES ($1, now())
		ON CONFLICT (id) DO UPDATE SET updated_at = now()`, d.id)
	switch {
	case err != nil:
		d.aliveSince = time.Time{}
	case d.aliveSince.IsZero():
		d.aliveSince = time.Now()
	}
	return err
}

// recover takes up what an instance was delivering that is gone: it has not said for
// a while that it is alive. After an outage of the database, which all are silent
// for, nobody is taken to be gone until everybody has had the time to say so.
func (d *postgresDB) recover(ctx context.Context) (int64, error) {
	if err := d.beat(ctx); err != nil {
		return 0, err
	}
	if time.Since(d.aliveSince) < goneAfter {
		return 0, nil
	}
	recovered, err := d.working.Exec(ctx, `UPDATE `+d.table("river_job")+` SET
		state = CASE WHEN attempt >= max_attempts THEN 'discarded' ELSE 'available' END::`+d.table("river_job_state")+`,
		finalized_at = CASE WHEN attempt >= max_attempts THEN now() END
		WHERE state = 'running' AND NOT EXISTS (
			SELECT 1 FROM `+d.table(instanceTable)+` c
			WHERE c.id = attempted_by[array_upper(attempted_by, 1)] AND c.updated_at > now() - $1::interval)`, goneAfter)
	if err != nil {
		return 0, err
	}
	_, err = d.working.Exec(ctx, `DELETE FROM `+d.table(instanceTable)+` WHERE updated_at < now() - interval '1 day'`)
	return recovered.RowsAffected(), err
}

func (d *postgresDB) count(ctx context.Context) ([]jobCount, error) {
	found, err := d.working.Query(ctx, `SELECT queue, state::text, count(*) FROM `+d.table("river_job")+` GROUP BY state, queue`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, func(row pgx.CollectableRow) (c jobCount, err error) {
		err = row.Scan(&c.queue, &c.state, &c.n)
		return c, err
	})
}

func (d *postgresDB) oldest(ctx context.Context) (map[string]time.Time, error) {
	found, err := d.working.Query(ctx, `SELECT queue, min(created_at) FROM `+d.table("river_job")+`
		WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') GROUP BY queue`)
	if err != nil {
		return nil, err
	}
	oldest := make(map[string]time.Time)
	var queue string
	var at time.Time
	_, err = pgx.ForEachRow(found, []any{&queue, &at}, func() error {
		oldest[queue] = at
		return nil
	})
	return oldest, err
}

// keepUp beats, and takes up what others have left behind.
func (d *postgresDB) keepUp(ctx context.Context) {
	failing := false
	every(ctx, heartbeat, nil, func() {
		logger := caddy.Log().Named(loggerName)
		recovered, err := d.recover(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			logger.Error("PostgreSQL cannot be reached: Intercom is answered 503 until it can", zap.Error(err))
		case err == nil && failing:
			logger.Info("PostgreSQL can be reached again")
		}
		failing = err != nil
		if recovered > 0 {
			logger.Warn("took up the deliveries of an instance that is gone", zap.Int64("notifications", recovered))
		}
	})
}

func (d *postgresDB) newUI(prefix string, logger *slog.Logger) (*riverui.Handler, error) {
	client, err := river.NewClient(riverpgxv5.New(d.working), &river.Config{Logger: logger, Schema: d.schemaName})
	if err != nil {
		return nil, err
	}
	return newUI(client, prefix, logger)
}

func (d *postgresDB) close() error {
	if d.working != nil {
		// says that this instance is gone, so that nobody need wait
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = d.working.Exec(ctx, `DELETE FROM `+d.table(instanceTable)+` WHERE id = $1`, d.id)
		d.working.Close()
	}
	if d.storing != nil {
		d.storing.Close()
	}
	return nil
}
