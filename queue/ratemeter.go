package queue

import "time"

// rateMeter counts events per second of the clock.
type rateMeter struct {
	second      int64
	count, last int
}

func (m *rateMeter) add() {
	m.turn()
	m.count++
}

// perSecond returns the count of the last full second, or of the current one if that is
// greater already.
func (m *rateMeter) perSecond() int {
	m.turn()
	return max(m.last, m.count)
}

func (m *rateMeter) turn() {
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
