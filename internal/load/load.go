// Package load makes load: it runs a function again and again, at a rate or as fast as
// it returns, and keeps how long things took in a histogram.
package load

import (
	"context"
	"sync"
	"time"
)

// Plan says when the function is run, how often, and how many run at once.
type Plan struct {
	// Arrivals per second. They come whether or not those before them are done (open
	// loop). 0: each of the AtOnce goes on when its last one is done (closed loop).
	Rate float64

	// How many run at once at most. Arrivals that find all of them busy wait.
	AtOnce int

	// How many there are in all. 0: until the duration is over.
	Count int

	// For how long new ones begin. 0: until there were Count.
	Duration time.Duration
}

// maxWaiting bounds how many arrivals wait for one of those before them.
const maxWaiting = 1 << 16

// Start runs do as planned, in the background, and returns the results as they come.
// The channel is closed after the last one and must be read until then. No further one
// begins when ctx is done.
//
// The function is told when its turn came. At a rate, that is when it arrived, even if
// it then had to wait: who measures from there does not overlook a stall.
func Start[R any](ctx context.Context, p Plan, do func(ctx context.Context, arrived time.Time) R) <-chan R {
	turns := p.turns(ctx)
	results := make(chan R)
	var running sync.WaitGroup
	for range max(1, p.AtOnce) {
		running.Go(func() {
			for arrived := range turns {
				if ctx.Err() != nil {
					return
				}
				if p.Rate == 0 {
					arrived = time.Now()
				}
				results <- do(ctx, arrived)
			}
		})
	}
	go func() {
		running.Wait()
		close(results)
	}()
	return results
}

// turns returns a channel with the time of each arrival.
func (p Plan) turns(ctx context.Context) <-chan time.Time {
	waiting := 0
	if p.Rate > 0 {
		waiting = maxWaiting
	}
	turns := make(chan time.Time, waiting)
	go func() {
		defer close(turns)
		var over <-chan time.Time
		if p.Duration > 0 {
			over = time.After(p.Duration)
		}
		pace := newPacer(p.Rate)
		defer pace.stop()
		for n := 0; p.Count == 0 || n < p.Count; n++ {
			select {
			case <-pace.next(n):
			case <-over:
				return
			case <-ctx.Done():
				return
			}
			select {
			case turns <- time.Now():
			case <-over:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return turns
}

// pacer tells when the next one arrives. One that was late does not delay those after it.
type pacer struct {
	began time.Time
	rate  float64
	timer *time.Timer
	now   chan time.Time // closed
}

func newPacer(rate float64) *pacer {
	p := &pacer{began: time.Now(), rate: rate, timer: time.NewTimer(0), now: make(chan time.Time)}
	close(p.now)
	return p
}

// next returns a channel that can be read when the nth arrives, counted from 0.
func (p *pacer) next(n int) <-chan time.Time {
	if p.rate == 0 {
		return p.now
	}
	due := p.began.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	wait := time.Until(due)
	if wait <= 0 {
		return p.now
	}
	p.timer.Reset(wait)
	return p.timer.C
}

func (p *pacer) stop() { p.timer.Stop() }
