//go:build load && postgres

package integration

import (
	"testing"
	"time"
)

// The order of 400 objects holds over two Caddys, while one after the other is killed, reloaded,
// and cut off from the database for so long that the other one takes over.
func TestTheOrderHoldsOnPostgres(t *testing.T) {
	b, database := newOrderedBackend(t), newPgDatabase(t, pgShared)
	direct := database.queued("route * to "+b.address, orderedLane)
	proxy, err := startTCPProxy(pgShared)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	behind := pgQueued("route * to "+b.address, "postgres://postgres@"+proxy.Addr()+"/"+database.name, orderedLane)
	one, other := startPgProcess(t, direct), startPgProcess(t, behind)
	stored := sendOrdered(t, one, other)
	time.Sleep(3 * time.Second)
	one.kill()
	time.Sleep(2 * time.Second)
	one.start(direct)
	time.Sleep(2 * time.Second)
	proxy.Stall(replies)
	time.Sleep(45 * time.Second)
	proxy.Resume()
	one.reload(direct)
	other.stop()
	other.start(behind)
	b.want(t, one, stored)
}
