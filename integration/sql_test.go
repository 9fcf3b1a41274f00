package integration

import (
	"bytes"
	"database/sql"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
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

// testSQL runs a setup whose route fails for two notifications, in lanes of one attempt, and
// delivers others, and then the statements of the docs. Each query must find something.
func testSQL(t *testing.T, engine string, p *process, queued func(routes, options string) setup, q sqlQueue) {
	t.Helper()
	b := newAnsweringTally(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Intercom-Topic") == topic {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	p.start(queued("route * to "+b.address, "max_attempts 1"))
	theirs, other := p.postWith(somebody), p.postWith("another@example.com")
	p.awaitListed("state=dead", theirs, other)

	load := p.burst("ticket.created", 1, 0) // which keeps writing
	defer load.end()
	load.waitFor(t, 20)
	for _, statements := range sqlOfTheDocs(t, engine) {
		statements = strings.ReplaceAll(statements, "notif_5e7c0ffe", theirs)
		query := statements
		for strings.HasPrefix(query, "--") {
			_, query, _ = strings.Cut(query, "\n")
		}
		query = strings.TrimSuffix(strings.TrimSpace(query), ";")
		switch {
		case strings.HasPrefix(query, "SELECT"):
			found, err := strconv.Atoi(q.text("SELECT count(*) FROM (" + query + ") AS found"))
			if err != nil || found == 0 {
				t.Errorf("nothing is found (%v) with\n%s", err, statements)
			}
			if strings.Contains(query, somebody) {
				if id := q.text("SELECT notification_id FROM (" + query + ") AS found"); found != 1 || id != theirs {
					t.Errorf("%d are found, of which one is %s, want %s alone, with\n%s", found, id, theirs, statements)
				}
			}
		case strings.HasPrefix(query, "VACUUM INTO"):
			q.run(statements)
			wantCopy(t, q.copied)
		case strings.HasPrefix(query, "UPDATE"):
			q.run(statements) // of an endpoint that is not there
		default:
			t.Errorf("this test does not know what to expect of\n%s", statements)
		}
	}
}

// wantCopy asserts that a file is a whole copy of the database.
func wantCopy(t *testing.T, file string) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var check string
	var notifications int
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&check); err != nil || check != "ok" {
		t.Errorf("the copy: %s, %v", check, err)
	}
	if err := db.QueryRow("SELECT count(*) FROM notification").Scan(&notifications); err != nil || notifications < 20 {
		t.Errorf("the copy has %d notifications, %v", notifications, err)
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
