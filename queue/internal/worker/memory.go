package worker

import (
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	// totalMemory bounds the bytes of all notifications under way: those that are being
	// stored, and those that lanes hold.
	totalMemory = 112 << 20

	// laneMemory bounds how many bytes all lanes hold together. Beyond it, each lane may have
	// one delivery. So storing always has the rest.
	laneMemory = 64 << 20

	// claimMemory bounds the bytes of one claim, so that several lanes can claim at the same
	// time.
	claimMemory = 16 << 20
)

// memory is the one budget of bytes for notifications. A lane may have as many as it leaves
// free, so one alone may have half, and two a third each. What a lane leaves free is there
// for the others when its backend hangs. A lane that has nothing may always have one delivery
// of any size, so each lane goes on.
type memory struct {
	storing int                // of notifications that are being stored
	lanes   int                // of all lanes, with what is reserved for deliveries to come
	byLane  map[db.Lane]int    // has no lane with 0
	refused bool               // whether a lane was refused memory
	waiting []*waitingForStore // in the order in which they came
}

// waitingForStore is a notification that waits for memory.
type waitingForStore struct {
	bytes   int
	granted chan struct{}
}

func newMemory() memory { return memory{byLane: make(map[db.Lane]int)} }

// fits reports whether so many more bytes may be stored. One notification is always stored.
func (m *memory) fits(bytes int) bool {
	return m.storing == 0 || m.storing+bytes <= totalMemory-min(m.lanes, laneMemory)
}

// acquire takes bytes for a notification that is to be stored. If there are too few, it
// returns a channel that is closed when it has them.
func (m *memory) acquire(bytes int) (granted <-chan struct{}) {
	if len(m.waiting) == 0 && m.fits(bytes) {
		m.storing += bytes
		return nil
	}
	w := &waitingForStore{bytes, make(chan struct{})}
	m.waiting = append(m.waiting, w)
	return w.granted
}

// giveUp ends the waiting of an acquire. It returns false if it has its bytes already.
func (m *memory) giveUp(granted <-chan struct{}) bool {
	for i, w := range m.waiting {
		if w.granted == granted {
			m.waiting = append(m.waiting[:i], m.waiting[i+1:]...)
			m.grant()
			return true
		}
	}
	return false
}

// release gives back bytes that were acquired.
func (m *memory) release(bytes int) {
	m.storing -= bytes
	m.grant()
}

// grant gives bytes to those who wait for them.
func (m *memory) grant() {
	for len(m.waiting) > 0 && m.fits(m.waiting[0].bytes) {
		w := m.waiting[0]
		m.waiting = m.waiting[1:]
		m.storing += w.bytes
		close(w.granted)
	}
}

// add adds bytes to those of a lane, or subtracts them if they are negative.
func (m *memory) add(lane db.Lane, bytes int) {
	m.lanes += bytes
	if has := m.byLane[lane] + bytes; has != 0 {
		m.byLane[lane] = has
	} else {
		delete(m.byLane, lane)
	}
	if bytes < 0 {
		m.grant()
	}
}

// room returns how many bytes a lane may have besides those that it has; it can be negative.
func (m *memory) room(lane db.Lane) int {
	return min(laneMemory, totalMemory-m.storing) - m.lanes - m.byLane[lane]
}

// reserve reserves bytes for one delivery of a lane, if the lane may have them.
func (m *memory) reserve(lane db.Lane, size int) bool {
	if m.byLane[lane] > 0 && size > m.room(lane) {
		m.refused = true
		return false
	}
	m.add(lane, size)
	return true
}

// reserveClaim reserves bytes for a claim of a lane, and returns how many. The first delivery
// of the claim may have more.
func (m *memory) reserveClaim(lane db.Lane) (bytes int, ok bool) {
	bytes = max(1, min(m.room(lane), claimMemory)) // 1 is enough for one delivery
	return bytes, m.reserve(lane, bytes)
}
