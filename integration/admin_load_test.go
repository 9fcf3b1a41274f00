//go:build load

package integration

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"
)

func TestLoadOfTheAdminAPIDoesNotDelayAnswers(t *testing.T) {
	const deadLetters = 10_000
	p := newProcess(t)
	p.client.Timeout = 10 * time.Minute
	p.start(p.queued("route conversation.* as talk { respond 200 }\nroute * as all { respond 500 }", "max_attempts 1"))
	dead := `queue_deliveries{lane="all",state="dead"}`
	wantP99(t, "answers while dead letters are listed, retried and erased", 100*time.Millisecond, func() (took []time.Duration) {
		p.arrivals("content_stat.series", 2000, deadLetters/2000*time.Second)
		p.wantAtLeast(dead, deadLetters)
		p.answersBeside("nothing, to compare with", func() { time.Sleep(5 * time.Second) })
		took = append(took, p.answersBeside("listing", func() {
			n := 0
			for cursor := ""; ; {
				lines := p.adminLines("GET", "/deliveries?state=dead&limit=1000"+cursor)
				n += len(lines)
				next, more := lines[len(lines)-1]["cursor"]
				if !more {
					break
				}
				cursor = "&cursor=" + url.QueryEscape(fmt.Sprint(next))
			}
			if n < deadLetters {
				t.Errorf("%d lines, want one for each of %d", n, deadLetters)
			}
		})...)
		took = append(took, p.answersBeside("retrying", func() { p.wantChange("/deliveries/retry?state=dead", deadLetters) })...)
		p.wantAtLeast(dead, deadLetters)
		took = append(took, p.answersBeside("erasing", func() { p.wantChange("/deliveries/erase?lane=all", deadLetters) })...)
		slices.Sort(took)
		return took
	})
}

// answersBeside sends 50 notifications a second until something is done, and returns how long
// the answers took, the longest last.
func (p *process) answersBeside(what string, do func()) (took []time.Duration) {
	p.t.Helper()
	began, ended := time.Now(), make(chan struct{})
	go func() {
		defer close(ended)
		do()
	}()
	for running := true; running; {
		took = append(took, p.arrivals("conversation.user.replied", 50, time.Second)...)
		select {
		case <-ended:
			running = false
		default:
		}
	}
	slices.Sort(took)
	p.t.Logf("%s: %s, %d answers, p50 %s, p99 %s", what, time.Since(began).Round(time.Second), len(took), took[len(took)/2], took[len(took)*99/100])
	return took
}
