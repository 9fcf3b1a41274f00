package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
)

const (
	// busyTimeout is how long the writing connection waits for other programs. It is less
	// than the time in which Intercom wants its answer.
	busyTimeout = 3 * time.Second

	// maxRows is how many rows a transaction changes at most, so that none keeps storing
	// from the write lock for long.
	maxRows = 200

	// maxHold is how long a transaction goes on to change rows if a person has asked for it.
	// Then storing has its turn.
	maxHold = 5 * time.Millisecond
)

// writer is the one connection on which all writing is done, by the one who holds the write
// lock.
type writer struct {
	path   string
	logger *zap.Logger
	pool   *sql.DB
	conn   *sql.Conn

	lock      writeLock
	run       *statements // needs the lock. Its calls take no context: they are short, and to watch one costs a goroutine
	contended atomic.Bool // another program held SQLite's write lock when it was wanted last
}

func newWriter(ctx context.Context, path string, pool *sql.DB, logger *zap.Logger) (*writer, error) {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return &writer{path: path, logger: logging.OncePerSecond(logger), pool: pool, conn: conn, run: newStatements(conn.PrepareContext)}, nil
}

// transaction runs do in a transaction, when it is this kind of work's turn.
func (w *writer) transaction(ctx context.Context, kind work, do func() error) error {
	if err := w.lock.lock(ctx, kind); err != nil {
		if w.contended.Load() {
			return fmt.Errorf("%w (%w)", w.errContended(), err)
		}
		return err
	}
	defer w.lock.unlock()
	if err := w.begin(); err != nil {
		return err
	}
	err := do()
	if err == nil {
		_, err = w.run.exec(context.Background(), "COMMIT")
	}
	if err != nil {
		// SQLite may have rolled back by itself, as it does on a full disk
		_, _ = w.run.exec(context.Background(), "ROLLBACK")
	}
	return err
}

// exec runs one statement in a transaction of its own, and returns how many rows it has changed.
func (w *writer) exec(ctx context.Context, query string, args ...any) (changed int64, err error) {
	err = w.transaction(ctx, delivering, func() (err error) {
		changed, err = w.run.exec(context.Background(), query, args...)
		return err
	})
	return changed, err
}

func (w *writer) begin() error {
	_, err := w.run.exec(context.Background(), "BEGIN IMMEDIATE")
	busy := isCode(err, sqlite3.SQLITE_BUSY)
	w.contended.Store(busy)
	if busy {
		w.logger.Warn("another program holds the write lock of the queue's database: end it, or let it commit", zap.String("path", w.path))
		return fmt.Errorf("%w (%w)", w.errContended(), err)
	}
	return err
}

func (w *writer) errContended() error {
	return fmt.Errorf("another program holds the write lock of %s: end it, or let it commit", w.path)
}

// inBatches calls do with each number below n, in short transactions, and committed after
// each of these, when durable has returned. In between it pauses for as long as the
// transaction and the disk took: what storing has to wait for is the disk, more than the
// write lock.
func (w *writer) inBatches(ctx context.Context, durable func() error, n int, do func(i int) error, committed func()) error {
	for next := 0; next < n; {
		began := time.Now()
		err := w.transaction(ctx, delivering, func() error {
			for end := time.Now().Add(maxHold); ; {
				if err := do(next); err != nil {
					return err
				}
				if next++; next == n || time.Now().After(end) {
					return nil
				}
			}
		})
		if err != nil {
			return err
		}
		if err := durable(); err != nil {
			return err
		}
		committed()
		if next < n {
			if err := pause(ctx, time.Since(began)); err != nil {
				return err
			}
		}
	}
	return nil
}

// setBusyTimeout sets how long the connection waits for others. SQLite does so when it
// prepares the statement, which is therefore not kept.
func (w *writer) setBusyTimeout(timeout time.Duration) error {
	_, err := w.conn.ExecContext(context.Background(), fmt.Sprintf("PRAGMA busy_timeout = %d", timeout.Milliseconds()))
	return err
}

func (w *writer) close() error {
	return errors.Join(w.run.close(), w.conn.Close(), w.pool.Close())
}

// pause returns after some time, or with an error if the context ends before.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// isCode reports whether an error is one of SQLite's with one of these primary codes.
func isCode(err error, codes ...int) bool {
	reply, ok := errors.AsType[*driver.Error](err)
	if !ok {
		return false
	}
	for _, code := range codes {
		if reply.Code()&0xff == code {
			return true
		}
	}
	return false
}
