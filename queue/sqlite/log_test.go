package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// failingFile returns a file whose sync fails.
func failingFile(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "failing"))
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

// endMaintenance ends what makes checkpoints and mends.
func (i *instance) endMaintenance() *writeAheadLog {
	i.log.stop()
	i.log.maintained.Wait()
	return i.log
}

func (i *instance) checkpoint(t *testing.T) error {
	t.Helper()
	_, err := i.log.checkpoint(t.Context(), "PASSIVE")
	return err
}

// An fsync that has failed once succeeds the next time, but what it was for is not on the disk.
func TestNothingIsAcknowledgedAfterAFailedSync(t *testing.T) {
	f := newFile(t)
	i := f.open(t)
	log := i.endMaintenance()
	i.store(t, notes(3)...)
	file := log.file
	handle, err := syscall.Open(f.path+"-wal", 0x200000, 0) // O_PATH: it cannot be synchronized
	if err != nil {
		t.Fatal(err)
	}
	log.file = os.NewFile(uintptr(handle), f.path+"-wal")
	if err := i.storeError(t); !errors.Is(err, syscall.EBADF) {
		t.Errorf("storing while the sync fails: %v", err)
	}
	if err := log.file.Close(); err != nil {
		t.Fatal(err)
	}
	log.file = file
	if err := i.storeError(t); !errors.Is(err, errSyncFailed) {
		t.Errorf("storing: %v, want %v", err, errSyncFailed)
	}
	if _, err := i.Heartbeat(t.Context(), db.Presence{}); !errors.Is(err, errSyncFailed) {
		t.Errorf("the heartbeat: %v, want %v", err, errSyncFailed)
	}
	if err := log.maintainOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log.size() != 0 {
		t.Error("the log was not emptied")
	}
	i.store(t, notes(1)...)
}

// A checkpoint that a reader keeps from moving all does not synchronize the database file,
// and the next one leaves out what it has moved. So pages were lost that the system could
// not write in between, although the log had them.
func TestAfterAFailedSyncOfTheDatabase(t *testing.T) {
	for name, mends := range map[string]bool{"goes on": true, "is closed": false} {
		t.Run(name, func(t *testing.T) {
			f := newFile(t)
			i := f.open(t)
			log := i.endMaintenance()
			ids := i.store(t, notes(100)...)
			if err := i.checkpoint(t); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(f.path)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, i.store(t, notes(100)...)...)
			reader, err := i.readPool.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var count int
			if err := reader.QueryRowContext(t.Context(), "SELECT count(*) FROM delivery").Scan(&count); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, i.store(t, notes(1)...)...)

			log.database = failingFile(t)
			if err := i.checkpoint(t); !errors.Is(err, os.ErrClosed) {
				t.Errorf("the checkpoint: %v, want the error of the sync", err)
			}
			log.database = i.file
			if err := i.storeError(t); !errors.Is(err, errSyncFailed) {
				t.Errorf("storing: %v, want %v", err, errSyncFailed)
			}
			if err := i.checkpoint(t); !errors.Is(err, errSyncFailed) {
				t.Errorf("the next checkpoint: %v, want %v", err, errSyncFailed)
			}
			if err := reader.Rollback(); err != nil {
				t.Fatal(err)
			}
			after, err := os.ReadFile(f.path)
			if err != nil {
				t.Fatal(err)
			}
			if len(after) <= len(before) {
				t.Fatal("nothing was moved into the database: the test shows nothing")
			}
			lost := slices.Concat(before, make([]byte, len(after)-len(before)))
			if _, err := i.file.WriteAt(lost, 0); err != nil {
				t.Fatal(err)
			}

			if mends {
				if err := log.mend(t.Context()); err != nil {
					t.Fatal(err)
				}
				ids = append(ids, i.store(t, notes(1)...)...)
			}
			i.end()
			f.open(t)
			f.wantIntact(t)
			if n := f.count(t, "delivery JOIN body USING (notification)"); n != len(ids) {
				t.Errorf("%d of %d are there", n, len(ids))
			}
		})
	}
}

// A disk that does not work for long does not make the log longer with each try.
func TestTheLogIsRewrittenOnce(t *testing.T) {
	i := newFile(t).open(t)
	log := i.endMaintenance()
	i.store(t, notes(100)...)
	log.incomplete = true
	size := log.size()
	var sizes []int64
	for range 3 {
		if err := log.rewriteLogged(t.Context()); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, log.size())
	}
	if sizes[0] <= size || sizes[2] != sizes[0] {
		t.Errorf("the log had %d bytes, and then %v", size, sizes)
	}
}

// SQLite takes nothing for moved if its checkpoint fails, so the log does not have to be written
// again; but nothing is stored until a checkpoint has succeeded.
func TestAfterAFailedCheckpoint(t *testing.T) {
	i := newFile(t).open(t)
	log := i.endMaintenance()
	failure := ioError(t)
	if _, err := log.backfill(func() (progress, error) { return progress{}, failure }); !errors.Is(err, failure) {
		t.Errorf("the checkpoint: %v, want %v", err, failure)
	}
	if err := i.storeError(t); !errors.Is(err, errSyncFailed) {
		t.Errorf("storing: %v, want %v", err, errSyncFailed)
	}
	if log.incomplete {
		t.Error("the log is to be written again")
	}
	if err := log.mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.store(t, notes(1)...)
}

// ioError returns an error of SQLite for a file that cannot be read.
func ioError(t *testing.T) error {
	t.Helper()
	unreadable, err := sql.Open("sqlite", "file:/proc/self/mem?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer unreadable.Close()
	var n int
	err = unreadable.QueryRowContext(t.Context(), "SELECT count(*) FROM sqlite_master").Scan(&n)
	if err == nil {
		t.Fatal("no error")
	}
	return err
}

func TestReplacedFilesFailClosed(t *testing.T) {
	for _, suffix := range []string{"", "-wal"} {
		t.Run("queue.db"+suffix, func(t *testing.T) {
			f := newFile(t)
			i := f.open(t)
			i.store(t, notes(1)...)
			if err := os.Rename(f.path+suffix, f.path+".moved"); err != nil {
				t.Fatal(err)
			}
			if err := i.storeError(t); !errors.Is(err, errReplaced) {
				t.Errorf("storing: %v, want %v", err, errReplaced)
			}
			if err := os.WriteFile(f.path+suffix, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := i.storeError(t); !errors.Is(err, errReplaced) {
				t.Errorf("storing beside another file: %v, want %v", err, errReplaced)
			}
			if err := os.Rename(f.path+".moved", f.path+suffix); err != nil {
				t.Fatal(err)
			}
			i.store(t, notes(1)...)
		})
	}
}

// Before, the log grew without bound or notice while a shell had a transaction open, and was
// moved in one go, while answers waited.
func TestAReaderThatKeepsTheLog(t *testing.T) {
	f := newFile(t)
	i := f.open(t)
	log := i.endMaintenance()
	log.limits = limits{warn: 1 << 20, most: 4 << 20, checkpoint: 1 << 18}
	i.store(t, notes(1)...)
	other := f.other(t)
	execute(t, other, "BEGIN")
	var n int
	if err := other.QueryRowContext(t.Context(), "SELECT count(*) FROM notification").Scan(&n); err != nil {
		t.Fatal(err)
	}
	var refused error
	stored := 1
	for ; refused == nil && log.size() < 16<<20; stored += 50 {
		if err := log.maintainOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, refused = i.Store(t.Context(), func() []*db.NewNotification { return notes(50) })
	}
	stored -= 50
	if refused == nil || !strings.Contains(refused.Error(), "another process reads "+f.path) {
		t.Fatalf("storing with a log of %d bytes: %v", log.size(), refused)
	}
	if size := log.size(); size > 5<<20 {
		t.Errorf("the log has %d bytes", size)
	}
	if _, err := i.Heartbeat(t.Context(), db.Presence{}); err == nil {
		t.Error("the heartbeat says that notifications could be stored")
	}
	warnings := i.logs.FilterLevelExact(zap.WarnLevel).FilterMessageSnippet("another process reads the queue's database").All()
	if len(warnings) < 2 || len(warnings) > 5 {
		t.Errorf("%d warnings, want one for each MiB", len(warnings))
	} else if size, ok := warnings[0].ContextMap()["bytes"].(int64); !ok || size < 1<<20 {
		t.Errorf("warned with %v", warnings[0].ContextMap())
	}

	execute(t, other, "COMMIT")
	if err := log.maintainOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.store(t, notes(1)...)
	if n := f.count(t, "notification"); n != stored+1 {
		t.Errorf("%d notifications, want %d", n, stored+1)
	}
	if size := log.size(); size > checkpointSize {
		t.Errorf("the log still has %d bytes", size)
	}
}

// Most of the log is moved while others write: nobody waits while much of it is left.
func TestACheckpointLeavesTheLockWhileMuchIsLeft(t *testing.T) {
	f := newFile(t)
	i := f.open(t)
	log := i.endMaintenance()
	other := f.other(t)
	execute(t, other, "BEGIN")
	var n int
	if err := other.QueryRowContext(t.Context(), "SELECT count(*) FROM notification").Scan(&n); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < lockedPages+500; n += 1000 {
		i.store(t, notes(1000)...)
	}
	if err := i.write.lock.lock(t.Context(), storing); err != nil {
		t.Fatal(err)
	}
	kept, err := log.checkpoint(t.Context(), "PASSIVE")
	if !kept || err != nil {
		t.Errorf("kept %t (%v)", kept, err)
	}
	execute(t, other, "COMMIT")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := log.checkpoint(ctx, "PASSIVE"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the rest was moved without the lock (%v)", err)
	}
	var come progress
	if come, err = runCheckpoint(t.Context(), i.read, "PASSIVE"); err != nil || come.frames == 0 || come.moved != come.frames {
		t.Errorf("%+v (%v), want all moved", come, err)
	}
	i.write.lock.unlock()
	if kept, err := log.checkpoint(t.Context(), "PASSIVE"); kept || err != nil {
		t.Errorf("after the reader has gone: kept %t (%v)", kept, err)
	}
}
