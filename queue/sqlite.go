package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/gofrs/flock"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"go.uber.org/zap"
	"riverqueue.com/riverui"

	"github.com/caddyserver/caddy/v2"
)

// sqliteDB is a database in a file of its own, which belongs to this process alone.
type sqliteDB struct {
	path string
	lock *flock.Flock

	// What writes has its turn. What is only looked at has none to wait for.
	turnstile turnstile
	storing   *sql.DB
	working   *sql.DB
	looking   *sql.DB

	inserter riverdriver.Executor // of storing
	exec     riverdriver.Executor // of working

	// SQLite does not wait for the disk when it commits; insert does, after its turn, so
	// that others can write meanwhile. Delivering does not: what a power cut takes away
	// of it is delivered again.
	log    *os.File  // the write-ahead log
	pinned *sql.Conn // keeps it from being deleted, as it is with the last connection
}

const (
	// applicationID marks the files of this program: "Icwq".
	applicationID = 0x49637771

	// quickCheckSize bounds, in bytes, the files that are checked whole at the start.
	quickCheckSize = 64 << 20

	// checkpointSize is the size of the write-ahead log, in bytes, from which on it is
	// moved into the database and begun anew.
	checkpointSize = 32 << 20
)

var (
	errLocked  = errors.New("another process uses it: two Caddys need two files, or one PostgreSQL")
	errForeign = errors.New("it is the database of another program: give the queue a file of its own with path")
)

// openSQLite opens the file, and makes it if it is not there.
func openSQLite(ctx context.Context, path string) (_ *sqliteDB, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	d := &sqliteDB{path: path, lock: flock.New(path+".lock", flock.SetPermissions(0o600))}
	locked, err := d.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	if !locked {
		return nil, errLocked
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()

	// bodies are personal data, and the mode of the file is that of its siblings
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // named by the config
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}

	isNew, err := d.identify(ctx, info.Size())
	if err != nil {
		return nil, err
	}
	d.storing = d.pool(connector{turnstile: &d.turnstile, side: storing}, 1, "immediate")
	d.working = d.pool(connector{turnstile: &d.turnstile, side: delivering}, 1, "immediate")
	d.looking = d.pool(connector{}, 5, "deferred") // of which one is pinned
	if isNew {
		if _, err := d.storing.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
			return nil, err
		}
	}
	if err := migrate(ctx, newSQLiteDriver(d.storing), ""); err != nil {
		return nil, err
	}
	d.inserter, d.exec = newSQLiteDriver(d.storing).GetExecutor(), newSQLiteDriver(d.working).GetExecutor()
	if d.pinned, err = d.looking.Conn(ctx); err != nil {
		return nil, err
	}
	if err := d.pinned.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(new(int)); err != nil { // opens the log
		return nil, err
	}
	if d.log, err = os.OpenFile(d.logPath(), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	return d, syncFolder(filepath.Dir(path))
}

// syncFolder returns when the files of a folder are still there after a power cut.
func syncFolder(path string) error {
	if runtime.GOOS == "windows" { // which does so by itself, and cannot be asked to
		return nil
	}
	folder, err := os.Open(path) //nolint:gosec // named by the config
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (d *sqliteDB) logPath() string { return d.path + "-wal" }

func (d *sqliteDB) pool(c connector, connections int, lock string) *sql.DB {
	c.dsn = d.dsn(url.Values{
		"_txlock": {lock},
		"_pragma": {
			"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(NORMAL)", "fullfsync(1)", "wal_autocheckpoint(0)",
			fmt.Sprintf("journal_size_limit(%d)", checkpointSize/2),
			"cache_size(-16384)", "temp_store(MEMORY)", "secure_delete(FAST)",
		},
	})
	db := sql.OpenDB(&c)
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db
}

func (d *sqliteDB) dsn(options url.Values) string {
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: d.path}).EscapedPath(), RawQuery: options.Encode()}).String()
}

// identify refuses what is no database of this program, without changing it, and
// reports whether it is none at all yet.
func (d *sqliteDB) identify(ctx context.Context, size int64) (isNew bool, err error) {
	db := sql.OpenDB(&connector{dsn: d.dsn(url.Values{"mode": {"ro"}})})
	defer db.Close()
	var id, tables int
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return false, err
	}
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&tables); err != nil {
		return false, err
	}
	switch {
	case tables == 0 && id == 0:
		return true, nil
	case id != applicationID:
		return false, errForeign
	case size > quickCheckSize:
		return false, nil
	}
	var finding string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&finding); err != nil {
		return false, err
	}
	if finding != "ok" {
		return false, fmt.Errorf("it is corrupt (%s): restore it from a backup, or move it away", finding)
	}
	return false, nil
}

func (d *sqliteDB) newClient(config *river.Config) (client, error) {
	return river.NewClient(newSQLiteDriver(d.working), config)
}

func (d *sqliteDB) insert(ctx context.Context, collect func() []*riverdriver.JobInsertFastParams) ([]*riverdriver.JobInsertFastResult, error) {
	results, err := insertJobs(ctx, d.inserter, "", collect)
	if err != nil {
		return nil, err
	}
	return results, d.sync()
}

var errLogReplaced = errors.New("somebody has taken away the write-ahead log: restart Caddy")

// sync returns when all that is committed is on the disk.
func (d *sqliteDB) sync() error {
	ours, err := d.log.Stat()
	if err != nil {
		return err
	}
	theirs, err := os.Stat(d.logPath())
	if err != nil || !os.SameFile(ours, theirs) { // fail closed
		return errLogReplaced
	}
	return d.log.Sync()
}

func (d *sqliteDB) executor() riverdriver.Executor { return d.exec }

func (*sqliteDB) schema() string { return "" }

// recover takes up again what ran when the last process ended. Nobody else has the
// file, so that is all that is marked as running; and who led is gone, too.
func (d *sqliteDB) recover(ctx context.Context) (int64, error) {
	if _, err := d.working.ExecContext(ctx, "DELETE FROM river_leader"); err != nil {
		return 0, err
	}
	recovered, err := d.working.ExecContext(ctx, `UPDATE river_job SET
		state = CASE WHEN attempt >= max_attempts THEN 'discarded' ELSE 'available' END,
		finalized_at = CASE WHEN attempt >= max_attempts THEN datetime('now', 'subsec') END
		WHERE state = 'running'`)
	if err != nil {
		return 0, err
	}
	return recovered.RowsAffected()
}

func (d *sqliteDB) count(ctx context.Context) ([]jobCount, error) {
	found, err := d.looking.QueryContext(ctx, "SELECT queue, state, count(*) FROM river_job GROUP BY state, queue")
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var counts []jobCount
	for found.Next() {
		var c jobCount
		if err := found.Scan(&c.queue, &c.state, &c.n); err != nil {
			return nil, err
		}
		counts = append(counts, c)
	}
	return counts, found.Err()
}

func (d *sqliteDB) oldest(ctx context.Context) (map[string]time.Time, error) {
	// ids are given in the order of time, and stand in the index
	found, err := d.looking.QueryContext(ctx, `SELECT queue, created_at FROM river_job WHERE id IN (
		SELECT min(id) FROM river_job WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') GROUP BY queue)`)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	oldest := make(map[string]time.Time)
	for found.Next() {
		var queue string
		var at time.Time
		if err := found.Scan(&queue, &at); err != nil {
			return nil, err
		}
		oldest[queue] = at
	}
	return oldest, found.Err()
}

// keepUp makes due what is to be tried again, and keeps the log short.
func (d *sqliteDB) keepUp(ctx context.Context) {
	failing := false // a full disk is told of once
	every(ctx, 250*time.Millisecond, nil, func() {
		err := errors.Join(d.schedule(ctx), d.checkpoint(ctx))
		if err != nil && ctx.Err() == nil && !failing {
			caddy.Log().Named(loggerName).Error("upkeep of the database failed", zap.String("path", d.path), zap.Error(err))
		}
		failing = err != nil
	})
}

// schedule does what River's scheduler would do in one large transaction.
func (d *sqliteDB) schedule(ctx context.Context) error {
	for {
		made, err := d.working.ExecContext(ctx, `UPDATE river_job SET state = 'available' WHERE id IN (
			SELECT id FROM river_job WHERE state IN ('retryable', 'scheduled') AND scheduled_at <= datetime('now', 'subsec') LIMIT ?)`, portion)
		if err != nil {
			return err
		}
		if n, err := made.RowsAffected(); err != nil || n < portion {
			return err
		}
	}
}

// checkpoint moves the log into the database. Most of that is done while others
// write; only for the rest they are kept waiting. The next who writes begins the log
// anew then.
func (d *sqliteDB) checkpoint(ctx context.Context) error {
	info, err := os.Stat(d.logPath())
	if err != nil || info.Size() < checkpointSize {
		return nil //nolint:nilerr // there is no log
	}
	if _, err := d.looking.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)"); err != nil {
		return err
	}
	_, err = d.working.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
	return err
}

func (d *sqliteDB) newUI(prefix string, logger *slog.Logger) (*riverui.Handler, error) {
	client, err := river.NewClient(newSQLiteDriver(d.looking), &river.Config{Logger: logger})
	if err != nil {
		return nil, err
	}
	return newUI(client, prefix, logger)
}

func (d *sqliteDB) close() error {
	var errs []error
	if d.log != nil {
		errs = append(errs, d.log.Close())
	}
	if d.pinned != nil {
		errs = append(errs, d.pinned.Close())
	}
	for _, db := range []*sql.DB{d.looking, d.working, d.storing} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(append(errs, d.lock.Close())...)
}
