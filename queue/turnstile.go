package queue

import (
	"context"
	"sync"
)

// A side of a turnstile.
type side int

const (
	storing    side = iota // has the right of way
	delivering             // gets at least every other turn
)

// turnstile lets one transaction at a time write to an SQLite database, which has
// room for one only. Where both sides wait they take turns, so that storing waits for
// one transaction of the other side at most, however many want to deliver, and
// delivering is never starved.
type turnstile struct {
	mu      sync.Mutex
	busy    bool
	last    side
	waiting [2][]chan struct{}
}

// enter waits for the turn. After it, leave must be called.
func (t *turnstile) enter(ctx context.Context, s side) error {
	t.mu.Lock()
	if !t.busy {
		t.busy, t.last = true, s
		t.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	t.waiting[s] = append(t.waiting[s], turn)
	t.mu.Unlock()

	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.waiting[s] {
		if other == turn {
			t.waiting[s] = append(t.waiting[s][:i:i], t.waiting[s][i+1:]...)
			return ctx.Err()
		}
	}
	t.next() // the turn has come meanwhile
	return ctx.Err()
}

func (t *turnstile) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next()
}

func (t *turnstile) next() {
	s := storing
	if t.last == storing && len(t.waiting[delivering]) > 0 || len(t.waiting[storing]) == 0 {
		s = delivering
	}
	if len(t.waiting[s]) == 0 {
		t.busy = false
		return
	}
	turn := t.waiting[s][0]
	t.waiting[s] = t.waiting[s][1:]
	t.last = s
	close(turn)
}
