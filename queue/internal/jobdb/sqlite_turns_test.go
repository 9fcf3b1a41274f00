package jobdb

import (
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestSQLiteTurnsSearchTheIndex(t *testing.T) {
	db, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	d := db.(*sqliteDB) //nolint:forcetypeassert // it was opened so
	for name, c := range map[string]struct {
		query string
		args  []any
		uses  map[string]int
	}{
		"workspaces": {sqliteWorkspaces, []any{"q", 1, "[]", "a", 16}, map[string]int{
			"(queue=? AND priority=? AND <expr>>?)": 3, "(queue=? AND priority=?)": 1,
		}},
		"shares": {sqliteShares, []any{"q", 1, "[]", `["a"]`, 16}, map[string]int{
			"(queue=? AND priority=? AND <expr>=?)": 1, "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)": 1,
		}},
		"the oldest": {sqliteOldest, []any{"q", 16}, map[string]int{
			"USING INDEX river_job_prioritized_fetching_index (state=? AND queue=?)": 1,
		}},
	} {
		rows, err := d.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+c.query, c.args...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		text := strings.Join(plan, "\n")
		for use, n := range c.uses {
			if got := strings.Count(text, use); got != n {
				t.Errorf("%s: %q %d times, want %d:\n%s", name, use, got, n, text)
			}
		}
		if strings.Contains(text, "SCAN river_job") || strings.Contains(text, "SCAN job") {
			t.Errorf("%s: there is a scan of all:\n%s", name, text)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
}
