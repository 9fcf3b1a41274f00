package sqlite

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	sqlite3 "modernc.org/sqlite/lib"
)

// writeAheadLog makes what is committed durable, and moves it into the database.
type writeAheadLog struct {
	path     string // of the database
	logger   *zap.Logger
	database *os.File
	file     *os.File
	writer   *writer
	read     *statements

	mu     sync.Mutex // one fsync at a time, because Linux reports an error only once
	failed bool

	// backfilling is held from the beginning of a checkpoint until the database file has
	// been synchronized after it.
	backfilling sync.Mutex
	incomplete  bool // what checkpoints have moved may not be on the disk; needs backfilling

	limits   limits
	keptSize atomic.Int64 // of a log that a reader keeps and that is too large to go on; 0 otherwise
	warned   int64        // the size that was warned of last; for maintenance alone

	stop       context.CancelFunc // of the maintenance
	maintained sync.WaitGroup
}

// limits are sizes of the write-ahead log, in bytes.
type limits struct {
	checkpoint int64 // from here on it is moved into the database and begun anew
	warn       int64 // that is reported, and again whenever it has grown by as much
	most       int64 // nothing is stored until it could be moved
}

const (
	checkpointSize = 32 << 20
	warnSize       = 256 << 20
	mostSize       = 1 << 30

	// lockedPages is how many pages are moved while others must wait, at most.
	lockedPages = 2048

	maintenanceInterval = 250 * time.Millisecond
	emptyPause          = 50 * time.Millisecond // between two tries, as readers may keep the log
)

var (
	errReplaced   = errors.New("the database file or its -wal has been moved or deleted while in use: restart Caddy")
	errSyncFailed = errors.New("an earlier write did not reach the disk: nothing is stored until the whole database has been written again")
)

// openLog opens the write-ahead log of a database that is in use, and keeps it short from
// now on.
func openLog(path string, database *os.File, w *writer, read *statements, logger *zap.Logger) (*writeAheadLog, error) {
	file, err := os.OpenFile(path+"-wal", os.O_RDWR, 0) //nolint:gosec // named by the config
	if err != nil {
		return nil, err
	}
	l := &writeAheadLog{path: path, logger: logger, database: database, file: file, writer: w, read: read, limits: limits{checkpointSize, warnSize, mostSize}}
	var ctx context.Context
	ctx, l.stop = context.WithCancel(context.Background())
	l.maintained.Go(func() { l.maintain(ctx) })
	return l, nil
}

// close ends the maintenance. SQLite makes a checkpoint of its own and deletes the log when
// the last connection is closed after it.
func (l *writeAheadLog) close() error {
	l.stop()
	l.maintained.Wait()
	var err error
	if errors.Is(l.usable(), errSyncFailed) {
		err = l.distrust(context.Background())
	}
	return errors.Join(err, l.file.Close())
}

// sync returns when all that was committed before is on the disk. After a failure it
// goes on to fail until mend has succeeded: Linux marks the pages that it could not write
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
	for path, file := range map[string]*os.File{l.path + "-wal": l.file, l.path: l.database} {
		ours, err := file.Stat()
		if err != nil {
			return err
		}
		if theirs, err := os.Stat(path); err != nil || !os.SameFile(ours, theirs) {
			return errReplaced
		}
	}
	return nil
}

// usable returns an error if what is stored now could not be made durable, or would make a
// log longer that is too long already.
func (l *writeAheadLog) usable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed {
		return errSyncFailed
	}
	if size := l.keptSize.Load(); size > 0 {
		return fmt.Errorf("another process reads %s in one long transaction, and so keeps its write-ahead log, which has %d MiB: end that process", l.path, size>>20)
	}
	return nil
}

func (l *writeAheadLog) setFailed(failed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = failed
}

func (l *writeAheadLog) size() int64 {
	info, err := l.file.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// progress is how far a checkpoint has come.
type progress struct {
	busy          bool
	frames, moved int
}

// backfill runs a checkpoint and makes what it moved into the database durable. All
// checkpoints must be run by it or by mend.
//
// SQLite does not synchronize the database file after a checkpoint that could move only a part
// of the log, and the next one moves only the rest. So each checkpoint is followed by a sync
// here, and none is begun after a sync has failed: what is not on the disk is in the log.
func (l *writeAheadLog) backfill(checkpoint func() (progress, error)) (progress, error) {
	l.backfilling.Lock()
	defer l.backfilling.Unlock()
	l.mu.Lock()
	failed := l.failed
	l.mu.Unlock()
	if failed {
		return progress{}, errSyncFailed
	}
	come, err := checkpoint()
	return come, l.backfilled(err)
}

// backfilled makes durable what a checkpoint with this error has moved. It needs backfilling.
func (l *writeAheadLog) backfilled(err error) error {
	syncErr := l.database.Sync()
	switch {
	case isCode(err, sqlite3.SQLITE_IOERR):
		// SQLite takes nothing for moved then, so its next checkpoint moves the same again;
		// the sync has reported the same error
		l.setFailed(true)
	case syncErr != nil:
		l.incomplete = true
		l.setFailed(true)
	}
	return errors.Join(err, syncErr)
}

// runCheckpoint runs a checkpoint of a mode of SQLite.
func runCheckpoint(ctx context.Context, on *statements, mode string) (come progress, err error) {
	err = on.queryRow(ctx, "PRAGMA wal_checkpoint("+mode+")", nil, &come.busy, &come.frames, &come.moved)
	return come, err
}

// checkpoint moves the log into the database. Most of that is done, and brought to the disk,
// while others write; they wait only for the rest, and never for readers. With mode PASSIVE,
// the next transaction begins the log anew then; with TRUNCATE, it is empty. It reports
// whether a reader, or much writing, has kept a part of the log.
func (l *writeAheadLog) checkpoint(ctx context.Context, mode string) (kept bool, err error) {
	come, err := l.backfill(func() (progress, error) { return runCheckpoint(ctx, l.read, "PASSIVE") })
	if err != nil || come.frames-come.moved > lockedPages {
		return true, err
	}
	come, err = l.backfill(func() (come progress, err error) {
		if err := l.writer.lock.lock(ctx, delivering); err != nil {
			return come, err
		}
		defer l.writer.lock.unlock()
		if err := l.writer.setBusyTimeout(0); err != nil {
			return come, err
		}
		come, err = runCheckpoint(context.Background(), l.writer.run, mode)
		return come, errors.Join(err, l.writer.setBusyTimeout(busyTimeout))
	})
	return come.busy || come.moved < come.frames, err
}

// empty moves the whole log into the database, and truncates it.
func (l *writeAheadLog) empty(ctx context.Context) error {
	for {
		kept, err := l.checkpoint(ctx, "TRUNCATE")
		if kept && err == nil {
			err = pause(ctx, emptyPause)
		}
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("emptying the write-ahead log, which a process that reads %s may keep: %w", l.path, err)
		case err != nil || !kept:
			return err
		}
	}
}

// mend writes the whole log into the database and begins it anew. If that succeeds, with
// the syncs that it includes, everything committed is on the disk.
func (l *writeAheadLog) mend(ctx context.Context) error {
	l.backfilling.Lock()
	defer l.backfilling.Unlock()
	if err := l.distrust(ctx); err != nil {
		return err
	}
	if err := l.writer.lock.lock(ctx, storing); err != nil {
		return err
	}
	defer l.writer.lock.unlock()
	come, err := runCheckpoint(context.Background(), l.writer.run, "TRUNCATE")
	if err := l.backfilled(err); err != nil {
		return err
	}
	if come.busy {
		return errors.New("checkpoint: the database is busy")
	}
	l.setFailed(false)
	l.logger.Info("the queue's database is on the disk again, and stores again", zap.String("path", l.path))
	return nil
}

// distrust makes the next checkpoint move everything again after a sync has failed. It needs
// backfilling, or that nobody else uses the database.
func (l *writeAheadLog) distrust(ctx context.Context) error {
	if err := l.rewriteLogged(ctx); err != nil {
		return err
	}
	return reread(l.database)
}

// rewriteLogged appends to the log all pages that are in it, if what checkpoints have moved
// may not be on the disk: then the next checkpoint moves them again. It does so once, however
// often that fails. It needs backfilling, or that nobody else uses the database.
func (l *writeAheadLog) rewriteLogged(ctx context.Context) error {
	if !l.incomplete {
		return nil
	}
	err := l.writer.transaction(ctx, storing, func() error {
		pages, err := loggedPages(l.file)
		if err != nil {
			return err
		}
		var count uint32
		if err := l.writer.run.queryRow(context.Background(), "PRAGMA page_count", nil, &count); err != nil {
			return err
		}
		for _, page := range pages {
			if page == 0 || page > count {
				continue
			}
			if _, err := l.writer.run.exec(context.Background(), "UPDATE sqlite_dbpage SET data = data WHERE pgno = ?", page); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		l.incomplete = false
	}
	return err
}

// loggedPages returns the numbers of all pages in a write-ahead log. Those of frames behind
// its end, which are left from the log before, are among them.
// Source: https://www.sqlite.org/fileformat2.html#walformat
func loggedPages(log io.ReaderAt) ([]uint32, error) {
	const headerSize, frameHeaderSize = 32, 24
	header := make([]byte, headerSize)
	if _, err := log.ReadAt(header, 0); errors.Is(err, io.EOF) {
		return nil, nil // it is empty
	} else if err != nil {
		return nil, err
	}
	pages := make(map[uint32]bool)
	frame := int64(binary.BigEndian.Uint32(header[8:])) + frameHeaderSize
	for at := int64(headerSize); ; at += frame {
		page := make([]byte, 4)
		if _, err := log.ReadAt(page, at); errors.Is(err, io.EOF) {
			return slices.Sorted(maps.Keys(pages)), nil
		} else if err != nil {
			return nil, err
		}
		pages[binary.BigEndian.Uint32(page)] = true
	}
}

// maintain keeps the log short, and mends it after an fsync has failed.
func (l *writeAheadLog) maintain(ctx context.Context) {
	ticker := time.NewTicker(maintenanceInterval)
	defer ticker.Stop()
	failing := false // a full disk is logged once
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := l.maintainOnce(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			l.logger.Error("maintenance of the queue's database failed, and will be tried again", zap.String("path", l.path), zap.Error(err))
		}
		failing = err != nil
	}
}

func (l *writeAheadLog) maintainOnce(ctx context.Context) error {
	if errors.Is(l.usable(), errSyncFailed) {
		return l.mend(ctx)
	}
	size := l.size()
	if size < l.limits.checkpoint {
		l.watch(size, false)
		return nil
	}
	kept, err := l.checkpoint(ctx, "PASSIVE")
	l.watch(size, kept)
	return err
}

// watch warns of a log that a reader keeps, and ends storing before the disk is full.
func (l *writeAheadLog) watch(size int64, kept bool) {
	switch {
	case !kept || size < l.limits.warn:
		l.warned = 0
		l.keptSize.Store(0)
		return
	case size >= l.limits.most:
		l.keptSize.Store(size)
	}
	if l.warned == 0 || size >= l.warned+l.limits.warn {
		l.warned = size
		l.logger.Warn("another process reads the queue's database in one long transaction, and so keeps its write-ahead log, which grows until the disk is full: end that process",
			zap.String("path", l.path), zap.Int64("bytes", size), zap.Int64("nothing_is_stored_from", l.limits.most))
	}
}
