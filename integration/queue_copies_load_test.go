//go:build load

package integration

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// A copy whose backend hangs leaves the route's deliveries and the answers as they are.
func TestLoadBesideACopyThatHangs(t *testing.T) {
	p := newProcess(t)
	var mu sync.Mutex
	taken := make(map[string]time.Time)
	b := newBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		taken[r.Header.Get("X-Intercom-Notification-Id")] = time.Now()
	})
	hanging := newBackend(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	route := "route * to " + b.address
	measure := func(what string) {
		const perSecond, n = 200, 2000
		answers, lags := make([]time.Duration, n), make([]time.Duration, n)
		var sending sync.WaitGroup
		ids, stored := make([]string, n), make([]time.Time, n)
		begin := time.Now()
		for i := range n {
			at := begin.Add(time.Duration(i) * time.Second / perSecond)
			time.Sleep(time.Until(at))
			sending.Go(func() {
				ids[i] = p.post(topic)
				stored[i], answers[i] = time.Now(), time.Since(at)
			})
		}
		sending.Wait()
		within(t, longPatience, "all are delivered", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return !slices.ContainsFunc(ids, func(id string) bool { return taken[id].IsZero() })
		})
		for i, id := range ids {
			lags[i] = max(0, taken[id].Sub(stored[i]))
		}
		for name, took := range map[string][]time.Duration{"answers": answers, "from the answer to the delivery": lags} {
			slices.Sort(took)
			t.Logf("%s, %s: p50 %s, p99 %s, longest %s", what, name, took[n/2], took[n*99/100], took[n-1])
		}
		if p99 := answers[n*99/100]; p99 > 500*time.Millisecond {
			t.Errorf("%s: p99 of the answers is %s", what, p99)
		}
		if p99 := lags[n*99/100]; p99 > time.Second {
			t.Errorf("%s: p99 of the deliveries is %s", what, p99)
		}
	}
	p.start(p.queued(route, "delivery_timeout 1h"))
	t.Cleanup(p.kill) // or else the backend that hangs would wait for it
	measure("without a copy")
	p.reload(p.queued(route+"\ncopy * to "+hanging.address, "delivery_timeout 1h"))
	measure("beside a copy that hangs")
}
