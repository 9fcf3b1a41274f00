package worker

import (
	"testing"
	"time"
)

// paceTest simulates windows of a pacer.
type paceTest struct {
	*pacer
	now time.Time
}

func newPaceTest() *paceTest {
	p := &paceTest{newPacer(), time.Now()}
	p.lastAdjust = p.now
	return p
}

// windows are windows in which so many notifications are stored at the same time, which takes so
// long, and in which deliveries start that want to. It returns how many started in the last one.
func (p *paceTest) windows(n, stored int, answer time.Duration, want int) (started int) {
	for range n {
		p.mu.Lock()
		p.mostWaiting, p.answers, p.total = stored, stored, time.Duration(stored)*answer
		p.mu.Unlock()
		for started = 0; started < want && p.mayStart(); {
			started++
		}
		p.now = p.now.Add(paceWindow)
		p.adjust(p.now)
	}
	return started
}

func TestDeliveriesAreLimitedWhileAnswersAreSlow(t *testing.T) {
	const ms = time.Millisecond
	const inWindow = int(slowestPace * paceWindow / time.Second)
	windows := func(d time.Duration) int { return int(d / paceWindow) }
	usual := func() *paceTest {
		p := newPaceTest()
		p.windows(100, 300, answerTarget/2, 100) // 2,000 deliveries a second
		return p
	}

	p := usual()
	if n := p.windows(100, 300, answerTarget, 100); n != 100 {
		t.Errorf("%d started while answers were quick, want all", n)
	}
	if p.windows(1, 300, 4*answerTarget, 100); p.limit == 0 {
		t.Error("no limit after a slow window")
	}
	if n := p.windows(windows(100*ms), 300, 4*answerTarget, 100); n > 50 {
		t.Errorf("%d of 100 started 100 ms later", n)
	}
	if n := p.windows(windows(500*ms), 300, 4*answerTarget, 100); n > inWindow+1 {
		t.Errorf("%d started after more slow windows, want the slowest pace", n)
	}
	if p.limit < slowestPace || p.soon() > slowestPace/10+1 {
		t.Errorf("the limit is %.1f, with room for %d", p.limit, p.soon())
	}
	if p.windows(windows(time.Second), 300, answerTarget/2, 100); p.limit < 100 {
		t.Errorf("the limit is %.1f after a second of quick answers", p.limit)
	}
	if n := p.windows(windows(time.Second), 3, answerTarget/2, 100); n != 100 || p.limit != 0 {
		t.Errorf("%d of 100 started a second after the burst, and the limit is %.1f, want none", n, p.limit)
	}

	p = usual()
	if n := p.windows(100, fewWaiting, 10*answerTarget, 100); n != 100 {
		t.Errorf("%d of 100 started with few waiting, want all, however slow the disk is", n)
	}
}

// A disk that is slow alone must not keep deliveries slow for ever.
func TestLimitingEndsIfItDoesNotHelp(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer time.Duration
		within time.Duration
	}{
		{"very slow answers", 20 * answerTarget, 3 * time.Second},
		{"slow answers", 2 * answerTarget, 3 * time.Second},
		{"rather slow answers", answerTarget * 3 / 2, 6 * time.Second},
	} {
		p := newPaceTest()
		p.windows(100, 300, answerTarget/2, 100)
		p.windows(1, 300, c.answer, 100)
		began := p.now
		for p.limit > 0 && p.now.Sub(began) < time.Minute {
			p.windows(1, 300, c.answer, 100)
		}
		if took := p.now.Sub(began); took < helpTime || took > c.within {
			t.Errorf("%s: limiting ended after %s, want %s to %s", c.name, took, helpTime, c.within)
		}
		if p.windows(int(noHelpPause/paceWindow)-1, 300, c.answer, 100); p.limit != 0 {
			t.Errorf("%s: limited again too early", c.name)
		}
		if p.windows(2, 300, c.answer, 100); p.limit == 0 {
			t.Errorf("%s: not limited any more", c.name)
		}
	}
}

// Those that wait count before they are answered: a long commit gives no answers.
func TestWhatWaitsCountsAsAnAnswer(t *testing.T) {
	p := newPacer()
	var answered []func()
	for range fewWaiting + 1 {
		answered = append(answered, p.storing())
	}
	if p.adjust(time.Now()); p.limit != 0 {
		t.Error("limited at once")
	}
	if p.adjust(time.Now().Add(2 * answerTarget)); p.limit == 0 || p.answerTime() == 0 {
		t.Error("not limited although the answers are late")
	}
	for _, f := range answered {
		f()
	}
	if p.waiting.Len() != 0 || p.answers != fewWaiting+1 {
		t.Errorf("%d wait, and %d have an answer in the end", p.waiting.Len(), p.answers)
	}
}
