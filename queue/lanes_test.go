package queue

import (
	"context"
	"runtime"
	"sync"
	"testing"
)

// A lane that is made while delivering stops would claim for ever, and closing the queue
// waits for it.
func TestNoLaneIsMadeAfterDeliveringHasStopped(t *testing.T) {
	for range 300 {
		d := &dispatcher{held: newHeldJobs(), lanes: make(map[string]*lane)}
		d.finisher = newFinisher(d)
		d.ctx, d.cancel = context.WithCancel(t.Context())
		d.attachments = []attachments{{"intercom": newTestAttachment(d, Options{}, &fakeTarget{lanes: []string{"support"}})}}
		d.mu.Lock()
		var both sync.WaitGroup
		for _, one := range []func(){d.updateLanes, func() { d.stopDelivering(t.Context()) }} {
			both.Go(one)
			for range 20 {
				runtime.Gosched() // until it waits for the lock
			}
		}
		d.mu.Unlock()
		both.Wait()
		for _, lane := range d.allLanes() {
			if !lane.retired {
				t.Errorf("lane %s goes on", lane.queue)
			}
		}
		d.cancel()
		if t.Failed() {
			return
		}
	}
}
