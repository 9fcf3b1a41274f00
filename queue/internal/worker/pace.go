package worker

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// paceWindow is how often the pace is set anew.
	paceWindow = 50 * time.Millisecond

	// answerTarget is how long storing may take while deliveries have the processors, too. It
	// leaves room to the 500 ms after which Intercom lowers an endpoint's priority.
	answerTarget = 40 * time.Millisecond

	// A window with fewer answers, together with those that wait, needs no processors: it is
	// slow for another reason.
	fewAnswers = 20

	slowestPace   = 20 // deliveries a second: no lane starves
	patientLimit  = 2  // windows that must be slow before deliveries are limited
	hopelessLimit = 80 // windows after which something else than deliveries is slow
)

// pace is how many deliveries may start in a second, so that answers are given in time. It
// is a value: next returns the pace after a window of time.
type pace struct {
	rate   float64       // 0: without limit
	usual  float64       // deliveries a second without a limit, a moving average
	target time.Duration // for answers, if it is above answerTarget
	slow   int           // windows in a row
}

// paceWindowCounts is what happened in a window of time.
type paceWindowCounts struct {
	length  time.Duration
	answers int
	mean    time.Duration // of the answers' times
	waiting int           // notifications that are being stored at its end
	started int           // deliveries
}

// next returns the pace after a window. While answers are slow, it lowers the rate by 30 % a
// window. While they are quick, it raises it, until it is no limit any more. If answers are
// still slow at the slowest pace, deliveries are not the reason, as with a slow disk: then it
// ends the limit, and aims at twice the time that answers take now, for about a minute.
func (p pace) next(w paceWindowCounts) pace {
	p.target = max(p.target-p.target/1024, answerTarget)
	started := float64(w.started) / w.length.Seconds()
	if p.rate == 0 {
		p.usual += (started - p.usual) / 16
	}
	switch {
	case w.answers+w.waiting < fewAnswers:
		p.rate, p.slow = 0, 0
	case w.answers == 0: // a long commit: nothing new is known
	case w.mean <= p.target:
		p.slow = 0
		p.rate *= 1.1
		if p.rate > 2*started+slowestPace { // it does not limit any more
			p.rate = 0
		}
	default:
		p.slow++
		p = p.slower(w.mean)
	}
	return p
}

// slower returns the pace after a window whose answers were slow.
func (p pace) slower(mean time.Duration) pace {
	switch {
	case p.slow < patientLimit:
	case p.slow >= hopelessLimit && p.rate == slowestPace:
		p.rate, p.slow, p.target = 0, 0, 2*mean
	case p.rate == 0:
		p.rate = max(slowestPace, p.usual*0.7)
	default:
		p.rate = max(slowestPace, p.rate*0.7)
	}
	return p
}

// pacer limits how many deliveries of all lanes start, by a pace.
type pacer struct {
	limited atomic.Bool
	tokens  atomic.Int64 // deliveries that may start now, while limited

	answers, answerNanos, waiting, started atomic.Int64

	mu   sync.Mutex
	pace pace
	rest float64 // of a token
	last time.Time
}

func newPacer() *pacer { return &pacer{last: time.Now()} }

// storing counts a notification that is being stored. The caller must call answered.
func (p *pacer) storing() { p.waiting.Add(1) }

// answered records how long storing a notification took.
func (p *pacer) answered(took time.Duration) {
	p.waiting.Add(-1)
	p.answers.Add(1)
	p.answerNanos.Add(int64(took))
}

// mayStart reports whether a delivery may start, and counts it.
func (p *pacer) mayStart() bool {
	if p.limited.Load() && p.tokens.Add(-1) < 0 {
		return false
	}
	p.started.Add(1)
	return true
}

// soon returns about how many deliveries may start in the next tenth of a second.
func (p *pacer) soon() int {
	if !p.limited.Load() {
		return math.MaxInt
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return int(p.pace.rate/10) + 1
}

// adjust sets the pace for the next window. It reports whether deliveries that had to wait
// may start.
func (p *pacer) adjust(now time.Time) (mayStart bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := paceWindowCounts{
		length: max(now.Sub(p.last), time.Millisecond), answers: int(p.answers.Swap(0)),
		waiting: int(p.waiting.Load()), started: int(p.started.Swap(0)),
	}
	p.last = now
	if total := p.answerNanos.Swap(0); w.answers > 0 {
		w.mean = time.Duration(total / int64(w.answers))
	}
	was := p.pace.rate
	p.pace = p.pace.next(w)
	if p.pace.rate == 0 {
		p.rest = 0
		p.limited.Store(false)
		return was > 0
	}
	tokens := p.pace.rate*w.length.Seconds() + p.rest
	p.rest = tokens - math.Floor(tokens)
	p.tokens.Store(int64(tokens)) // what was not used is not saved up
	p.limited.Store(true)
	return true
}

// rateMeter counts events per second of the clock.
type rateMeter struct {
	second      int64
	count, last int
}

func (m *rateMeter) add() {
	m.advance()
	m.count++
}

// perSecond returns the count of the last full second, or of the current one if that is
// greater already.
func (m *rateMeter) perSecond() int {
	m.advance()
	return max(m.last, m.count)
}

func (m *rateMeter) advance() {
	now := time.Now().Unix()
	if now == m.second {
		return
	}
	m.last = 0
	if now == m.second+1 {
		m.last = m.count
	}
	m.second, m.count = now, 0
}
