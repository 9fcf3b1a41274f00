package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/load"
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
		return sendLoad{}, usagef("count %d must be at least 1", l.count)
	}
	if l.rate < 0 {
		return sendLoad{}, usagef("rate %g must not be below 0", l.rate)
	}
	return l, nil
}

func (l sendLoad) plan() load.Plan {
	plan := load.Plan{Count: l.count, Rate: l.rate, AtOnce: 1}
	if l.rate > 0 {
		plan.AtOnce = maxInFlight
	}
	return plan
}

// run sends the load, prints the progress, and returns the tally. When ctx is done, it ends
// early, and does not count the requests that were interrupted.
func (l sendLoad) run(ctx context.Context, s *sender, progress io.Writer) *sendTally {
	t := &sendTally{statuses: make(map[int]int), took: load.NewDurations()}
	start := time.Now()
	results := load.Start(ctx, l.plan(), func(ctx context.Context, _ time.Time) sendResult { return s.send(ctx) })
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

// sendTally sums up what was sent.
type sendTally struct {
	elapsed  time.Duration
	sent     int
	bytes    uint64
	ok       int
	statuses map[int]int
	noAnswer int
	firstErr error           // of those without an answer
	took     *load.Durations // of those with an answer
	late     int             // over intercom.PriorityTimeout, but not intercom.AnswerTimeout
	tooLate  int             // over intercom.AnswerTimeout, with or without an answer
}

func (t *sendTally) add(r sendResult) {
	t.sent++
	t.bytes += uint64(r.Bytes) //nolint:gosec // a length
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
	t.statuses[r.Status]++
	t.took.Add(r.took)
	if r.ok() {
		t.ok++
	}
}

// MarshalJSON implements json.Marshaler.
func (t *sendTally) MarshalJSON() ([]byte, error) {
	of := struct {
		Sent     int         `json:"sent"`
		OK       int         `json:"ok"`
		Seconds  float64     `json:"seconds"`
		Bytes    uint64      `json:"bytes"`
		Statuses map[int]int `json:"statuses"`
		NoAnswer int         `json:"no_answer"`
		Late     int         `json:"over_500ms"`
		TooLate  int         `json:"over_5s"`
		P50      float64     `json:"p50_seconds"`
		P99      float64     `json:"p99_seconds"`
		Max      float64     `json:"max_seconds"`
	}{Sent: t.sent, OK: t.ok, Seconds: t.elapsed.Seconds(), Bytes: t.bytes, Statuses: t.statuses, NoAnswer: t.noAnswer, Late: t.late, TooLate: t.tooLate}
	if t.took.Len() > 0 {
		of.P50, of.P99, of.Max = t.took.Percentile(50).Seconds(), t.took.Percentile(99).Seconds(), t.took.Max().Seconds()
	}
	return json.Marshal(of)
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
	if t.took.Len() > 0 {
		fmt.Fprintf(w, "p50 %s, p99 %s, max %s\n", roundTime(t.took.Percentile(50)), roundTime(t.took.Percentile(99)), roundTime(t.took.Max()))
	}
	if t.late > 0 {
		fmt.Fprintf(w, "%s took over 500ms: Intercom gives the endpoint a lower priority\n", comma(t.late))
	}
	if t.tooLate > 0 {
		fmt.Fprintf(w, "%s took over 5s: Intercom gives up, and tries again once\n", comma(t.tooLate))
	}
}
