package queue

import (
	"context"
	"time"
)

const (
	// A portion of a change has the size that takes about portionTime. So the database is
	// never kept from storing for longer.
	portionTime  = 15 * time.Millisecond
	firstPortion = 20

	// A pause is at least latencyShare times as long as an answer takes, so that few answers
	// wait for a portion when the disk or the processors are busy.
	latencyShare = 4

	maxPortion = 500
)

// pace makes a change that consists of many portions slow enough for what is stored and
// delivered at the same time.
type pace struct {
	size int // of the next portion
	most int // the largest size

	rate  float64 // a second; 0: without limit
	began time.Time
	done  int
}

// newPace returns a pace that adapts the size of the portions to how long they take.
func newPace(most int, rate float64) *pace {
	p := &pace{most: most, rate: rate, began: time.Now()}
	p.resize(firstPortion)
	return p
}

// wait adapts the size of the next portion to how long the last one of n jobs took. Then it
// pauses for as long as that. It pauses for longer while answers to Intercom have a high
// latency, and if the portion was too large for the rate.
func (p *pace) wait(ctx context.Context, n int, took, latency time.Duration) error {
	p.done += n
	switch {
	case took < portionTime/2:
		p.resize(p.size * 2)
	case took > 2*portionTime:
		p.resize(p.size / 2)
	}
	pause := max(took, latencyShare*latency)
	if p.rate > 0 {
		due := p.began.Add(time.Duration(float64(p.done) / p.rate * float64(time.Second)))
		pause = max(pause, time.Until(due))
	}
	return sleep(ctx, pause)
}

func (p *pace) resize(size int) {
	p.size = max(1, min(size, p.most))
	if p.rate > 0 { // a portion is at most what a second may have
		p.size = max(1, min(p.size, int(p.rate)))
	}
}

// sleep pauses, or returns the cause of the context's end.
func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
