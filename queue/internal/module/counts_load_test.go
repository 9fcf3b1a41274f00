//go:build load

package module_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// Counts were 14 to 29 s old with so many deliveries.
func TestCountsAreAsOfNowAtAnySize(t *testing.T) {
	const many, more = 335_000, 20
	for engine, open := range databases {
		t.Run(engine, func(t *testing.T) {
			q, _ := manyDeliveries(t, open(t), many, db.Dead, true)
			count := func(state string) float64 {
				t.Helper()
				deliveries, _ := q.get("/lanes").lines[0]["deliveries"].(map[string]any)
				n, _ := deliveries[state].(float64)
				return n
			}
			if n := count("dead"); n != many {
				t.Fatalf("%v dead letters are counted, want %d", n, many)
			}
			began := time.Now()
			for i := range more {
				q.store("a.b", "support", fmt.Sprint("new_", i))
				if n := count("waiting"); n != float64(i+1) {
					t.Errorf("right after %d were stored, %v wait", i+1, n)
				}
			}
			q.want(q.post("/deliveries/drop?notification=notif_7"), 1, 1, 0)
			if n := count("dead"); n != many-1 {
				t.Errorf("right after one was dropped, %v are dead, want %d", n, many-1)
			}
			t.Logf("%d counts took %s", more+1, time.Since(began))
		})
	}
}
