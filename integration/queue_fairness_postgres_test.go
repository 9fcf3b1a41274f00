//go:build postgres

package integration

import "testing"

func TestPostgresIsFair(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	b := newSequence(t)
	config := db.queued("route * to "+b.address, "workers 4\ndelivery_timeout 10m")
	testFairness(t, b, startPgProcess(t, config), startPgProcess(t, config))
}
