package sqlite

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
	"syscall"

	"github.com/gofrs/flock"
	"go.uber.org/zap"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	// quickCheckSize bounds, in bytes, the files that are checked whole at the start.
	quickCheckSize = 64 << 20

	readConnections = 4
)

// Open opens a file, and makes it if it is not there. The file is locked for as long as it
// is open. Deliveries that a process left behind are released.
func Open(ctx context.Context, path string, logger *zap.Logger) (db.DB, error) {
	e := newEngine(path)
	if err := e.open(ctx, logger); err != nil {
		return nil, errors.Join(openError(err), e.Close())
	}
	return e, nil
}

// Join opens a file that a running Caddy may have open, to move notifications. It makes no
// file and no tables.
func Join(ctx context.Context, path string, logger *zap.Logger) (db.Joined, error) {
	e := newEngine(path)
	if err := e.join(ctx, logger); err != nil {
		return nil, errors.Join(openError(err), e.Close())
	}
	return e, nil
}

// openFile opens the database file, and takes the locks that keep other processes off: that
// of the file itself, which cannot be taken away by removing a name, and that of the file
// beside it, which other systems than Unix have.
func openFile(path string) (file *os.File, locks []*flock.Flock, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, err
	}
	// bodies are personal data, and the mode of the file is that of its siblings
	file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // named by the config
	if err != nil {
		return nil, nil, err
	}
	names := []string{path + ".lock"}
	if runtime.GOOS != "windows" { // where a lock keeps SQLite itself from reading
		names = append(names, path)
	}
	for _, name := range names {
		lock := flock.New(name, flock.SetPermissions(0o600))
		locked, err := lock.TryLock()
		if err != nil {
			return file, locks, fmt.Errorf("locking %s: %w", filepath.Base(name), err)
		}
		if !locked {
			return file, locks, &db.PermanentError{Err: db.ErrLocked}
		}
		locks = append(locks, lock)
	}
	return file, locks, openable(path+"-wal", path+"-shm")
}

// openable returns an error that names the first of the files that are there and cannot be
// opened. SQLite names none. Closing a file drops the locks that SQLite has on it in this
// process, so this must come before.
func openable(names ...string) error {
	for _, name := range names {
		file, err := os.OpenFile(name, os.O_RDWR, 0) //nolint:gosec // named by the config
		switch {
		case err == nil:
			err = file.Close()
		case errors.Is(err, fs.ErrNotExist):
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inspectFile refuses what is no database of this program, or damaged, without changing it.
func inspectFile(ctx context.Context, path string, quickCheck bool) (isNew bool, err error) {
	file, err := sql.Open("sqlite", dsn(path, url.Values{"mode": {"ro"}, "_pragma": {pragmaBusy()}}))
	if err != nil {
		return false, err
	}
	defer file.Close()
	isNew, err = identify(ctx, file)
	if err != nil || isNew || !quickCheck {
		return isNew, err
	}
	var finding string
	if err := file.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&finding); err != nil {
		return false, err
	}
	if finding != "ok" {
		return false, &db.PermanentError{Err: fmt.Errorf("it is corrupt (%s): restore it from a backup, or move it away", finding)}
	}
	return false, nil
}

// pool makes connections with a page cache of so many KiB each. With synchronous NORMAL, the
// write-ahead log is not synchronized at a commit: whoever has committed does that after the
// write lock is released, so that others can write meanwhile.
func pool(path string, connections int, synchronous string, cacheKiB int, pragmas ...string) *sql.DB {
	opened, err := sql.Open("sqlite", dsn(path, url.Values{
		"mode": {"rw"},
		"_pragma": append([]string{
			pragmaBusy(), "synchronous(" + synchronous + ")", "fullfsync(1)", "wal_autocheckpoint(0)",
			fmt.Sprintf("cache_size(-%d)", cacheKiB), "temp_store(MEMORY)", "secure_delete(ON)",
		}, pragmas...),
	}))
	if err != nil {
		panic(err) // "sqlite" is registered
	}
	opened.SetMaxOpenConns(connections)
	opened.SetMaxIdleConns(connections)
	return opened
}

func pragmaBusy() string { return fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()) }

func dsn(path string, options url.Values) string {
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: options.Encode()}).String()
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

// pathErrors are those of a path that no time will mend.
var pathErrors = []error{
	fs.ErrPermission, syscall.EROFS, syscall.ENOTDIR, syscall.EISDIR, syscall.ENAMETOOLONG, syscall.ELOOP,
}

// openError marks errors that only a person can fix.
func openError(err error) error {
	permanent := isCode(err, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY)
	for _, mark := range pathErrors {
		permanent = permanent || errors.Is(err, mark)
	}
	if permanent && !db.IsPermanent(err) {
		return &db.PermanentError{Err: err}
	}
	return err
}
