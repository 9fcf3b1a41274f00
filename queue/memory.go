package queue

const (
	// heldMemory bounds how many bytes the held jobs of all lanes have together. Beyond it,
	// each lane may have one job.
	heldMemory = 64 << 20

	// claimMemory bounds the bytes of one claim, so that several lanes can claim at the same
	// time.
	claimMemory = 16 << 20
)

// memory counts the bytes of held jobs, and those that are reserved for jobs to come. A lane
// may have as many as it leaves free, so one alone may have half, and two a third each. What
// a lane leaves free is there for the others when its backend hangs. A lane that has
// nothing may always have one job of any size, so each lane goes on.
type memory struct {
	total   int
	byLane  map[string]int // by River queue; has no lane with 0
	refused bool           // whether a lane was refused memory, and should try again when some is free
}

func newMemory() memory { return memory{byLane: make(map[string]int)} }

// add adds bytes to those of a lane, or subtracts them if they are negative.
func (m *memory) add(queue string, bytes int) {
	m.total += bytes
	m.byLane[queue] += bytes
	if m.byLane[queue] == 0 {
		delete(m.byLane, queue)
	}
}

// room returns how many bytes a lane may have besides those that it has; it can be negative.
func (m *memory) room(queue string) int { return heldMemory - m.total - m.byLane[queue] }

// reserve reserves bytes for one job of a lane, if the lane may have them.
func (m *memory) reserve(queue string, size int) bool {
	if m.byLane[queue] > 0 && size > m.room(queue) {
		m.refused = true
		return false
	}
	m.add(queue, size)
	return true
}

// reserveClaim reserves bytes for a claim of a lane, and returns how many. The first job of the
// claim may have more.
func (m *memory) reserveClaim(queue string) (bytes int, ok bool) {
	room := min(m.room(queue), claimMemory)
	if room <= 0 {
		room = 1 // enough for one job
	}
	return room, m.reserve(queue, room)
}
