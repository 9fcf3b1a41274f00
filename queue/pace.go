package queue

import (
	"context"
	"time"
)

const (
	// A batch of a change has the size that takes about changeBatchTime. So the database is
	// never kept from storing for longer.
	changeBatchTime  = 15 * time.Millisecond
	firstChangeBatch = 20

	// A pause is at least latencyShare times as long as an answer takes, so that few answers
	// wait for a batch when the disk or the processors are busy.
	latencyShare = 4

	maxChangeBatch = 500
)

// pace makes a change that consists of many batches slow enough for what is stored and
// delivered at the same time.
type pace struct {
	size int // of the next batch
	most int // the largest size

	rate  float64 // a second; 0: without limit
	began time.Time
	done  int
}

// newPace returns a pace that adapts the size of the batches to how long they take.
func newPace(most int, rate float64) *pace {
	p := &pace{most: most, rate: rate, began: time.Now()}
	p.resize(firstChangeBatch)
	return p
}

// wait adapts the size of the next batch to how long the last one of n jobs took. Then it
// pauses for as long as that. It pauses for longer while answers to Intercom have a high
// latency, and if the batch was too large for the rate.
func (p *pace) wait(ctx context.Context, n int, took, latency time.Duration) error {
	p.done += n
	switch {
	case took < changeBatchTime/2:
		p.resize(p.size * 2)
	case took > 2*changeBatchTime:
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
	if p.rate > 0 { // a batch is at most what a second may have
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
