package worker

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	const ms = time.Millisecond
	quick := paceWindowCounts{paceWindow, 200, 10 * ms, 100, 50} // 1,000 deliveries a second
	slow := paceWindowCounts{paceWindow, 200, 100 * ms, 300, 50}
	for _, c := range []struct {
		name    string
		start   pace
		windows int
		window  paceWindowCounts
		least   float64 // of the rate
		most    float64
	}{
		{"quick answers limit nothing", pace{usual: 1000}, 100, quick, 0, 0},
		{"one slow window limits nothing", pace{usual: 1000}, patientLimit - 1, slow, 0, 0},
		{"slow windows limit to a part of what was usual", pace{usual: 1000}, patientLimit, slow, 650, 750},
		{"the rate falls by 30 % a window", pace{rate: 1000, slow: patientLimit}, 3, slow, 340, 345},
		{"no lane starves", pace{rate: 1000, slow: patientLimit}, 40, slow, slowestPace, slowestPace},
		{"quick windows raise it", pace{rate: 500}, 3, quick, 660, 670},
		{"a limit that nothing needs is ended", pace{rate: 500}, 20, quick, 0, 0},
		{"a window without answers changes nothing", pace{rate: 500}, 10, paceWindowCounts{paceWindow, 0, 0, 300, 20}, 500, 500},
		{"few notifications at once need no limit, however slow the disk is", pace{usual: 40}, 100, paceWindowCounts{paceWindow, 40, 80 * ms, 64, 30}, 0, 0},
		{"few notifications at once end it", pace{rate: 500}, 1, paceWindowCounts{paceWindow, 0, 0, 3, 20}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.start
			for range c.windows {
				p = p.next(c.window)
			}
			if p.rate < c.least || p.rate > c.most {
				t.Errorf("the rate is %.1f, want %.0f to %.0f", p.rate, c.least, c.most)
			}
		})
	}
}

func TestThePacerStartsWhatThePaceAllows(t *testing.T) {
	now := time.Now()
	p := newPacer()
	p.last = now
	starts := func() (n int) {
		for n < 10_000 && p.mayStart() {
			n++
		}
		return n
	}
	slowWindow := func() {
		for range 100 {
			p.storing()
		}
		for range 100 {
			p.answered(time.Second)
		}
		now = now.Add(paceWindow)
		p.adjust(now)
	}
	if starts() != 10_000 {
		t.Error("deliveries are limited from the start")
	}
	slowWindow()
	if starts() != 10_000 {
		t.Error("deliveries are limited after one slow window")
	}
	slowWindow()
	limit := starts()
	for range 40 {
		slowWindow()
	}
	if slowest := starts(); limit == 10_000 || limit <= slowest || slowest != int(slowestPace*paceWindow.Seconds()) {
		t.Errorf("%d may start in the first window, and %d in the last", limit, slowest)
	}
	if soon := p.soon(); soon > slowestPace/10+1 {
		t.Errorf("room for %d", soon)
	}
	now = now.Add(paceWindow)
	if p.adjust(now); starts() != 10_000 {
		t.Error("deliveries are still limited when nothing is stored any more")
	}
}
