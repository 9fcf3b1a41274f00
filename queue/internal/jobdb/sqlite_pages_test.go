package jobdb

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// smallFile returns an SQLite file with small pages, rows that do not fit into one, and
// free pages.
func smallFile(tb testing.TB) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "small.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=page_size(512)")
	if err != nil {
		tb.Fatal(err)
	}
	for _, statement := range []string{
		`CREATE TABLE t (id integer PRIMARY KEY, body text)`,
		`INSERT INTO t SELECT value, printf('%.*c', value * 37, 'x') FROM json_each('[1, 2, 3, 4, 5, 10, 20, 40, 80, 100]')`,
		`DELETE FROM t WHERE id IN (3, 20, 80)`,
	} {
		if _, err := db.ExecContext(tb.Context(), statement); err != nil {
			tb.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		tb.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return content
}

func scrubFile(file []byte) error {
	const size = 512
	read := func(n uint32) ([]byte, error) {
		if n == 0 || int64(n)*size > int64(len(file)) {
			return nil, errors.New("no such page")
		}
		return append([]byte{}, file[(n-1)*size:n*size]...), nil
	}
	pages, err := openPages(read)
	if err != nil {
		return err
	}
	for n := uint32(1); int64(n)*size <= int64(len(file)); n++ {
		err := pages.scrub(n, func(n uint32, page []byte) error {
			copy(file[(n-1)*size:], page)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func TestScrubSmallPages(t *testing.T) {
	file := smallFile(t)
	count := func() (n int) {
		for _, b := range file {
			if b == 'x' {
				n++
			}
		}
		return n
	}
	const kept, slack = (1 + 2 + 4 + 5 + 10 + 40 + 100) * 37, 2 // an x in the schema
	if before := count(); before <= kept+slack {
		t.Fatalf("%d letters before, want some of deleted rows", before)
	}
	if err := scrubFile(file); err != nil {
		t.Fatal(err)
	}
	if after := count(); after < kept || after > kept+slack {
		t.Errorf("%d letters after, want %d", after, kept)
	}
}

func FuzzSQLitePages(f *testing.F) {
	file := smallFile(f)
	f.Add(file)
	f.Add(file[:1024])
	f.Fuzz(func(_ *testing.T, file []byte) {
		_ = scrubFile(file) // must neither panic nor go on for ever
	})
}
