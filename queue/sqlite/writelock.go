package sqlite

import (
	"context"
	"slices"
	"sync"
)

// work is of one of two kinds that write to an SQLite database.
type work int

const (
	storing    work = iota // has the right of way
	delivering             // all else; gets at least every other turn
)

// writeLock lets one transaction at a time write to an SQLite database, which has room
// for one only. Where both kinds of work wait they take turns, so that storing waits for
// one transaction of the other kind at most, and the other kind is never starved.
type writeLock struct {
	mu      sync.Mutex
	held    bool
	last    work
	waiting [2][]chan struct{}
}

// lock waits for the lock. If it returns no error, unlock must be called.
func (l *writeLock) lock(ctx context.Context, w work) error {
	l.mu.Lock()
	if !l.held {
		l.held, l.last = true, w
		l.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	l.waiting[w] = append(l.waiting[w], turn)
	l.mu.Unlock()

	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting[w], turn); i >= 0 {
		l.waiting[w] = slices.Delete(l.waiting[w], i, i+1)
	} else {
		l.handOver() // the lock came meanwhile, and nobody here wants it
	}
	return ctx.Err()
}

func (l *writeLock) unlock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handOver()
}

// handOver gives the lock to the next that waits. It needs l.mu.
func (l *writeLock) handOver() {
	w := storing
	if l.last == storing && len(l.waiting[delivering]) > 0 || len(l.waiting[storing]) == 0 {
		w = delivering
	}
	if len(l.waiting[w]) == 0 {
		l.held = false
		return
	}
	turn := l.waiting[w][0]
	l.waiting[w] = l.waiting[w][1:]
	l.last = w
	close(turn)
}
