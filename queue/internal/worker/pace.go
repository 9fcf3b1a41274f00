package worker

import (
	"container/list"
	"math"
	"sync"
	"time"
)

// The constants of the controller that limits deliveries while answers are slow.
const (
	paceWindow   = 50 * time.Millisecond // how often the limit is set anew
	answerTarget = 50 * time.Millisecond // how long an answer may take while deliveries have the processors, too

	// While no more than fewWaiting notifications are being stored at the same time, answers
	// are slow for another reason than deliveries, such as a slow disk.
	fewWaiting = 72

	slowestPace = 20  // deliveries a second: no lane starves
	mostCut     = 0.5 // of the limit in a window
	mostRise    = 1.1 // likewise
	quickRise   = 1.5 // likewise, while few are waiting

	// If answers take at least twice the target for helpTime at the slowest pace, or less for
	// accordingly longer, limiting does not help, and ends for noHelpPause.
	helpTime    = 2 * time.Second
	noHelpPause = 10 * time.Second
)

// pacer limits how many deliveries of all lanes start, so that storing has the processors and the
// database while answers are slow. Once per window, it changes the limit by how far the time of
// answers is from answerTarget.
type pacer struct {
	mu          sync.Mutex
	waiting     list.List // when those notifications came that are being stored
	mostWaiting int       // the most of them at the same time, in this window
	answers     int       // in this window
	total       time.Duration
	started     int // deliveries, in this window
	lastAdjust  time.Time

	answerAvg  time.Duration // a moving average of about the last half second
	startedAvg float64       // deliveries a second, likewise
	limit      float64       // deliveries a second; 0: there is no limit
	tokens     float64       // deliveries that may start now, while there is a limit
	noHelp     time.Duration // how long answers have exceeded the target at the slowest pace
	pausedTo   time.Time     // there is no limit before
}

func newPacer() *pacer { return &pacer{lastAdjust: time.Now()} }

// storing records that a notification comes to be stored. The caller must call the returned
// function when it is answered.
func (p *pacer) storing() (answered func()) {
	came := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	element := p.waiting.PushBack(came)
	p.mostWaiting = max(p.mostWaiting, p.waiting.Len())
	return func() {
		took := time.Since(came)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.waiting.Remove(element)
		p.answers++
		p.total += took
	}
}

// mayStart reports whether a delivery may start, and counts it.
func (p *pacer) mayStart() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit > 0 {
		if p.tokens < 1 {
			return false
		}
		p.tokens--
	}
	p.started++
	return true
}

// soon returns about how many deliveries may start in the next tenth of a second.
func (p *pacer) soon() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit == 0 {
		return math.MaxInt
	}
	return int(p.limit/10) + 1
}

// answerTime returns about how long answers take now; near 0 if none is given.
func (p *pacer) answerTime() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answerAvg
}

// adjust ends a window, and sets the limit for the next one. It reports whether deliveries that
// had to wait may start.
func (p *pacer) adjust(now time.Time) (mayStart bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	length := max(now.Sub(p.lastAdjust), time.Millisecond)
	answer := p.total / time.Duration(max(1, p.answers))
	if oldest := p.waiting.Front(); oldest != nil {
		answer = max(answer, now.Sub(oldest.Value.(time.Time)))
	}
	started := float64(p.started) / length.Seconds()
	p.answerAvg += (answer - p.answerAvg) / 8
	p.startedAvg += (started - p.startedAvg) / 8
	was := p.limit
	p.setLimit(now, length, answer, p.mostWaiting <= fewWaiting)
	if p.limit > 0 { // what was not used is not saved up
		p.tokens = p.tokens - math.Floor(p.tokens) + p.limit*length.Seconds()
	}
	p.mostWaiting, p.answers, p.total, p.started, p.lastAdjust = p.waiting.Len(), 0, 0, 0, now
	return was > 0
}

// setLimit sets the limit after a window in which answers took so long. The caller must hold mu.
func (p *pacer) setLimit(now time.Time, length, answer time.Duration, few bool) {
	over := float64(answer) / float64(answerTarget)
	slow := over > 1 && !few
	switch {
	case p.limit == 0 && (!slow || now.Before(p.pausedTo)):
		return
	case p.limit == 0:
		p.limit, p.tokens, p.noHelp = mostCut*p.startedAvg, 0, 0
	case few:
		p.limit, p.noHelp = quickRise*p.limit, 0
	case slow && p.limit == slowestPace:
		p.noHelp += time.Duration(float64(length) * min(1, over-1))
	default:
		p.limit, p.noHelp = p.limit*min(mostRise, max(mostCut, 1/over)), 0
	}
	p.limit = max(slowestPace, p.limit)
	switch {
	case p.noHelp > helpTime:
		p.limit, p.pausedTo = 0, now.Add(noHelpPause)
	case p.limit > 2*p.startedAvg+slowestPace: // it does not limit any more
		p.limit = 0
	}
}
