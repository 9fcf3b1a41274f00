//go:build postgres

package integration

import "testing"

func TestPostgresCopies(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	testCopies(t, newProcess(t), db.queued)
}

func TestPostgresCopiesAreNeverLost(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	testCopiesAreNeverLost(t, newProcess(t), db.queued, 4)
}
