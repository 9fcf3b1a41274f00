//go:build load

package integration

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// orderedBackend takes what is about an object one after the other. It reports two at once, and
// one that came after a newer one and is not tagged as stale.
type orderedBackend struct {
	address string

	mu                         sync.Mutex
	running                    map[string]bool
	newest                     map[string]int
	taken                      map[string]bool // by id
	together, inversions       int
	stale, repeated, attempted int
}

// what a notification says in its id: the object, and the second in which it was created.
func newOrderedBackend(t *testing.T) *orderedBackend {
	t.Helper()
	b := &orderedBackend{running: make(map[string]bool), newest: make(map[string]int), taken: make(map[string]bool)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Intercom-Notification-Id")
		var object string
		var created int
		if _, err := fmt.Sscanf(id, "notif-%d-%s", &created, &object); err != nil {
			t.Errorf("id %q", id)
		}
		b.mu.Lock()
		if b.attempted++; b.running[object] {
			b.together++
		}
		b.running[object] = true
		b.mu.Unlock()
		time.Sleep(rand.N(4 * time.Millisecond))
		b.mu.Lock()
		defer b.mu.Unlock()
		b.running[object] = false
		if rand.IntN(50) == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		stale := r.Header.Get("X-Intercom-Stale") == "true"
		if created < b.newest[object] && !stale {
			b.inversions++
		}
		if stale {
			b.stale++
		}
		if b.taken[id] {
			b.repeated++
		}
		b.newest[object], b.taken[id] = max(b.newest[object], created), true
	}))
	t.Cleanup(server.Close)
	b.address = server.Listener.Addr().String()
	return b
}

const (
	orderedCount   = 20_000
	orderedObjects = 400
	orderedPace    = 500 // a second
)

const orderedLane = "lane default {\nordered hold 2s\nworkers 64\n}"

// sendOrdered sends notifications, shuffled within 2 s, to gateways in turns, and each until it
// is stored.
func sendOrdered(t *testing.T, gateways ...*process) (stored func() bool) {
	t.Helper()
	var sending sync.WaitGroup
	var done atomic.Bool
	order := make([]int, orderedCount)
	for i := range order {
		order[i] = i
	}
	for i := range order {
		k := min(i+rand.IntN(2*orderedPace), orderedCount-1)
		if rand.IntN(2) == 0 {
			order[i], order[k] = order[k], order[i]
		}
	}
	places := make(chan int, 64)
	for n := range 64 {
		sending.Go(func() {
			for at := range places {
				body := fmt.Appendf(nil, `{"type":"notification_event","app_id":"tulip4","data":{"item":{"type":"conversation","id":"%d","body":%q}},`+
					`"id":"notif-%d-%d","topic":%q,"created_at":%d}`, at%orderedObjects, strings.Repeat("x", 2000), at, at%orderedObjects, topic, 1_780_000_000+at)
				for try := n; ; try++ {
					if answer, err := gateways[try%len(gateways)].try(signed(body)); err == nil && answer.status == http.StatusOK {
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	go func() {
		ticker := time.NewTicker(time.Second / orderedPace)
		defer ticker.Stop()
		for _, at := range order {
			places <- at
			<-ticker.C
		}
		close(places)
		sending.Wait()
		done.Store(true)
	}()
	return done.Load
}

func (b *orderedBackend) want(t *testing.T, p *process, stored func() bool) {
	t.Helper()
	within(t, 5*time.Minute, "all are stored", stored)
	within(t, 3*time.Minute, "all are delivered", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.taken) == orderedCount
	})
	p.idle()
	b.mu.Lock()
	defer b.mu.Unlock()
	t.Logf("%d notifications of %d objects in %d attempts: %d stale, %d twice", orderedCount, orderedObjects, b.attempted, b.stale, b.repeated)
	if b.inversions > 0 || b.together > 0 {
		t.Errorf("%d came after a newer one of their object without being tagged, and %d while another one ran", b.inversions, b.together)
	}
}

// The order of 400 objects holds while the process is killed, stopped and reloaded.
func TestTheOrderHoldsThroughKills(t *testing.T) {
	p, b := newProcess(t), newOrderedBackend(t)
	s := p.queued("route * to "+b.address, orderedLane)
	p.start(s)
	stored := sendOrdered(t, p)
	for n := range 9 {
		time.Sleep(rand.N(4 * time.Second))
		switch n % 3 {
		case 0:
			p.kill()
			p.start(s)
		case 1:
			p.reload(p.queued("route * to "+b.address, strings.Replace(orderedLane, "64", "63", 1)))
		default:
			p.stop()
			p.start(s)
		}
	}
	b.want(t, p, stored)
}
