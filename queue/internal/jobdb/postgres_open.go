package jobdb

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.uber.org/zap"
)

// postgresConfig reads a URL. An error of it has no part of a password.
func postgresConfig(connection string) (*pgxpool.Config, error) {
	// pgx takes other texts as well, and completes them from the environment: a URL with a
	// mistake could lead to another database.
	if !strings.HasPrefix(connection, "postgres://") && !strings.HasPrefix(connection, "postgresql://") {
		return nil, errPostgresURL
	}
	config, err := pgxpool.ParseConfig(connection)
	if err != nil {
		return nil, postgresURLError(connection, err)
	}
	config.PingTimeout = postgresPing
	conn := config.ConnConfig
	conn.ConnectTimeout = 5 * time.Second
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = "caddy-intercom-webhook"
	}
	conn.RuntimeParams["client_encoding"] = "UTF8"
	if !strings.Contains(connection, "default_query_exec_mode") {
		conn.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	if len(conn.Fallbacks) > 0 && conn.ValidateConnect == nil && !strings.Contains(connection, "target_session_attrs") && postgresHosts(conn) > 1 {
		conn.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		conn.TypeMap().RegisterDefaultPgType(postgresJSON{}, "_jsonb")
		conn.TypeMap().RegisterDefaultPgType(postgresKeys{}, "_bytea")
		return nil
	}
	return config, nil
}

// postgresHosts counts the hosts of a URL. There may be several ways to connect to one.
func postgresHosts(config *pgx.ConnConfig) int {
	type host struct {
		name string
		port uint16
	}
	hosts := map[host]bool{{config.Host, config.Port}: true}
	for _, fallback := range config.Fallbacks {
		hosts[host{fallback.Host, fallback.Port}] = true
	}
	return len(hosts)
}

var errPostgresURL = errors.New("the PostgreSQL URL is not valid: it begins with postgres://, and in user name and password, all but letters, digits, - . _ and ~ must be percent-encoded")

// postgresURLError returns what is wrong with a URL. pgx's own error quotes from it, and
// in one that cannot be read, anything may be part of the password.
func postgresURLError(connection string, err error) error {
	parsed, parseErr := url.Parse(connection)
	if parseErr != nil || parsed.User == nil && strings.Contains(connection, "@") {
		return errPostgresURL
	}
	reason, ok := errors.AsType[*pgconn.ParseConfigError](err)
	if !ok || errors.Unwrap(reason) == nil {
		return errPostgresURL
	}
	text := errors.Unwrap(reason).Error()
	password, _ := parsed.User.Password()
	for _, secret := range []string{password, parsed.Query().Get("password"), parsed.Query().Get("sslpassword")} {
		if secret != "" && strings.Contains(text, secret) {
			return errPostgresURL
		}
	}
	return fmt.Errorf("the PostgreSQL URL is not valid: %s", text)
}

// prepare checks the server, and creates or updates the tables if need be.
func (d *postgresDB) prepare(ctx context.Context, config *pgxpool.Config) error {
	var encoding, fsync string
	var hasSchema bool
	err := d.storing.QueryRow(ctx, `SELECT current_setting('server_encoding'), current_setting('fsync'),
		$1 = '' OR EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1::text)`, d.schema).Scan(&encoding, &fsync, &hasSchema)
	if err != nil {
		return err
	}
	if encoding != "UTF8" {
		return &PermanentError{fmt.Errorf("the database's encoding is %s: create one with UTF8", encoding)}
	}
	if fsync == "off" {
		d.logger.Warn("PostgreSQL runs with fsync off: what it has stored is lost with a power cut")
	}
	if !hasSchema {
		_, err := d.storing.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{d.schema}.Sanitize())
		if err != nil && postgresCode(err) != "23505" { // unique_violation: another instance has created it at the same time
			return fmt.Errorf("creating schema %s: %w", d.schema, err)
		}
	}
	if err := d.migrate(ctx, config); err != nil {
		return err
	}
	d.dropUnused(ctx)
	if _, err := d.exec(ctx, d.sql(postgresUnsnooze)); err != nil {
		return fmt.Errorf("taking over snoozed jobs: %w", err)
	}
	d.prepareTurns(ctx, config)
	return nil
}

const (
	// Jobs of the version before that were put off are to be claimed in the order in which
	// they were stored.
	postgresUnsnooze = `UPDATE {s}river_job SET state = 'available', scheduled_at = created_at WHERE state = 'scheduled'`

	postgresMigration = `
		CREATE TABLE IF NOT EXISTS {instances} (id text PRIMARY KEY, updated_at timestamptz NOT NULL);
		ALTER TABLE {instances}
			ADD COLUMN IF NOT EXISTS queues text[] NOT NULL DEFAULT '{}',
			ADD COLUMN IF NOT EXISTS configs jsonb NOT NULL DEFAULT '{}'`

	postgresOwnColumns = `SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass($1)
		AND attname IN ('id', 'updated_at', 'queues', 'configs') AND NOT attisdropped`
)

// postgresMigrationLock keeps instances that start together from migrating together.
const postgresMigrationLock = 0x49637771

// migrate changes nothing, and asks for no right to, if all tables are there.
func (d *postgresDB) migrate(ctx context.Context, config *pgxpool.Config) error {
	migrated, err := d.migrated(ctx)
	if err != nil || migrated {
		return err
	}
	pool, err := postgresUntimedPool(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	return pgx.BeginFunc(ctx, d.storing, func(lock pgx.Tx) error {
		if _, err := lock.Exec(ctx, "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"); err != nil {
			return err
		}
		// YugabyteDB before 2025.1 has no such locks, and is the less safe for it
		_, err := lock.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", postgresMigrationLock)
		if err != nil && postgresCode(err) != "0A000" { // feature_not_supported
			return fmt.Errorf("locking for the migration: %w", err)
		}
		if err := migrateRiver(ctx, riverpgxv5.New(pool), d.schema); err != nil {
			return err
		}
		migrated, err := d.migrated(ctx)
		if err != nil || migrated {
			return err
		}
		if _, err := pool.Exec(ctx, d.sql(postgresMigration)); err != nil {
			return fmt.Errorf("creating the table of instances: %w", err)
		}
		return nil
	})
}

// postgresUntimedPool makes a pool for statements that may take longer than the server's
// statement_timeout.
func postgresUntimedPool(ctx context.Context, config *pgxpool.Config) (*pgxpool.Pool, error) {
	config = config.Copy()
	config.ConnConfig.RuntimeParams["statement_timeout"] = "0"
	pool, err := postgresPool(ctx, config, 2)
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); postgresCode(err) == "08P01" { // PgBouncer passes on few parameters
		pool.Close()
		delete(config.ConnConfig.RuntimeParams, "statement_timeout")
		return postgresPool(ctx, config, 2)
	}
	return pool, nil
}

// migrated reports whether all tables are as this version wants them.
func (d *postgresDB) migrated(ctx context.Context) (bool, error) {
	migrated, err := riverMigrated(ctx, riverpgxv5.New(d.storing), d.schema)
	if err != nil || !migrated {
		return false, err
	}
	var columns int
	if err := d.storing.QueryRow(ctx, postgresOwnColumns, d.name(postgresInstances)).Scan(&columns); err != nil {
		return false, fmt.Errorf("looking for the table of instances: %w", err)
	}
	return columns == 4, nil
}

// dropUnused drops indexes of River that neither we nor its UI use. Each costs a fifth
// of the speed. What holds the table, or the lack of a right, may keep them there.
func (d *postgresDB) dropUnused(ctx context.Context) {
	for _, index := range []string{"river_job_args_index", "river_job_metadata_index"} {
		index = d.name(index)
		var exists bool
		err := d.storing.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", index).Scan(&exists)
		if err == nil && exists {
			err = pgx.BeginFunc(ctx, d.storing, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '250ms'; DROP INDEX IF EXISTS "+index)
				return err
			})
		}
		if err != nil {
			d.logger.Debug("an index that nobody uses could not be dropped, and slows the queue down", zap.String("index", index), zap.Error(err))
		}
	}
}
