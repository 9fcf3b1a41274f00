// Package sqlite is the engine of the queue that keeps notifications in an SQLite file.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// tables are the open database, as its parts use it.
type tables struct {
	instance string
	write    *writer
	read     *statements  // needs no lock
	usable   func() error // returns an error if nothing may be stored now
	sync     func() error // returns when all that was committed before is on the disk
}

// engine is a database in a file of its own, which belongs to this process alone unless it
// was joined.
type engine struct {
	*tables
	deliveries
	inspector
	mover

	path     string
	file     *os.File // the database; kept open, because closing it would drop SQLite's locks
	locks    []*flock.Flock
	readPool *sql.DB
	log      *writeAheadLog // nil if it was joined
}

func newEngine(path string) *engine {
	t := &tables{instance: db.NewInstance()}
	return &engine{tables: t, deliveries: deliveries{t}, inspector: inspector{t}, mover: mover{t}, path: path}
}

func (e *engine) open(ctx context.Context, logger *zap.Logger) (err error) {
	if e.file, e.locks, err = openFile(e.path); err != nil {
		return err
	}
	info, err := e.file.Stat()
	if err != nil {
		return err
	}
	if err := reread(e.file); err != nil { // a process before may have ended after a failed sync
		return err
	}
	isNew, err := inspectFile(ctx, e.path, info.Size() <= quickCheckSize)
	if err != nil {
		return err
	}
	err = e.connect(ctx, logger, "NORMAL", "journal_mode(WAL)", fmt.Sprintf("journal_size_limit(%d)", checkpointSize/2))
	if err != nil {
		return err
	}
	if isNew {
		if err := e.write.transaction(ctx, storing, func() error { return create(e.write.run) }); err != nil {
			return err
		}
	}
	if e.log, err = openLog(e.path, e.file, e.write, e.read, logger); err != nil {
		return err
	}
	e.usable, e.sync = e.log.usable, e.log.sync
	if err := e.begin(ctx); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(e.path))
}

// join leaves the write-ahead log to the Caddy that has the file, and only synchronizes it.
func (e *engine) join(ctx context.Context, logger *zap.Logger) error {
	if _, err := os.Stat(e.path); err != nil {
		return err
	}
	isNew, err := inspectFile(ctx, e.path, false)
	if err != nil {
		return err
	}
	if isNew {
		return &db.PermanentError{Err: errNoTables}
	}
	e.usable, e.sync = func() error { return nil }, func() error { return nil }
	return e.connect(ctx, logger, "FULL")
}

var errNoTables = errors.New("it has no tables yet: start Caddy with it first")

func (e *engine) connect(ctx context.Context, logger *zap.Logger, synchronous string, pragmas ...string) (err error) {
	e.readPool = pool(e.path, readConnections, synchronous, 1<<10, pragmas...)
	e.read = newStatements(e.readPool.PrepareContext)
	e.write, err = newWriter(ctx, e.path, pool(e.path, 1, synchronous, 6<<10, pragmas...), logger)
	return err
}

// Instance implements db.DB.
func (e *engine) Instance() string { return e.instance }

// Close implements db.DB.
func (e *engine) Close() error {
	var errs []error
	if e.log != nil {
		e.end()
		errs = append(errs, e.log.close())
	}
	if e.write != nil {
		errs = append(errs, e.write.close())
	}
	if e.readPool != nil {
		errs = append(errs, e.read.close(), e.readPool.Close())
	}
	if e.file != nil {
		errs = append(errs, e.file.Close())
	}
	for _, lock := range e.locks {
		errs = append(errs, lock.Close())
	}
	return errors.Join(errs...)
}

const (
	remainsInBackups = "Backups and copies of the file that were made before still have them (docs/operations.md, Backups of the file)."
	remainsInPages   = "What was deleted is overwritten, and the write-ahead log is empty. Parts of rows that SQLite had moved to another page before may still be in the file: `erase --vacuum` writes the whole file anew, and nothing can be stored meanwhile. "
	remainsNowhere   = "The file was written anew, and no longer has them. "
)

// Scrub implements db.Eraser. SQLite overwrites what it deletes, with secure_delete; the
// write-ahead log has it until it is emptied.
func (e *engine) Scrub(ctx context.Context, whole bool) (remains string, err error) {
	remains = remainsInPages
	if whole {
		if err := e.vacuum(ctx); err != nil {
			return "", fmt.Errorf("writing the file anew: %w", err)
		}
		remains = remainsNowhere
	}
	if err := e.log.empty(ctx); err != nil {
		return "", err
	}
	return remains + remainsInBackups, nil
}

// vacuumSQL keeps the copy in a file. As one of the pragmas of a connection it would not: of two
// that set the same, the driver lets the one win that is later in the alphabet.
const vacuumSQL = "PRAGMA temp_store = FILE; VACUUM"

// vacuum uses a connection of its own, as the others keep such copies in memory.
func (e *engine) vacuum(ctx context.Context) error {
	if err := e.write.lock.lock(ctx, delivering); err != nil {
		return err
	}
	defer e.write.lock.unlock()
	own := pool(e.path, 1, "NORMAL", 6<<10)
	_, err := own.ExecContext(ctx, vacuumSQL)
	return errors.Join(err, own.Close())
}

// Interface guards
var (
	_ db.DB        = (*engine)(nil)
	_ db.Inspector = (*engine)(nil)
	_ db.Eraser    = (*engine)(nil)
	_ db.Mover     = (*engine)(nil)
)
