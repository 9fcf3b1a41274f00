package body

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	// capacity is how many bytes all bodies may have together, from their first byte to the
	// answer: those that come, are stored, or are delivered without a queue.
	capacity = 96 << 20

	// overhead is about what a request takes besides its body, in bytes.
	overhead = 16 << 10

	// patience is how long a body waits for memory, and lookAgain how long it looks away.
	patience  = 2 * time.Second
	lookAgain = 25 * time.Millisecond

	// lookPause bounds the work of thousands that wait.
	lookPause = 5 * time.Millisecond

	// A body that takes longer than pieceTime for a piece is slow. Slow ones give way when the
	// memory is used up.
	piece     = 256 << 10
	pieceTime = 250 * time.Millisecond
)

// ErrNoMemory is the error for a body when others need all memory for bodies.
var ErrNoMemory = errors.New("too many bytes of bodies are being handled at once")

// budget is the memory that bodies share.
type budget struct {
	mu     sync.Mutex
	used   int64
	coming map[*Reservation]bool // those that are still being read
	looked time.Time             // for one that makes way
}

var memory = budget{coming: make(map[*Reservation]bool)}

// Reservation is the memory of one body. It grows with what has come, and not with what the
// sender has announced.
type Reservation struct {
	control  *http.ResponseController
	deadline time.Time // for the body; zero if there is none
	bytes    int64
	moved    time.Time // when its last piece came
	waits    bool      // for memory
	stopped  bool      // to make way for others
}

// grow reserves memory up to a size. It waits for it, but leaves Discard its time, and reports
// whether there is enough.
func (r *Reservation) grow(ctx context.Context, size int64) bool {
	end := time.Now().Add(patience)
	if latest := r.deadline.Add(-discardTime); !r.deadline.IsZero() && latest.Before(end) {
		end = latest
	}
	for {
		enough, givesUp := r.tryToGrow(size)
		if enough || givesUp || time.Now().After(end) {
			return enough
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return false
		}
	}
}

func (r *Reservation) tryToGrow(size int64) (enough, givesUp bool) {
	memory.mu.Lock()
	defer memory.mu.Unlock()
	more := max(0, size-r.bytes)
	enough = more <= capacity-memory.used
	r.waits, r.moved = !enough, time.Now()
	memory.coming[r] = true
	if !enough {
		memory.makeWay()
		return false, r.stopped
	}
	memory.used += more
	r.bytes += more
	return true, false
}

// makeWay stops a body, if it is time to look for one: the slowest, if one is slow. If instead all
// that is used belongs to bodies that wait for more, none of them could go on: then it is the
// smallest of these.
func (b *budget) makeWay() {
	if time.Since(b.looked) < lookPause {
		return
	}
	b.looked = time.Now()
	var slowest, smallest *Reservation
	waiting := int64(0)
	for one := range b.coming {
		switch {
		case one.stopped, one.bytes == 0:
		case one.waits:
			waiting += one.bytes
			if smallest == nil || one.bytes < smallest.bytes {
				smallest = one
			}
		case time.Since(one.moved) > pieceTime && (slowest == nil || one.moved.Before(slowest.moved)):
			slowest = one
		}
	}
	if slowest == nil && waiting == b.used {
		slowest = smallest
	}
	if slowest != nil {
		slowest.stopped = true
		_ = slowest.control.SetReadDeadline(past)
	}
}

// move notes that a piece has come.
func (r *Reservation) move() {
	memory.mu.Lock()
	defer memory.mu.Unlock()
	r.moved = time.Now()
}

// arrived notes that no more comes. Afterwards, the body gives way to no other. It reports
// whether it had to give way.
func (r *Reservation) arrived() (stopped bool) {
	memory.mu.Lock()
	defer memory.mu.Unlock()
	delete(memory.coming, r)
	return r.stopped
}

// Release gives the memory back. The body must not be used afterwards.
func (r *Reservation) Release() {
	memory.mu.Lock()
	defer memory.mu.Unlock()
	memory.used -= r.bytes
	r.bytes = 0
}
