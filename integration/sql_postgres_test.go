//go:build postgres

package integration

import "testing"

func TestSQLOfTheDocsInPostgres(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	testSQL(t, "PostgreSQL", newProcess(t), db.queued, sqlQueue{
		run:  func(statements string) { t.Helper(); db.exec(statements) },
		text: func(query string) string { t.Helper(); return db.text("SELECT (" + query + ")::text") },
	})
}
