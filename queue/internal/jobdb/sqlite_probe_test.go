package jobdb

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap"
)

func openForProbe(t *testing.T) *sqliteDB {
	t.Helper()
	db, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db.(*sqliteDB)
}

func TestSQLiteProbeFailsWhereStoringFails(t *testing.T) {
	t.Run("the file is full", func(t *testing.T) {
		d := openForProbe(t)
		if err := d.write.exec("VACUUM"); err != nil { // or else there are free pages in it
			t.Fatal(err)
		}
		var pages int
		if err := d.write.queryRow("PRAGMA max_page_count = 1", nil, &pages); err != nil { // as many as there are
			t.Fatal(err)
		}
		if err := d.Probe(t.Context()); err == nil {
			t.Error("no error")
		}
		if err := d.write.queryRow("PRAGMA max_page_count = 100000", nil, &pages); err != nil {
			t.Fatal(err)
		}
		if err := d.Probe(t.Context()); err != nil {
			t.Errorf("after there is room: %v", err)
		}
	})
	t.Run("an fsync has failed", func(t *testing.T) {
		d := openForProbe(t)
		d.stop() // the maintenance, which mends it
		d.maintained.Wait()
		d.log.failed = true
		if err := d.Probe(t.Context()); !errors.Is(err, errSyncFailed) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("the file was moved", func(t *testing.T) {
		d := openForProbe(t)
		if err := os.Rename(d.path, d.path+".away"); err != nil {
			t.Fatal(err)
		}
		if err := d.Probe(t.Context()); !errors.Is(err, errReplaced) {
			t.Errorf("error %v", err)
		}
	})
}
