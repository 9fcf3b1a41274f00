//go:build load

package integration

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// testLoadOfOneWorkspace measures how long notifications of 199 workspaces wait beside a
// burst of one. The processes share a database, and the burst.
func testLoadOfOneWorkspace(t *testing.T, start func(upstream string) []*process) {
	var mu sync.Mutex
	taken := make(map[string]time.Time)
	b := newBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		taken[r.Header.Get("X-Intercom-Notification-Id")] = time.Now()
	})
	at := func(id string) time.Time {
		mu.Lock()
		defer mu.Unlock()
		return taken[id]
	}
	processes := start(b.address)
	wantP99(t, "from storing to delivery beside a burst of 20,000 of another workspace", time.Second, func() []time.Duration {
		var bursts sync.WaitGroup
		for _, p := range processes {
			bursts.Go(func() { p.arrivals(topic, 2500/len(processes), 8*time.Second) })
		}
		ids, stored := make([]string, 400), make([]time.Time, 400)
		for n := range ids {
			time.Sleep(20 * time.Millisecond)
			ids[n] = processes[n%len(processes)].postOf(fmt.Sprintf("other%03d", n%199))
			stored[n] = time.Now()
		}
		bursts.Wait()
		var took []time.Duration
		for n, id := range ids {
			within(t, longPatience, "all are delivered", func() bool { return !at(id).IsZero() })
			took = append(took, max(0, at(id).Sub(stored[n])))
		}
		processes[0].idle()
		slices.Sort(took)
		return took
	})
}

func TestLoadOfOneWorkspace(t *testing.T) {
	testLoadOfOneWorkspace(t, func(upstream string) []*process {
		p := newProcess(t)
		p.start(p.queued("route * to "+upstream, ""))
		return []*process{p}
	})
}
