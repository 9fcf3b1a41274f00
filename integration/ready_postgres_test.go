//go:build postgres

package integration

import (
	"strings"
	"testing"
)

// It is ready as long as PostgreSQL is there and answers.
func TestPostgresReady(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	network := startPgProxy(t, pgShared)
	s := db.behind(network, "route * { respond 200 }")
	s.behind = "intercom_ready " + readyURI
	p := startPgProcess(t, s)
	p.wantReady(true)
	network.Retarget(nobody)
	network.Cut()
	p.wantReady(false)
	if got := p.readyReason(); !strings.Contains(got, "PostgreSQL at 127.0.0.1") || strings.Contains(got, "sslmode") {
		t.Errorf("reason %s", got)
	}
	network.Retarget(pgShared)
	p.wantReady(true)

	network.Stall(replies)
	p.wantReady(false)
	network.Resume()
	p.wantReady(true)

	db.exec("ALTER DATABASE " + db.name + " SET default_transaction_read_only = on")
	network.Cut() // connections that are open keep the setting that they began with
	p.wantReady(false)
	db.exec("SET default_transaction_read_only = off; ALTER DATABASE " + db.name + " SET default_transaction_read_only = off")
	network.Cut()
	p.wantReady(true)
}
