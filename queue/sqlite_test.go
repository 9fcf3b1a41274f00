package queue

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFilesThatAreNoneOfOursAreRefusedAndLeftAlone(t *testing.T) {
	withSQL := func(statements ...string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			for _, statement := range statements {
				if _, err := db.ExecContext(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	ours := func(t *testing.T, path string) {
		db, err := openSQLite(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		make  func(*testing.T, string)
		error string
	}{
		{"another program's database", withSQL("CREATE TABLE notes (text)"), errForeign.Error()},
		{"another program's database, not yet used", withSQL("PRAGMA application_id = 7"), errForeign.Error()},
		{"no database", func(t *testing.T, path string) {
			if err := os.WriteFile(path, bytes.Repeat([]byte("not a database\n"), 1000), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "file is not a database"},
		{"a newer version's", func(t *testing.T, path string) {
			ours(t, path)
			withSQL("INSERT INTO river_migration (line, version) VALUES ('main', 99)")(t, path)
		}, errNewer.Error()},
		{"a damaged one", func(t *testing.T, path string) {
			ours(t, path)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			copy(content[len(content)/2:], bytes.Repeat([]byte("damage"), len(content)/16))
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "corrupt"},
		{"a cut one", func(t *testing.T, path string) {
			ours(t, path)
			if err := os.Truncate(path, 3*4096); err != nil {
				t.Fatal(err)
			}
		}, "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := newPath(t)
			c.make(t, path)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			db, err := openSQLite(t.Context(), path)
			if err == nil {
				db.close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.error) {
				t.Errorf("error %q, want %q", err, c.error)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

func TestOneProcessAtATime(t *testing.T) {
	path := newPath(t)
	db, err := openSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	// a lock of the same process on another open file is as good as another process's
	if other, err := openSQLite(t.Context(), path); !errors.Is(err, errLocked) {
		other.close()
		t.Errorf("error %v, want %v", err, errLocked)
	}
	if err := db.close(); err != nil {
		t.Fatal(err)
	}
	again, err := openSQLite(t.Context(), path)
	if err != nil {
		t.Fatalf("after the first has closed it: %v", err)
	}
	again.close()
}

func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new folder", "it's 100% new?#.db")
	db, err := openSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.close()
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) < 3 {
		t.Fatalf("files %v (%v), want the database, its log and the lock", files, err)
	}
	for _, file := range files {
		info, err := file.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 || !strings.HasPrefix(file.Name(), filepath.Base(path)) {
			t.Errorf("%s has mode %s", file.Name(), info.Mode())
		}
	}
}

func TestNothingIsStoredInALogThatIsNotTheDatabases(t *testing.T) {
	db, err := openSQLite(t.Context(), newPath(t))
	if err != nil {
		t.Fatal(err)
	}
	defer db.close()
	if err := db.sync(); err != nil {
		t.Errorf("while all is well: %v", err)
	}
	if err := os.Rename(db.logPath(), db.logPath()+" taken away"); err != nil {
		t.Fatal(err)
	}
	if err := db.sync(); !errors.Is(err, errLogReplaced) {
		t.Errorf("after the log is gone: %v", err)
	}
	if err := os.WriteFile(db.logPath(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := db.sync(); !errors.Is(err, errLogReplaced) {
		t.Errorf("after another has come: %v", err)
	}
}
