package jobdb

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
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

// withoutMaintenance ends the maintenance of an instance, which makes checkpoints and mends.
func withoutMaintenance(i *instance) *sqliteDB {
	db := i.DB.(*sqliteDB)
	db.stop()
	db.maintained.Wait()
	return db
}

// A checkpoint that a reader keeps from moving all does not synchronize the database file,
// and the next one leaves out what it has moved. So pages were lost that the system could
// not write in between, although the log had them.
func TestSQLiteAfterAFailedSyncOfTheDatabase(t *testing.T) {
	for name, mends := range map[string]bool{"goes on": true, "is closed": false} {
		t.Run(name, func(t *testing.T) {
			f := &sqliteFile{path: filepath.Join(t.TempDir(), "jobs.db")}
			i := f.open(t)
			db := withoutMaintenance(i)
			ids := i.mustStore(t, newJobs(100)...)
			if err := db.checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(f.path)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, i.mustStore(t, newJobs(100)...)...)
			reader, err := db.read.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var count int
			if err := reader.QueryRowContext(t.Context(), "SELECT count(*) FROM river_job").Scan(&count); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, i.mustStore(t, newJobs(1)...)...)

			db.log.database = failingFile(t)
			if err := db.checkpoint(t.Context()); !errors.Is(err, os.ErrClosed) {
				t.Errorf("the checkpoint: %v, want the error of the sync", err)
			}
			db.log.database = db.file
			if _, err := i.Store(t.Context(), func() []*NewJob { return newJobs(1) }); !errors.Is(err, errSyncFailed) {
				t.Errorf("storing: %v, want %v", err, errSyncFailed)
			}
			if err := db.checkpoint(t.Context()); !errors.Is(err, errSyncFailed) {
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
			if _, err := db.file.WriteAt(lost, 0); err != nil {
				t.Fatal(err)
			}

			if mends {
				if err := db.mend(t.Context()); err != nil {
					t.Fatal(err)
				}
				ids = append(ids, i.mustStore(t, newJob(0))...)
			}
			i.die()
			i = f.open(t)
			var verdict string
			if err := f.own(t).QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
				t.Errorf("the file is corrupt: %s (%v)", verdict, err)
			}
			if jobs := i.claimAll(t); len(jobs) != len(ids) {
				t.Errorf("%d jobs of %d are there", len(jobs), len(ids))
			}
		})
	}
}

// A disk that does not work for long does not make the log longer with each try.
func TestSQLiteRewritesTheLogOnce(t *testing.T) {
	f := &sqliteFile{path: filepath.Join(t.TempDir(), "jobs.db")}
	i := f.open(t)
	db := withoutMaintenance(i)
	i.mustStore(t, newJobs(100)...)
	db.log.incomplete = true
	size := db.log.size()
	var sizes []int64
	for range 3 {
		if err := db.rewriteLogged(t.Context()); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, db.log.size())
	}
	if sizes[0] <= size || sizes[2] != sizes[0] {
		t.Errorf("the log had %d bytes, and then %v", size, sizes)
	}
}

// SQLite takes nothing for moved if its checkpoint fails, so the log does not have to be written
// again; but nothing is stored until a checkpoint has succeeded.
func TestSQLiteAfterAFailedCheckpoint(t *testing.T) {
	i := (&sqliteFile{path: filepath.Join(t.TempDir(), "jobs.db")}).open(t)
	db := withoutMaintenance(i)
	failure := ioError(t)
	if err := db.backfill(func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("the checkpoint: %v, want %v", err, failure)
	}
	if _, err := i.Store(t.Context(), func() []*NewJob { return newJobs(1) }); !errors.Is(err, errSyncFailed) {
		t.Errorf("storing: %v, want %v", err, errSyncFailed)
	}
	if db.log.incomplete {
		t.Error("the log is to be written again")
	}
	if err := db.mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.mustStore(t, newJob(0))
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
