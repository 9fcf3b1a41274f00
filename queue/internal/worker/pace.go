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

	// While no more than fewWaiting notifications are being stored at the same time, answers
	// are slow for another reason than deliveries, such as a slow disk.
	fewWaiting = 72

	slowestPace  = 20 // deliveries a second: no lane starves
	patientLimit = 2  // windows that must be slow before deliveries are limited
)

// pace is how many deliveries may start in a second, so that answers are given in time. It
// is a value: next returns the pace after a window of time.
type pace struct {
	rate  float64 // 0: without limit
	usual float64 // deliveries a second without a limit, a moving average
	slow  int     // windows in a row
}

// paceWindowCounts is what happened in a window of time.
type paceWindowCounts struct {
	length  time.Duration
	answers int
	mean    time.Duration // of the answers' times
	waiting int           // the most notifications that were being stored at the same time
	started int           // deliveries
}

// next returns the pace after a window. While answers are slow, it lowers the rate by 30 % a
// window. While they are quick, it raises it, until it is no limit any more.
func (p pace) next(w paceWindowCounts) pace {
	started := float64(w.started) / w.length.Seconds()
	if p.rate == 0 {
		p.usual += (started - p.usual) / 16
	}
	switch {
	case w.waiting <= fewWaiting:
		p.rate, p.slow = 0, 0
	case w.answers == 0: // a long commit: nothing new is known
	case w.mean <= answerTarget:
		p.slow = 0
		p.rate *= 1.1
		if p.rate > 2*started+slowestPace { // it does not limit any more
			p.rate = 0
		}
	default:
		p.slow++
		if p.slow < patientLimit {
			break
		}
		if p.rate == 0 {
			p.rate = p.usual
		}
		p.rate = max(slowestPace, p.rate*0.7)
	}
	return p
}

// pacer limits how many deliveries of all lanes start, by a pace.
type pacer struct {
	limited atomic.Bool
	tokens  atomic.Int64 // deliveries that may start now, while limited

	answers, answerNanos, waiting, mostWaiting, started atomic.Int64

	mu   sync.Mutex
	pace pace
	rest float64 // of a token
	last time.Time
}

func newPacer() *pacer { return &pacer{last: time.Now()} }

// storing counts a notification that is being stored. The caller must call answered.
func (p *pacer) storing() {
	waiting := p.waiting.Add(1)
	for most := p.mostWaiting.Load(); waiting > most; most = p.mostWaiting.Load() {
		if p.mostWaiting.CompareAndSwap(most, waiting) {
			return
		}
	}
}

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
		waiting: int(p.mostWaiting.Swap(p.waiting.Load())), started: int(p.started.Swap(0)),
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
