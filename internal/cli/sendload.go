package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/time/rate"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// maxInFlight is how many notifications may wait for their answer at the same time.
const maxInFlight = 32

// sendLoad sends a number of notifications, one after the other or at a rate.
type sendLoad struct {
	count int
	rate  float64 // per second; 0: each when the one before it is answered
}

func newSendLoad(fl caddycmd.Flags) (sendLoad, error) {
	l := sendLoad{count: fl.Int("count"), rate: fl.Float64("rate")}
	if l.count < 1 {
		return sendLoad{}, fmt.Errorf("count %d must be at least 1", l.count)
	}
	if l.rate < 0 {
		return sendLoad{}, fmt.Errorf("rate %g must not be below 0", l.rate)
	}
	return l, nil
}

// run sends the load, prints the progress, and returns the tally. When ctx is done, it ends
// early, and does not count the requests that were interrupted.
func (l sendLoad) run(ctx context.Context, s *sender, progress io.Writer) *sendTally {
	t := &sendTally{statuses: make(map[int]int)}
	start := time.Now()
	results := l.start(ctx, s)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case r, more := <-results:
			if !more {
				t.elapsed = time.Since(start)
				return t
			}
			if !errors.Is(r.err, context.Canceled) {
				t.add(r)
			}
		case <-tick.C:
			fmt.Fprintf(progress, "%s of %s sent, %s not answered with a 2xx\n", comma(t.sent), comma(l.count), comma(t.sent-t.ok))
		}
	}
}

// start sends the load in the background and returns the results as they come.
func (l sendLoad) start(ctx context.Context, s *sender) <-chan sendResult {
	limiter, senders := rate.NewLimiter(rate.Inf, 0), 1
	if l.rate > 0 {
		// A burst has the notifications of 10ms: timers are too coarse to send each at its
		// own time at high rates.
		limiter, senders = rate.NewLimiter(rate.Limit(l.rate), max(1, int(l.rate/100))), maxInFlight
	}

	turns := make(chan struct{})
	go func() {
		defer close(turns)
		for range l.count {
			if limiter.Wait(ctx) != nil {
				return
			}
			turns <- struct{}{}
		}
	}()

	results := make(chan sendResult)
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for range turns {
				results <- s.send(ctx)
			}
		})
	}
	go func() {
		wg.Wait()
		close(results)
	}()
	return results
}

// sendTally sums up what was sent.
type sendTally struct {
	elapsed  time.Duration
	sent     int
	bytes    uint64
	ok       int
	statuses map[int]int
	noAnswer int
	firstErr error           // of those without an answer
	took     []time.Duration // of those with an answer
	late     int             // over intercom.PriorityTimeout, but not intercom.AnswerTimeout
	tooLate  int             // over intercom.AnswerTimeout, with or without an answer
}

func (t *sendTally) add(r sendResult) {
	t.sent++
	t.bytes += uint64(r.size) //nolint:gosec // a length
	if r.took > intercom.AnswerTimeout {
		t.tooLate++
	} else if r.took > intercom.PriorityTimeout {
		t.late++
	}
	if r.err != nil {
		t.noAnswer++
		if t.firstErr == nil {
			t.firstErr = r.err
		}
		return
	}
	t.statuses[r.status]++
	t.took = append(t.took, r.took)
	if r.ok() {
		t.ok++
	}
}

func (t *sendTally) report(w io.Writer) {
	fmt.Fprintf(w, "%s sent in %s (%.1f per second), %s\n",
		comma(t.sent), roundTime(t.elapsed), float64(t.sent)/t.elapsed.Seconds(), humanize.Bytes(t.bytes))
	for _, status := range slices.Sorted(maps.Keys(t.statuses)) {
		fmt.Fprintf(w, "%8s  %s\n", comma(t.statuses[status]), statusText(status))
	}
	if t.noAnswer > 0 {
		fmt.Fprintf(w, "%8s  no answer, the first: %v\n", comma(t.noAnswer), t.firstErr)
	}
	if len(t.took) > 0 {
		slices.Sort(t.took)
		fmt.Fprintf(w, "p50 %s, p99 %s, max %s\n", roundTime(percentile(t.took, 50)), roundTime(percentile(t.took, 99)), roundTime(percentile(t.took, 100)))
	}
	if t.late > 0 {
		fmt.Fprintf(w, "%s took over 500ms: Intercom gives the endpoint a lower priority\n", comma(t.late))
	}
	if t.tooLate > 0 {
		fmt.Fprintf(w, "%s took over 5s: Intercom gives up, and tries again once\n", comma(t.tooLate))
	}
}

// percentile returns the smallest of the sorted durations that p percent of them
// do not exceed.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[(len(sorted)*p+99)/100-1]
}
