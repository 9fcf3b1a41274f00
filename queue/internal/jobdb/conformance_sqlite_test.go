package jobdb

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	_ "modernc.org/sqlite"
)

func TestSQLiteConforms(t *testing.T) {
	conform(t, engine{
		create: func(t *testing.T) database {
			return &sqliteFile{path: filepath.Join(t.TempDir(), "jobs.db")}
		},
		broken: []brokenValue{
			{"args cut as text", "args", `'{"n": 1'`},
			{"args cut as JSONB", "args", "x'fc'"}, // the head of a JSONB object, without its size
			{"errors cut as text", "errors", `'[{"at": "2026'`},
			{"errors cut as JSONB", "errors", "x'fb'"},
			{"metadata cut as JSONB", "metadata", "x'fc'"},
			{"attempted_by cut as JSONB", "attempted_by", "x'fb'"},
			{"attempted_by that are an object", "attempted_by", "'{}'"},
			{"attempted_by that are a string", "attempted_by", `'"x"'`},
			{"metadata with another age", "metadata", `'{"age_from": {"a": 1}}'`},
			{"metadata with an age that is no time", "metadata", `'{"age_from": "x"}'`},
			{"a time that is none", "created_at", "'x'"},
			{"a due time that is none", "scheduled_at", "'x'"},
		},
	})
}

// sqliteFile is a file that one instance at a time has open.
type sqliteFile struct {
	path string
	db   *sql.DB // of the suite itself
}

func (f *sqliteFile) open(t *testing.T) *instance {
	t.Helper()
	logger, logs := newLogs()
	db, err := OpenSQLite(t.Context(), f.path, logger)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	closed := false
	end := func() {
		if !closed {
			closed = true
			if err := db.Close(); err != nil {
				t.Errorf("closing: %v", err)
			}
		}
	}
	t.Cleanup(end)
	return &instance{DB: db, logs: logs, die: end}
}

func (f *sqliteFile) own(t *testing.T) *sql.DB {
	t.Helper()
	if f.db == nil {
		var err error
		f.db, err = sql.Open("sqlite", "file:"+f.path+"?_txlock=immediate&_pragma=busy_timeout(10000)")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.db.Close() })
	}
	return f.db
}

func (f *sqliteFile) exec(t *testing.T, statement string) {
	t.Helper()
	if _, err := f.own(t).ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func (f *sqliteFile) rows(t *testing.T) []row {
	t.Helper()
	found, err := f.own(t).QueryContext(t.Context(), `SELECT id, queue, kind, state,
		CASE WHEN json_valid(args, 9) THEN json(args) ELSE '' END,
		coalesce(hex(unique_key), ''),
		CASE WHEN json_valid(attempted_by, 9) THEN CASE json_type(attempted_by) WHEN 'array' THEN json(attempted_by) ELSE '[]' END ELSE '[]' END,
		CASE WHEN json_valid(tags, 9) THEN json(tags) ELSE '[]' END,
		attempt, max_attempts,
		CASE WHEN errors IS NULL THEN 0 WHEN json_valid(errors, 9) THEN json_array_length(errors) ELSE -1 END,
		coalesce((julianday(scheduled_at) - julianday('now')) * 86400, 0), finalized_at IS NOT NULL
		FROM river_job ORDER BY id`)
	if err != nil {
		t.Fatalf("reading the rows: %v", err)
	}
	defer found.Close()
	var rows []row
	for found.Next() {
		var id int64
		var text [7]string
		var attempt, maxAttempts, errorCount int
		var due float64
		var finalized bool
		if err := found.Scan(&id, &text[0], &text[1], &text[2], &text[3], &text[4], &text[5], &text[6],
			&attempt, &maxAttempts, &errorCount, &due, &finalized); err != nil {
			t.Fatalf("reading the rows: %v", err)
		}
		r, err := newRow(id, text, attempt, maxAttempts, errorCount, due, finalized)
		if err != nil {
			t.Fatalf("row %d: %v", id, err)
		}
		rows = append(rows, r)
	}
	if err := found.Err(); err != nil {
		t.Fatalf("reading the rows: %v", err)
	}
	return rows
}

func (f *sqliteFile) shift(t *testing.T, by time.Duration, where string, columns ...string) {
	t.Helper()
	modifier := fmt.Sprintf("'%+.3f seconds', 'subsec'", by.Seconds())
	if slices.Contains(columns, "scheduled_at") { // which the engine compares with this one
		f.exec(t, `UPDATE river_job SET metadata = json_set(metadata, '$.age_from', datetime(metadata ->> '$.age_from', `+modifier+`))
			WHERE metadata ->> '$.age_from' IS NOT NULL AND `+where)
	}
	for _, column := range columns {
		f.exec(t, "UPDATE river_job SET "+column+" = datetime("+column+", "+modifier+") WHERE "+column+" IS NOT NULL AND "+where)
	}
}

func (f *sqliteFile) client(t *testing.T) riverClient {
	t.Helper()
	client, err := river.NewClient(riversqlite.New(f.own(t)), &river.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
