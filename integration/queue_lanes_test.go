package integration

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A backend that hangs, one that fails and one that is gone each slow down their own
// lane. The log tells once of each that it is bad, and once that it is back.
func TestQueueLanesAreIndependent(t *testing.T) {
	const bad, healthy = 10, 300
	var back atomic.Bool
	unlessBack := func(answer http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !back.Load() {
				answer(w, r)
			}
		}
	}
	hanging := newBackend(t, unlessBack(hang))
	failing := newBackend(t, unlessBack(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
	}))
	good := newTally(t, 0)
	p := newProcess(t)
	config := func(gone string) setup {
		return p.queued("route conversation.* as hanging to "+hanging.address+
			"\nroute contact.* as failing to "+failing.address+
			"\nroute ticket.* as gone to "+gone+
			"\nroute company.* as healthy to "+good.address,
			"delivery_timeout 500ms\nworkers 4")
	}
	p.start(config(nobody))
	topics := map[string]string{
		"hanging": "conversation.user.created",
		"failing": "contact.user.created",
		"gone":    "ticket.created",
	}
	for range bad {
		for _, topic := range topics {
			p.post(topic)
		}
	}

	began := time.Now()
	load := p.burst("company.created", 4, time.Millisecond)
	load.waitFor(t, healthy)
	stored := load.end()
	wantAll(t, stored, good)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the healthy lane took %s for %d notifications", took, len(stored))
	}

	const down, up = "lane is down", "lane is not down any more"
	sent := bad
	within(t, longPatience, "all lanes are down", func() bool { // which takes ten seconds of failures
		for _, topic := range topics {
			p.post(topic)
		}
		sent++
		time.Sleep(500 * time.Millisecond)
		return len(p.lines("warn", down)) >= len(topics)
	})
	wantTold(t, p, "warn", down, topics)
	back.Store(true)
	p.reload(config(good.address))
	p.adminLines("POST", "/deliveries/retry?state=retrying") // as some are due only later
	within(t, longPatience, "no lane is down", func() bool { return len(p.lines("info", up)) >= len(topics) })
	p.adminLines("POST", "/deliveries/retry?state=retrying") // what was under way then
	p.idle()
	wantTold(t, p, "info", up, topics)
	wantTold(t, p, "warn", down, topics)
	for lane := range topics {
		p.wantDeliveries(lane, "delivered", sent)
	}
}

// wantTold asserts that the log tells of each lane once.
func wantTold(t *testing.T, p *process, level, text string, lanes map[string]string) {
	t.Helper()
	told := make(map[string]int)
	for _, line := range p.lines(level, text) {
		told[line.text("lane")]++
	}
	for lane := range lanes {
		if told[lane] != 1 {
			t.Errorf("%q of lane %s stands %d times in the log, want 1", text, lane, told[lane])
		}
	}
	if len(told) != len(lanes) {
		t.Errorf("%q of lanes %v", text, told)
	}
}

// A backend that asks to be left alone for a while is.
func TestQueueHonoursRetryAfter(t *testing.T) {
	const pause = 4 * time.Second
	var mu sync.Mutex
	var attempts []time.Time
	b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if attempts = append(attempts, time.Now()); len(attempts) == 1 {
			w.Header().Set("Retry-After", "4")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	p := newProcess(t)
	p.start(p.queued("route * to "+b.address, ""))
	p.post(topic)
	within(t, longPatience, "the second attempt", func() bool { return len(b.all()) == 2 })
	p.idle()
	b.wantCount(t, 2)
	mu.Lock()
	defer mu.Unlock()
	// the database counts from a moment after the answer
	if waited := attempts[1].Sub(attempts[0]); waited < pause-10*time.Millisecond {
		t.Errorf("the second attempt came after %s, want %s", waited, pause)
	} else {
		t.Logf("the second attempt came after %s", waited.Round(time.Millisecond))
	}
}

// The last attempt makes a dead letter, be it the last by number or by age.
func TestQueueMakesADeadLetterAfterTheLastAttempt(t *testing.T) {
	for name, c := range map[string]struct {
		option   string
		attempts int
		reason   string
	}{
		"by number, of 1": {"max_attempts 1", 1, "attempts"},
		"by number, of 2": {"max_attempts 2", 2, "attempts"},
		"by age":          {"max_age 1ms", 1, "age"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(10 * time.Millisecond) // an attempt may be faster than the smallest max_age
				w.WriteHeader(http.StatusInternalServerError)
			})
			p := newProcess(t)
			p.start(p.queued("route * as all to "+b.address, c.option))
			id := p.post(topic)
			p.wantMetric(`queue_deliveries{lane="all",state="dead"}`, 1)
			p.wantMetric(`queue_attempts_total{lane="all",result="`+c.reason+`"}`, 1)
			p.wantDeliveries("all", "dead&reason="+c.reason, 1)
			b.wantCount(t, c.attempts)
			warned := p.lines("warn", "dead letter")
			if len(warned) != 1 || warned[0].text("id") != id {
				t.Errorf("warnings: %v", warned)
			}
			p.idle()
			// it stays known, so that Intercom does not send it past its end
			p.expect(http.StatusOK, signed(notification(topic, id)))
			p.wantMetric(`notifications_total{outcome="duplicate",topic="`+topic+`"}`, 1)
		})
	}
}
