//go:build load

package integration

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// arrivals sends new notifications of a topic at a steady rate, whatever the answers
// are, and returns how long each took, the longest last. Any answer but 200 fails the
// test.
func (p *process) arrivals(topic string, perSecond int, lasting time.Duration) []time.Duration {
	p.t.Helper()
	const senders = 128
	due := make(chan time.Time, senders)
	var mu sync.Mutex
	var took []time.Duration
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() {
			for at := range due {
				answer, err := p.try(signed(notification(topic, newID())))
				if err != nil || answer.status != http.StatusOK {
					p.t.Errorf("answer %d (%v), want 200", answer.status, err)
				}
				mu.Lock()
				took = append(took, time.Since(at)) // from when it was to be sent
				mu.Unlock()
			}
		})
	}
	begin := time.Now()
	for i := range int(lasting.Seconds() * float64(perSecond)) {
		at := begin.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		time.Sleep(time.Until(at))
		due <- at
	}
	close(due)
	sending.Wait()
	slices.Sort(took)
	return took
}

// wantP99 measures until all but one in a hundred took less than a limit, three times
// at most: what else runs on the machine only ever adds to it.
func wantP99(t *testing.T, what string, limit time.Duration, measure func() []time.Duration) {
	t.Helper()
	for range 3 {
		took := measure()
		p50, p99 := took[len(took)/2], took[len(took)*99/100]
		t.Logf("%s: %d, p50 %s, p99 %s, longest %s", what, len(took), p50, p99, took[len(took)-1])
		if p99 < limit {
			return
		}
	}
	t.Errorf("%s: p99 is never under %s", what, limit)
}

func TestLoadOfABacklogDoesNotDelayAnswers(t *testing.T) {
	const backlog = 50_000
	p := newProcess(t)
	hanging := newBackend(t, hang)
	held := p.queued("route * as all to "+hanging.address, "workers 1")
	p.start(held)
	wantP99(t, "answers while a backlog is worked off", 100*time.Millisecond, func() []time.Duration {
		p.reload(held)
		p.arrivals("content_stat.series", 2500, backlog/2500*time.Second)
		p.wantAtLeast(`queue_deliveries{lane="all",state="waiting"}`, backlog*9/10)
		const delivered = `queue_attempts_total{lane="all",result="delivered"}`
		done := p.scrape()[delivered]

		p.reload(p.queued("route * as all { respond 200 }", "workers 16"))
		took := p.arrivals("conversation.user.replied", 500, 10*time.Second)
		p.wantAtLeast(delivered, done+5000) // or nothing was worked off
		p.idle()
		return took
	})
}

func TestLoadOfManyArrivals(t *testing.T) {
	p := newProcess(t)
	p.start(p.queued("route * as all { respond 200 }", ""))
	wantP99(t, "answers at 2,500/s", 200*time.Millisecond, func() []time.Duration {
		return p.arrivals("content_stat.series", 2500, 20*time.Second)
	})
	p.idle()
}

func TestLoadOfOneLaneDoesNotDelayAnother(t *testing.T) {
	p := newProcess(t)
	received := make(chan time.Time, 1)
	talk := newBackend(t, func(http.ResponseWriter, *http.Request) { received <- time.Now() })
	p.start(p.queued("route conversation.* to "+talk.address+"\nroute content_stat.* as statistics { respond 200 }", ""))
	wantP99(t, "from storing to delivery beside a burst of 20,000", time.Second, func() []time.Duration {
		var burst sync.WaitGroup
		burst.Go(func() { p.arrivals("content_stat.series", 2500, 8*time.Second) })
		var took []time.Duration
		for range 60 {
			time.Sleep(100 * time.Millisecond)
			stored := time.Now()
			p.post("conversation.user.replied")
			took = append(took, (<-received).Sub(stored))
		}
		burst.Wait()
		slices.Sort(took)
		return took
	})
}

func (p *process) wantAtLeast(name string, least float64) {
	p.t.Helper()
	within(p.t, longPatience, name, func() bool { return p.scrape()[name] >= least })
}
