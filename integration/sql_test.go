package integration

import (
	"bytes"
	"database/sql"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// sqlOfTheDocs returns the statements of the docs for an engine: those that begin with
// its name, as a comment, and those with no name.
func sqlOfTheDocs(t *testing.T, engine string) []string {
	t.Helper()
	var statements []string
	for _, b := range docsOf(t, "sql") {
		named := strings.HasPrefix(b.text, "-- SQLite\n") || strings.HasPrefix(b.text, "-- PostgreSQL\n")
		if !named || strings.HasPrefix(b.text, "-- "+engine+"\n") {
			statements = append(statements, b.text)
		}
	}
	return statements
}

// somebody is whose notifications are looked for.
const somebody = "somebody@example.com"

// postWith sends a new notification with a person's address in it, which must be stored.
// The text behind it makes the body so long that its length has a zero byte in it.
func (p *process) postWith(address string) string {
	p.t.Helper()
	id := newID()
	body := bytes.Replace(notification(topic, id), []byte(`"links":{}`), fmt.Appendf(nil, `"links":{"email":%q,"text":%q}`, address, strings.Repeat("x", 65536)), 1)
	p.expect(http.StatusOK, signed(body))
	return id
}

// sqlQueue is a database that the statements of the docs are run in, while Caddy runs.
type sqlQueue struct {
	run    func(statements string)
	text   func(query string) string
	copied string // the name of the copy, as statements have it
}

// testSQL runs a setup whose routes have one backend and lanes of one attempt, and then
// the statements of the docs.
func testSQL(t *testing.T, engine string, p *process, queued func(routes, options string) setup, q sqlQueue) {
	t.Helper()
	b := newAnsweringTally(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	p.start(queued("route * to "+b.address, "max_attempts 1"))
	theirs, other := p.postWith(somebody), p.postWith("another@example.com")
	size := "length(args)"
	if engine == "PostgreSQL" {
		size = "length(args::text)"
	}
	count := func(and string) string {
		t.Helper()
		return q.text("SELECT count(*) FROM river_job WHERE " + size + " > 65536" + and)
	}
	discarded := func() bool { return count(" AND state = 'discarded'") == "2" }
	within(t, longPatience, "both are dead letters", discarded)

	load := p.burst("ticket.created", 1, 0) // which keeps writing
	defer load.end()
	load.waitFor(t, 20)
	for _, statements := range sqlOfTheDocs(t, engine) {
		q.run(statements)
		switch {
		case strings.Contains(statements, "SET state = 'available'"):
			within(t, longPatience, "both are tried again", func() bool { return b.count(theirs) == 2 && b.count(other) == 2 && discarded() })
		case strings.Contains(statements, "SELECT id FROM river_job"):
			_, query, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(statements), ";"), "\n")
			if got, want := q.text(query), q.text("SELECT min(id) FROM river_job WHERE "+size+" > 65536"); got != want {
				t.Errorf("found the job %s, want %s, with\n%s", got, want, statements)
			}
		case strings.Contains(statements, "VACUUM INTO"):
			db, err := sql.Open("sqlite", q.copied)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			var check string
			var jobs int
			if err := db.QueryRow("PRAGMA integrity_check").Scan(&check); err != nil || check != "ok" {
				t.Errorf("the copy: %s, %v", check, err)
			}
			if err := db.QueryRow("SELECT count(*) FROM river_job").Scan(&jobs); err != nil || jobs < 20 {
				t.Errorf("the copy has %d jobs, %v", jobs, err)
			}
		default:
			t.Errorf("this test does not know what to expect of\n%s", statements)
		}
	}
}

func TestSQLOfTheDocsInSQLite(t *testing.T) {
	p := newProcess(t)
	copied := filepath.Join(p.dir, "copy.db")
	open := func() *sql.DB {
		db, err := sql.Open("sqlite", "file:"+p.store+"?_pragma=busy_timeout(10000)")
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		t.Cleanup(func() { db.Close() })
		return db
	}
	testSQL(t, "SQLite", p, p.queued, sqlQueue{
		run: func(statements string) {
			t.Helper()
			db := open()
			defer db.Close()
			if _, err := db.Exec(strings.ReplaceAll(statements, "'copy.db'", "'"+copied+"'")); err != nil {
				t.Fatalf("%s: %v", statements, err)
			}
		},
		text: func(query string) (value string) {
			t.Helper()
			db := open()
			defer db.Close()
			if err := db.QueryRow(query).Scan(&value); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			return value
		},
		copied: copied,
	})
}
