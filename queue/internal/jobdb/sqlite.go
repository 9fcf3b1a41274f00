package jobdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/gofrs/flock"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"go.uber.org/zap"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteDB is a database in a file of its own, which belongs to this process alone.
type sqliteDB struct {
	path     string
	instance string
	logger   *zap.Logger

	locks []*flock.Flock
	file  *os.File // the database; kept open, because closing it would drop SQLite's locks

	// All writing is done on one connection, by the one who holds the write lock. Reading
	// needs no lock. River's web UI has the read pool, and writes little through it.
	writeLock writeLock
	write     *connection
	read      *sql.DB
	probed    uint64 // rows that probes have changed; needs the write lock

	log *writeAheadLog

	turns turns

	stop       context.CancelFunc // of the maintenance
	maintained sync.WaitGroup
}

const (
	// applicationID marks the files of this program: "Icwq".
	applicationID = 0x49637771

	// quickCheckSize bounds, in bytes, the files that are checked whole at the start.
	quickCheckSize = 64 << 20

	readConnections = 4

	sqliteBusyTimeout = 10_000 // milliseconds
)

var (
	// ErrLocked is the error for a file that another process has open.
	ErrLocked = errors.New("another process uses it: two Caddys need two files, or one PostgreSQL")

	errForeign = errors.New("it is the database of another program: give the queue a file of its own with path")
)

// OpenSQLite opens a file, and makes it if it is not there. The file is locked for as
// long as it is open. Jobs that a process left running are released.
func OpenSQLite(ctx context.Context, path string, logger *zap.Logger) (DB, error) {
	d := &sqliteDB{path: path, instance: newInstance(), logger: logger, stop: func() {}}
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(sqliteError(err), d.Close())
	}
	ctx, d.stop = context.WithCancel(context.Background())
	d.maintained.Go(func() { d.maintain(ctx) })
	return d, nil
}

func (d *sqliteDB) open(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
		return err
	}
	if err := d.lockFile(); err != nil {
		return err
	}
	isNew, err := d.identify(ctx)
	if err != nil {
		return err
	}
	d.read = d.pool(readConnections, "deferred", 1<<10)
	if d.write, err = newConnection(ctx, d.pool(1, "immediate", 6<<10)); err != nil {
		return err
	}
	if isNew {
		if err := d.write.exec(fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
			return err
		}
	}
	if err := migrateRiver(ctx, riversqlite.New(d.read), ""); err != nil {
		return err
	}
	if err := d.write.exec(sqliteTurnsIndex); err != nil {
		return err
	}
	// The version before this one snoozed jobs whose endpoint was not in the config.
	if err := d.write.exec("UPDATE river_job SET state = 'available' WHERE state = 'scheduled'"); err != nil {
		return err
	}
	if d.log, err = openLog(d.path, d.file); err != nil {
		return err
	}
	if _, err := d.Rescue(ctx); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(d.path))
}

// lockFile takes the locks that keep other processes off: that of the database file
// itself, which cannot be taken away by removing a name, and that of the file beside it,
// which versions before this one and other systems than Unix have.
func (d *sqliteDB) lockFile() error {
	// bodies are personal data, and the mode of the file is that of its siblings
	file, err := os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	d.file = file
	names := []string{d.path + ".lock"}
	if runtime.GOOS != "windows" { // where a lock keeps SQLite itself from reading
		names = append(names, d.path)
	}
	for _, name := range names {
		lock := flock.New(name, flock.SetPermissions(0o600))
		locked, err := lock.TryLock()
		if err != nil {
			return fmt.Errorf("locking %s: %w", filepath.Base(name), err)
		}
		if !locked {
			return &PermanentError{ErrLocked}
		}
		d.locks = append(d.locks, lock)
	}
	return nil
}

// identify refuses what is no database of this program, without changing it, and
// reports whether it is none at all yet.
func (d *sqliteDB) identify(ctx context.Context) (isNew bool, err error) {
	info, err := d.file.Stat()
	if err != nil {
		return false, err
	}
	db, err := sql.Open("sqlite", d.dsn(url.Values{"mode": {"ro"}}))
	if err != nil {
		return false, err
	}
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
		return false, &PermanentError{errForeign}
	case info.Size() > quickCheckSize:
		return false, nil
	}
	var finding string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&finding); err != nil {
		return false, err
	}
	if finding != "ok" {
		return false, &PermanentError{fmt.Errorf("it is corrupt (%s): restore it from a backup, or move it away", finding)}
	}
	return false, nil
}

// pool makes connections with a page cache of so many KiB each. The write-ahead log is
// not synchronized at a commit: Store waits for the disk after it has released the write
// lock, so that others can write meanwhile.
func (d *sqliteDB) pool(connections int, lock string, cacheKiB int) *sql.DB {
	db, err := sql.Open("sqlite", d.dsn(url.Values{
		"_txlock": {lock},
		"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", sqliteBusyTimeout), "journal_mode(WAL)", "synchronous(NORMAL)", "fullfsync(1)", "wal_autocheckpoint(0)",
			fmt.Sprintf("journal_size_limit(%d)", checkpointSize/2),
			fmt.Sprintf("cache_size(-%d)", cacheKiB), "temp_store(MEMORY)", "secure_delete(FAST)",
		},
	}))
	if err != nil {
		panic(err) // "sqlite" is registered
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db
}

func (d *sqliteDB) dsn(options url.Values) string {
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: d.path}).EscapedPath(), RawQuery: options.Encode()}).String()
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

// sqliteError marks errors that only a person can mend.
func sqliteError(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &PermanentError{err}
	}
	reply, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch reply.Code() & 0xff {
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY:
		return &PermanentError{err}
	}
	return err
}

// Instance implements DB.
func (d *sqliteDB) Instance() string { return d.instance }

// Close implements DB.
func (d *sqliteDB) Close() error {
	d.stop()
	d.maintained.Wait()
	var errs []error
	if d.log != nil {
		// SQLite makes a checkpoint of its own and deletes the log
		errs = append(errs, d.rewriteLogged(context.Background()), d.log.close())
	}
	if d.write != nil {
		errs = append(errs, d.write.close())
	}
	if d.read != nil {
		errs = append(errs, d.read.Close())
	}
	if d.file != nil {
		errs = append(errs, d.file.Close())
	}
	for _, lock := range d.locks {
		errs = append(errs, lock.Close())
	}
	return errors.Join(errs...)
}

// connection is one connection that keeps its prepared statements. It is used by one
// goroutine at a time.
type connection struct {
	db         *sql.DB
	conn       *sql.Conn
	statements map[string]*sql.Stmt
}

func newConnection(ctx context.Context, db *sql.DB) (*connection, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &connection{db: db, conn: conn, statements: make(map[string]*sql.Stmt)}, nil
}

// statement returns the prepared statement of a query. Its calls take no context: they
// are short, and to watch one costs a goroutine for each.
func (c *connection) statement(query string) (*sql.Stmt, error) {
	if stmt := c.statements[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := c.conn.PrepareContext(context.Background(), query)
	if err == nil {
		c.statements[query] = stmt
	}
	return stmt, err
}

func (c *connection) exec(query string, args ...any) error {
	_, err := c.execResult(query, args...)
	return err
}

func (c *connection) execResult(query string, args ...any) (sql.Result, error) {
	stmt, err := c.statement(query)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(context.Background(), args...)
}

// query runs a statement whose rows must be read to the end.
func (c *connection) query(query string, args ...any) (*sql.Rows, error) {
	stmt, err := c.statement(query)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(context.Background(), args...)
}

// queryRow scans the one row that a statement returns. It returns sql.ErrNoRows if there
// is none.
func (c *connection) queryRow(query string, args []any, into ...any) error {
	stmt, err := c.statement(query)
	if err != nil {
		return err
	}
	return stmt.QueryRowContext(context.Background(), args...).Scan(into...)
}

func (c *connection) close() error {
	var errs []error
	for _, stmt := range c.statements {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, c.conn.Close(), c.db.Close())...)
}

// transaction runs do in a transaction, when it is this writer's turn.
func (d *sqliteDB) transaction(ctx context.Context, w writer, do func() error) error {
	if err := d.writeLock.lock(ctx, w); err != nil {
		return err
	}
	defer d.writeLock.unlock()
	if err := d.write.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := do()
	if err == nil {
		err = d.write.exec("COMMIT")
	}
	if err != nil {
		// SQLite may have rolled back by itself, as it does on a full disk
		_ = d.write.exec("ROLLBACK")
	}
	return err
}

// Interface guard
var _ DB = (*sqliteDB)(nil)
