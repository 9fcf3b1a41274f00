package jobdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	// scrubPages is how many pages are looked at in one transaction: one that reads for
	// long would keep the log from being begun anew.
	scrubPages = 1000

	// cleanAtOnce is how many pages are cleaned in one transaction at least. Each reads the
	// list of free pages first, which takes longer than maxHold if there are many.
	cleanAtOnce = 64

	// scrubPause is between two tries to empty the log, which readers may keep.
	scrubPause = 50 * time.Millisecond
)

var errTooLargeToScrub = errors.New("the file is too large to be scrubbed")

// Scrub implements DB. With secure_delete at FAST, SQLite zeroes what it deletes only in
// pages that it writes anyway. At ON, answers were twice as slow while rows expired, and
// copies of rows that had moved to another page still stayed. So the whole file is read for
// what was deleted, while others write. What is found is zeroed in batches, as are all
// writes, and in the end the log is emptied.
func (d *sqliteDB) Scrub(ctx context.Context) error {
	var count uint32
	if err := d.read.QueryRowContext(ctx, "PRAGMA page_count").Scan(&count); err != nil {
		return err
	}
	if count >= maxSQLitePages {
		return errTooLargeToScrub
	}
	for first := uint32(1); first <= count; first += scrubPages {
		unclean, err := d.unclean(ctx, first, min(first+scrubPages-1, count))
		if err != nil {
			return fmt.Errorf("looking for what was deleted: %w", err)
		}
		if err := d.cleanPages(ctx, unclean); err != nil {
			return fmt.Errorf("overwriting what was deleted: %w", err)
		}
	}
	return d.emptyLog(ctx)
}

const readPage = "SELECT data FROM sqlite_dbpage WHERE pgno = ?"

// unclean returns the pages to be cleaned.
func (d *sqliteDB) unclean(ctx context.Context, first, last uint32) ([]uint32, error) {
	tx, err := d.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	read, err := tx.PrepareContext(ctx, readPage)
	if err != nil {
		return nil, err
	}
	defer read.Close()
	pages, err := openPages(func(n uint32) (page []byte, err error) {
		return page, read.QueryRowContext(ctx, n).Scan(&page)
	})
	if err != nil {
		return nil, err
	}
	found := make(map[uint32]bool)
	for n := first; n <= last; n++ {
		if err := pages.scrub(n, func(uint32, []byte) error { found[n] = true; return nil }); err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// cleanPages cleans pages, if they still have to be.
func (d *sqliteDB) cleanPages(ctx context.Context, unclean []uint32) (err error) {
	var pages *sqlitePages
	batches := slices.Collect(slices.Chunk(unclean, cleanAtOnce))
	return d.inBatches(ctx, len(batches), func(i int) error {
		if pages == nil {
			pages, err = openPages(func(n uint32) (page []byte, err error) {
				return page, d.write.queryRow(readPage, []any{n}, &page)
			})
			if err != nil {
				return err
			}
		}
		for _, n := range batches[i] {
			err := pages.scrub(n, func(n uint32, page []byte) error {
				return d.write.exec("UPDATE sqlite_dbpage SET data = ? WHERE pgno = ?", page, n)
			})
			if err != nil {
				return err
			}
		}
		return nil
	}, func() {
		pages = nil // the next transaction may find others free
	})
}

// emptyLog moves the whole log into the database, and truncates it. As in checkpoint, most
// is done while others write. It never waits for readers while others wait for it.
func (d *sqliteDB) emptyLog(ctx context.Context) error {
	for {
		if err := d.backfillUnlocked(ctx); err != nil {
			return err
		}
		var busy bool
		err := d.backfill(func() (err error) {
			busy, err = d.truncateLog(ctx)
			return err
		})
		if err != nil || !busy {
			return err
		}
		if err := pause(ctx, scrubPause); err != nil {
			return fmt.Errorf("emptying the log: %w", err)
		}
	}
}

func (d *sqliteDB) truncateLog(ctx context.Context) (busy bool, err error) {
	if err := d.writeLock.lock(ctx, delivering); err != nil {
		return false, err
	}
	defer d.writeLock.unlock()
	if err := d.busyTimeout(0); err != nil {
		return false, err
	}
	var frames, moved int
	err = d.write.queryRow("PRAGMA wal_checkpoint(TRUNCATE)", nil, &busy, &frames, &moved)
	return busy, errors.Join(err, d.busyTimeout(sqliteBusyTimeout))
}

// busyTimeout sets how long the writing connection waits for others. SQLite does so when it
// prepares the statement, which is therefore not kept.
func (d *sqliteDB) busyTimeout(milliseconds int) error {
	_, err := d.write.conn.ExecContext(context.Background(), fmt.Sprintf("PRAGMA busy_timeout = %d", milliseconds))
	return err
}
