// Package bodymemory is the one budget of memory for the bodies of notifications in this
// process: those that are being read, and those that a queue holds until they are delivered.
package bodymemory

import (
	"context"

	"golang.org/x/sync/semaphore"
)

const (
	// total is the size of the budget, in bytes.
	total = 112 << 20

	// MaxBody is the most that one request may acquire, in bytes; a body that is larger counts
	// as one of this size. It is also the part that TryKeep leaves to requests: without it, a
	// backlog in memory would make new notifications be refused.
	MaxBody = 48 << 20
)

var (
	all = semaphore.NewWeighted(total)

	// kept is the part of all that queues may have. Whoever has some of it has as much of all.
	kept = semaphore.NewWeighted(total - MaxBody)
)

// Acquire waits until there is memory for a body that is read from a request. It returns an
// error when the context ends first.
func Acquire(ctx context.Context, size int64) error { return all.Acquire(ctx, size) }

// Release gives back what Acquire got.
func Release(size int64) { all.Release(size) }

// TryKeep gets memory for a body that a queue keeps, and reports whether there is any. It
// does not wait.
func TryKeep(size int64) bool {
	if !kept.TryAcquire(size) {
		return false
	}
	if !all.TryAcquire(size) {
		kept.Release(size)
		return false
	}
	return true
}

// Drop gives back what TryKeep got.
func Drop(size int64) {
	all.Release(size)
	kept.Release(size)
}
