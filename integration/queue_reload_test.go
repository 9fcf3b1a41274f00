package integration

import (
	"testing"
	"time"
)

// Reloads in the middle of load lose nothing and deliver nothing twice, whatever they
// change of routes, lanes and workers.
func TestQueueDeliversOnceAcrossReloads(t *testing.T) {
	const reloads, perReload = 10, 150
	p := newProcess(t)
	one, two := newTally(t, 20*time.Millisecond), newTally(t, 0)
	configs := []setup{
		p.queued("route conversation.* as talk to "+one.address, "workers 32"),
		p.queued("route conversation.* as talk to "+two.address, "workers 4"),
		p.queued("route contact.* to "+one.address+"\nroute * as rest to "+two.address, "lane rest { workers 8 }"),
		p.queued("route conversation.user.* as user to "+one.address+"\nroute conversation.* as talk to "+two.address, "lane user { workers 16 }"),
	}
	p.start(configs[0])
	load := p.burst(topic, 8, 2*time.Millisecond)
	for i := range reloads {
		// reloads follow the load, not the clock
		load.waitFor(t, load.answers.Load()+perReload)
		p.reload(configs[(i+1)%len(configs)])
	}
	stored := load.end()
	stored = append(stored, load.resend(p)...)
	if n := len(load.unsure); n > 8*reloads {
		t.Errorf("%d were not answered, want at most one of each sender at a reload", n)
	}
	wantAll(t, stored, one, two)
	p.idle()
	wantNoneTwice(t, one, two)
	if len(load.others) > 0 {
		t.Errorf("not answered with 200: %v", load.others)
	}
	t.Logf("%d stored and delivered once, over %d reloads", len(stored), reloads)
}

// Where a notification goes is decided anew at each attempt, so that a better config
// saves what has piled up, also in lanes that it no longer has.
func TestQueueBacklogFollowsTheConfig(t *testing.T) {
	for name, lane := range map[string]string{"of a lane that stays": "talk", "of a lane that vanished": "new"} {
		t.Run(name, func(t *testing.T) {
			const n = 20
			p, b := newProcess(t), newTally(t, 0)
			p.start(p.queued("route * as talk to "+nobody, ""))
			var stored []string
			for range n {
				stored = append(stored, p.post(topic))
			}
			p.wantDeliveries("talk", "retrying", n) // all have failed once
			p.reload(p.queued("route * as "+lane+" to "+b.address, ""))
			wantAll(t, stored, b)
			p.idle()
			wantNoneTwice(t, b)
			p.wantDeliveries("talk", "delivered", n)
			wantAll(t, []string{p.post(topic)}, b)
		})
	}
}

// A notification that no route fits is kept as a dead letter.
func TestQueueKeepsWhatIsUnrouted(t *testing.T) {
	p, b := newProcess(t), newTally(t, 0)
	p.start(p.queued("route contact.* to "+b.address, ""))
	id := p.post(topic)
	p.wantMetric(`queue_deliveries{lane="unrouted",state="dead"}`, 1)
	p.wantMetric(`queue_attempts_total{lane="unrouted",result="unrouted"}`, 1)
	if n := b.count(id); n != 0 {
		t.Errorf("it was delivered %d times", n)
	}
	warned := p.lines("warn", "dead letter")
	if len(warned) != 1 || warned[0].text("id") != id {
		t.Errorf("warnings: %v", warned)
	}
}

// The route by which a notification was stored can be gone when its turn comes.
func TestQueueKeepsWhatTheConfigNoLongerRoutes(t *testing.T) {
	const n = 3
	p, b := newProcess(t), newTally(t, 0)
	p.start(p.queued("route conversation.* as talk to "+nobody, ""))
	for range n {
		p.post(topic)
	}
	p.reload(p.queued("route contact.* to "+b.address, ""))
	p.wantDeliveries("talk", "dead&reason=unrouted", n)
}
