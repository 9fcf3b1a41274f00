package jobdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.uber.org/zap"
)

// postgresDB is a PostgreSQL database, which several instances may share. It keeps
// nothing in a session, so that PgBouncer may give each transaction another one: each
// method is one statement, or one batch or transaction.
type postgresDB struct {
	schema   string
	instance string
	logger   *zap.Logger
	texts    sync.Map // statements with the names put in, by statement

	// Storing has connections of its own, so that it never waits for one.
	storing *pgxpool.Pool
	working *pgxpool.Pool

	lastReset atomic.Int64  // Unix time in nanoseconds
	changes   atomic.Uint64 // of this process; the server counts them up to a second later

	watch  postgresWatch
	oldest postgresOldest

	turns    turns
	fair     atomic.Bool // the index of turns is there
	stop     context.CancelFunc
	indexing sync.WaitGroup
}

const (
	postgresStoring = 4  // connections
	postgresWorking = 16 // connections

	postgresTries      = 3               // of a statement that the server aborted for the sake of another
	postgresResetPause = time.Second     // between two resets of the pools
	postgresPing       = 2 * time.Second // for a connection that was idle
)

// OpenPostgres connects, and creates or updates the schema and its tables if need be.
// Errors that only a person can mend are PermanentErrors.
func OpenPostgres(ctx context.Context, url, schema string, logger *zap.Logger) (DB, error) {
	config, err := postgresConfig(url)
	if err != nil {
		return nil, &PermanentError{err}
	}
	d := &postgresDB{schema: schema, instance: newInstance(), logger: logger, stop: func() {}}
	if d.storing, err = postgresPool(ctx, config, postgresStoring); err != nil {
		return nil, postgresOpenError(err)
	}
	if d.working, err = postgresPool(ctx, config, postgresWorking); err != nil {
		d.storing.Close()
		return nil, postgresOpenError(err)
	}
	if err := d.prepare(ctx, config); err != nil {
		d.storing.Close()
		d.working.Close()
		return nil, postgresOpenError(err)
	}
	return d, nil
}

func postgresPool(ctx context.Context, config *pgxpool.Config, connections int32) (*pgxpool.Pool, error) {
	config = config.Copy()
	config.MaxConns = connections
	return pgxpool.NewWithConfig(ctx, config)
}

// Close implements DB.
func (d *postgresDB) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	d.stop()
	d.indexing.Wait()
	_, err := d.working.Exec(ctx, d.sql("DELETE FROM {instances} WHERE id = $1"), d.instance)
	d.working.Close()
	d.storing.Close()
	if err != nil {
		return fmt.Errorf("telling other instances that this one is gone: %w", err)
	}
	return nil
}

// Instance implements DB.
func (d *postgresDB) Instance() string { return d.instance }

// UI implements DB.
func (d *postgresDB) UI(ctx context.Context, prefix string, logger *slog.Logger) (http.Handler, error) {
	return newUI(ctx, riverpgxv5.New(d.working), d.schema, prefix, logger)
}

// use runs statements on a connection of the pool. It runs them again if the server
// aborted them for the sake of another transaction, or if they did not reach it.
func (d *postgresDB) use(ctx context.Context, pool *pgxpool.Pool, do func(*pgx.Conn) error) (err error) {
	for range postgresTries {
		err = d.useOnce(ctx, pool, do)
		if err == nil || ctx.Err() != nil || !postgresAborted(err) && !pgconn.SafeToRetry(err) {
			break
		}
	}
	return err
}

func (d *postgresDB) useOnce(ctx context.Context, pool *pgxpool.Pool, do func(*pgx.Conn) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	err = do(conn.Conn())
	switch {
	case err == nil || errors.Is(ctx.Err(), context.Canceled):
	case conn.Conn().IsClosed() || postgresMoved(err):
		d.reset()
	}
	return err
}

// reset makes all connections anew. After a change of roles, those that are open lead
// to a server that is down or read-only.
func (d *postgresDB) reset() {
	now, last := time.Now().UnixNano(), d.lastReset.Load()
	if now >= last && now-last < int64(postgresResetPause) || !d.lastReset.CompareAndSwap(last, now) {
		return
	}
	d.storing.Reset()
	d.working.Reset()
}

// query runs one statement that returns rows.
func (d *postgresDB) query(ctx context.Context, scan func(pgx.Rows) error, sql string, args ...any) error {
	return d.use(ctx, d.working, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		if err := scan(rows); err != nil {
			return err
		}
		rows.Close()
		return rows.Err()
	})
}

// exec runs one statement that changes jobs, and returns how many.
func (d *postgresDB) exec(ctx context.Context, sql string, args ...any) (changed int64, err error) {
	err = d.patient(ctx, func(results pgx.BatchResults) error {
		tag, err := results.Exec()
		changed = tag.RowsAffected()
		return err
	}, sql, args...)
	d.changed(changed)
	return changed, err
}

// patient runs one statement that may take longer than the server's statement_timeout.
func (d *postgresDB) patient(ctx context.Context, read func(pgx.BatchResults) error, sql string, args ...any) error {
	return d.use(ctx, d.working, func(conn *pgx.Conn) error { return postgresPatient(ctx, conn, read, sql, args...) })
}

func (d *postgresDB) patientRows(ctx context.Context, scan func(pgx.Rows) error, sql string, args ...any) error {
	return d.patient(ctx, postgresScan(scan), sql, args...)
}

// postgresBatcher is a connection or a transaction.
type postgresBatcher interface {
	SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults
}

// postgresPatient runs a statement without statement_timeout. Both statements of the batch are
// in one transaction, and in one message to the server.
func postgresPatient(ctx context.Context, db postgresBatcher, read func(pgx.BatchResults) error, sql string, args ...any) error {
	var batch pgx.Batch
	batch.Queue("SELECT set_config('statement_timeout', '0', true)")
	batch.Queue(sql, args...)
	results := db.SendBatch(ctx, &batch)
	if _, err := results.Exec(); err != nil {
		return errors.Join(err, results.Close())
	}
	if err := read(results); err != nil {
		return errors.Join(err, results.Close())
	}
	return results.Close()
}

func postgresScan(scan func(pgx.Rows) error) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		rows, err := results.Query()
		if err != nil {
			return err
		}
		defer rows.Close()
		return scan(rows)
	}
}

func (d *postgresDB) changed(jobs int64) {
	if jobs > 0 {
		d.changes.Add(uint64(jobs))
	}
}

// sql puts names and common expressions into a statement.
func (d *postgresDB) sql(statement string) string {
	if text, known := d.texts.Load(statement); known {
		return text.(string) //nolint:forcetypeassert // nothing else is in it
	}
	text := statement
	for _, replacer := range []*strings.Replacer{
		strings.NewReplacer("{release}", postgresRelease, "{instances}", "{s}"+postgresInstances, "{workspace}", postgresWorkspace),
		strings.NewReplacer("{cancel asked}", postgresCancelAsked, "{holder}", "j.attempted_by[array_upper(j.attempted_by, 1)]",
			"{scheduled}", postgresUTC("j.scheduled_at"), "{updated}", postgresUTC("updated_at")),
		strings.NewReplacer("{s}", d.name("")),
	} {
		text = replacer.Replace(text)
	}
	d.texts.Store(statement, text)
	return text
}

// name returns the name of something in the schema.
func (d *postgresDB) name(of string) string {
	if d.schema == "" {
		return of
	}
	return pgx.Identifier{d.schema}.Sanitize() + "." + of
}

// postgresUTC is a time as text that does not depend on the session's time zone.
func postgresUTC(time string) string {
	return `to_char(` + time + ` AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`
}

// postgresInstances has the instances that share the database. A crash of PostgreSQL
// must not empty it, as it does unlogged tables: all would look gone.
const postgresInstances = "intercom_webhook_instance"

// postgresCancelAsked is the condition that a person has asked for the end of a job while it
// ran. River ends it then as cancelled when it would wait again, and so do we.
const postgresCancelAsked = `j.metadata ? 'cancel_attempted_at'`

// postgresRelease gives a job back: its claim was no attempt. It goes back to the state
// that it was claimed from. One that a person had retried was claimed from available, and
// has the time of that in its metadata.
const postgresRelease = `
	finalized_at = CASE WHEN {cancel asked} THEN now() END,
	state = CASE WHEN {cancel asked} THEN 'cancelled' WHEN j.attempt <= 1 OR j.metadata ->> 'age_from' = {scheduled} THEN 'available' ELSE 'retryable' END::{s}river_job_state,
	attempt = greatest(j.attempt - 1, 0),
	attempted_by = j.attempted_by[:array_upper(j.attempted_by, 1) - 1]`

// postgresJSON and postgresKeys are arrays of jsonb and bytea. They are types of their
// own for the exec modes in which pgx does not ask the server for the types.
type (
	postgresJSON struct{ pgtype.FlatArray[[]byte] }
	postgresKeys struct{ pgtype.FlatArray[[]byte] }
)

// Interface guard
var _ DB = (*postgresDB)(nil)
