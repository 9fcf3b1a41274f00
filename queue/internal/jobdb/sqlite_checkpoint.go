package jobdb

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"

	"go.uber.org/zap"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// backfill runs a checkpoint and makes what it moved into the database durable. All
// checkpoints must be run by it or by mend.
//
// A checkpoint that could move only a part of the log, because of a reader or of others
// that write, does not synchronize the database file, and the next one moves only the rest.
// SQLite begins the log anew after one that has moved all and has synchronized the file.
// So whatever is not known to be on the disk is in the log, if each checkpoint is followed
// by a sync here, and none is begun after a sync has failed.
func (d *sqliteDB) backfill(checkpoint func() error) error {
	d.log.backfilling.Lock()
	defer d.log.backfilling.Unlock()
	if err := d.log.usable(); err != nil {
		return err
	}
	return d.log.backfilled(checkpoint())
}

// backfilled makes durable what a checkpoint moved, whose error it is given. It needs
// backfilling.
func (l *writeAheadLog) backfilled(err error) error {
	syncErr := l.database.Sync()
	reply, ok := errors.AsType[*sqlite.Error](err)
	switch {
	case ok && reply.Code()&0xff == sqlite3.SQLITE_IOERR:
		// SQLite takes nothing for moved then, so its next checkpoint moves the same again;
		// the sync has reported the same error
		l.fail()
	case syncErr != nil:
		l.incomplete = true
		l.fail()
	}
	return errors.Join(err, syncErr)
}

func (l *writeAheadLog) fail() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = true
}

// checkpoint moves the log into the database. Most of that is done, and brought to the
// disk, while others write; they wait only for the rest. The next transaction begins the
// log anew then.
func (d *sqliteDB) checkpoint(ctx context.Context) error {
	if err := d.backfillUnlocked(ctx); err != nil {
		return err
	}
	return d.backfill(func() error {
		if err := d.writeLock.lock(ctx, delivering); err != nil {
			return err
		}
		defer d.writeLock.unlock()
		return d.write.exec("PRAGMA wal_checkpoint(PASSIVE)")
	})
}

// backfillUnlocked moves what it can of the log, while others write.
func (d *sqliteDB) backfillUnlocked(ctx context.Context) error {
	return d.backfill(func() error {
		_, err := d.read.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
		return err
	})
}

// mend writes the whole log into the database and begins it anew. If that succeeds, with
// the syncs that it includes, everything committed is on the disk.
func (d *sqliteDB) mend(ctx context.Context) error {
	d.log.backfilling.Lock()
	defer d.log.backfilling.Unlock()
	if err := d.rewriteLogged(ctx); err != nil {
		return err
	}
	if err := d.writeLock.lock(ctx, storing); err != nil {
		return err
	}
	defer d.writeLock.unlock()
	var busy, frames, moved int
	if err := d.log.backfilled(d.write.queryRow("PRAGMA wal_checkpoint(TRUNCATE)", nil, &busy, &frames, &moved)); err != nil {
		return err
	}
	if busy != 0 {
		return errors.New("checkpoint: the database is busy")
	}
	d.log.mended()
	d.logger.Info("the queue's database is on the disk again, and stores again", zap.String("path", d.path))
	return nil
}

// rewriteLogged appends to the log all pages that are in it, if what checkpoints have moved
// may not be on the disk. The next checkpoint moves them again then: it leaves out only what
// is in the log before the end of the last one. As often as a checkpoint fails after that, as
// it does until the disk works again, the log does not grow once more. It needs backfilling,
// or that nobody else uses the database.
func (d *sqliteDB) rewriteLogged(ctx context.Context) error {
	if !d.log.incomplete {
		return nil
	}
	err := d.transaction(ctx, storing, func() error {
		pages, err := d.log.pages()
		if err != nil {
			return err
		}
		var count uint32
		if err := d.write.queryRow("PRAGMA page_count", nil, &count); err != nil {
			return err
		}
		for _, page := range pages {
			if page == 0 || page > count {
				continue
			}
			if err := d.write.exec("UPDATE sqlite_dbpage SET data = data WHERE pgno = ?", page); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		d.log.incomplete = false
	}
	return err
}

// pages returns the numbers of all pages in the log. Those of frames behind its end, which
// are left from the log before, are among them.
// Source: https://www.sqlite.org/fileformat2.html#walformat
func (l *writeAheadLog) pages() ([]uint32, error) {
	const headerSize, frameHeaderSize = 32, 24
	header := make([]byte, headerSize)
	if _, err := l.file.ReadAt(header, 0); errors.Is(err, io.EOF) {
		return nil, nil // it is empty
	} else if err != nil {
		return nil, err
	}
	pages := make(map[uint32]bool)
	frame := int64(number(header, 8)) + frameHeaderSize
	for at := int64(headerSize); ; at += frame {
		page := make([]byte, 4)
		if _, err := l.file.ReadAt(page, at); errors.Is(err, io.EOF) {
			return slices.Sorted(maps.Keys(pages)), nil
		} else if err != nil {
			return nil, err
		}
		pages[number(page, 0)] = true
	}
}
