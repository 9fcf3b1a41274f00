package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// notificationOf is a notification of another workspace than the usual one.
func notificationOf(workspace, id string) []byte {
	return bytes.Replace(notification(topic, id), []byte(`"app_id":"tulip4"`), fmt.Appendf(nil, `"app_id":%q`, workspace), 1)
}

func (p *process) postOf(workspace string) (id string) {
	p.t.Helper()
	id = newID()
	p.expect(http.StatusOK, signed(notificationOf(workspace, id)))
	return id
}

// sequence is a backend that keeps the order in which notifications come. Until it is
// released, it lets none go.
type sequence struct {
	*backend
	released chan struct{}
	mu       sync.Mutex
	ids      []string
}

func newSequence(t *testing.T) *sequence {
	s := &sequence{released: make(chan struct{})}
	s.backend = newBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-s.released:
		case <-r.Context().Done():
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ids = append(s.ids, r.Header.Get("X-Intercom-Notification-Id"))
	})
	return s
}

func (s *sequence) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids)
}

// testFairness stores a burst of one workspace while the backend hangs, and then a few
// notifications of others: they must not wait for the burst. The processes share a database.
func testFairness(t *testing.T, b *sequence, processes ...*process) {
	const burst, others = 800, 20
	var senders sync.WaitGroup
	for n := range 16 {
		p := processes[n%len(processes)]
		senders.Go(func() {
			for range burst / 16 {
				p.postOf("burst1")
			}
		})
	}
	senders.Wait()
	var late []string
	for n := range others {
		late = append(late, processes[n%len(processes)].postOf(fmt.Sprintf("other%d", n)))
	}
	close(b.released)
	within(t, longPatience, "all are delivered", func() bool { return len(b.taken()) >= burst+others })
	ids := b.taken()
	last := 0
	for _, id := range late {
		last = max(last, slices.Index(ids, id))
	}
	t.Logf("all others were delivered among the first %d of %d", last+1, len(ids))
	if last > burst/2 {
		t.Errorf("the last of the others was delivered as number %d of %d, so it waited for the burst: %s", last+1, len(ids), strings.Join(late, " "))
	}
}

func TestQueueIsFair(t *testing.T) {
	p := newProcess(t)
	b := newSequence(t)
	p.start(p.queued("route * to "+b.address, "workers 4\ndelivery_timeout 10m"))
	testFairness(t, b, p)
}

func TestQueueIsFairAfterARestart(t *testing.T) {
	p := newProcess(t)
	hanging := newBackend(t, hang)
	p.start(p.queued("route * as all to "+hanging.address, "workers 4\ndelivery_timeout 10m"))
	for range 500 {
		p.postOf("burst1")
	}
	late := p.postOf("other1")
	p.kill()
	b := newSequence(t)
	close(b.released)
	p.start(p.queued("route * as all to "+b.address, "workers 1"))
	within(t, longPatience, "the other workspace's notification is delivered", func() bool { return slices.Contains(b.taken(), late) })
	if place := slices.Index(b.taken(), late); place > 100 {
		t.Errorf("it was delivered as number %d", place+1)
	}
}
