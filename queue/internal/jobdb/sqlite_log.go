package jobdb

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// writeAheadLog makes what is committed durable.
type writeAheadLog struct {
	databasePath string
	database     *os.File
	file         *os.File

	mu     sync.Mutex // one fsync at a time, because Linux reports an error only once
	failed bool

	// backfilling is held from the beginning of a checkpoint until the database file has
	// been synchronized after it.
	backfilling sync.Mutex
	incomplete  bool // what checkpoints have moved may not be on the disk; needs backfilling
}

const (
	// checkpointSize is the size of the write-ahead log, in bytes, from which on it is
	// moved into the database and begun anew.
	checkpointSize = 32 << 20

	maintenanceInterval = 250 * time.Millisecond
)

var (
	errReplaced   = errors.New("the database file or its -wal has been moved or deleted while in use: restart Caddy")
	errSyncFailed = errors.New("an earlier write did not reach the disk: nothing is stored until the whole database has been written again")
)

// openLog opens the write-ahead log of a database that is in use.
func openLog(databasePath string, database *os.File) (*writeAheadLog, error) {
	file, err := os.OpenFile(databasePath+"-wal", os.O_RDWR, 0) //nolint:gosec // named by the config
	if err != nil {
		return nil, err
	}
	return &writeAheadLog{databasePath: databasePath, database: database, file: file}, nil
}

// sync returns when all that was committed before is on the disk. After a failure it
// goes on to fail until mended is called: Linux marks the pages that it could not write
// as clean, and the next fsync would succeed over the hole.
func (l *writeAheadLog) sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed {
		return errSyncFailed
	}
	if err := l.check(); err != nil {
		return err
	}
	if err := l.file.Sync(); err != nil {
		l.failed = true
		return err
	}
	return nil
}

// check fails closed if the files are not those that are at their paths: what is
// written to them would be gone after a restart.
func (l *writeAheadLog) check() error {
	log, err := l.file.Stat()
	if err != nil {
		return err
	}
	if theirs, err := os.Stat(l.file.Name()); err != nil || !os.SameFile(log, theirs) {
		return errReplaced
	}
	database, err := l.database.Stat()
	if err != nil {
		return err
	}
	if theirs, err := os.Stat(l.databasePath); err != nil || !os.SameFile(database, theirs) {
		return errReplaced
	}
	return nil
}

// usable returns an error if sync would fail without trying.
func (l *writeAheadLog) usable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed {
		return errSyncFailed
	}
	return nil
}

func (l *writeAheadLog) mended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = false
}

func (l *writeAheadLog) size() int64 {
	info, err := l.file.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

func (l *writeAheadLog) close() error { return l.file.Close() }

// maintain keeps the log short, and mends it after an fsync has failed.
func (d *sqliteDB) maintain(ctx context.Context) {
	ticker := time.NewTicker(maintenanceInterval)
	defer ticker.Stop()
	failing := false // a full disk is logged once
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := d.maintainOnce(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			d.logger.Error("maintenance of the queue's database failed, and will be tried again", zap.String("path", d.path), zap.Error(err))
		}
		failing = err != nil
	}
}

func (d *sqliteDB) maintainOnce(ctx context.Context) error {
	switch {
	case d.log.usable() != nil:
		return d.mend(ctx)
	case d.log.size() >= checkpointSize:
		return d.checkpoint(ctx)
	}
	return nil
}
