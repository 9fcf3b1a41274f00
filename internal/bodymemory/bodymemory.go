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

	// forRequests is the part that TryKeep leaves to requests, in bytes. Without it, a
	// backlog in memory would make new notifications be refused.
	forRequests = 48 << 20
)

var (
	all = semaphore.NewWeighted(total)

	// kept is the part of all that queues may have. Whoever has some of it has as much of all.
	kept = semaphore.NewWeighted(total - forRequests)
)

// Acquire waits until there is memory for a body that is read from a request. The body may
// be larger than what requests can always have, so callers must give the same size to
// Release. It returns an error when the context ends first.
func Acquire(ctx context.Context, size int64) error { return all.Acquire(ctx, min(size, forRequests)) }

// Release gives back what Acquire got.
func Release(size int64) { all.Release(min(size, forRequests)) }

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
