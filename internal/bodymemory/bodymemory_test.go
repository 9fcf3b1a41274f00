package bodymemory

import (
	"context"
	"testing"
	"time"
)

func TestQueuesLeaveMemoryToRequests(t *testing.T) {
	if !TryKeep(total - MaxBody) {
		t.Fatal("a queue gets none of an empty budget")
	}
	defer Drop(total - MaxBody)
	if TryKeep(1) {
		t.Error("a queue gets what is for requests")
	}
	if err := Acquire(t.Context(), MaxBody); err != nil {
		t.Fatalf("a request gets nothing beside a full queue: %v", err)
	}
	defer Release(MaxBody)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := Acquire(ctx, 1); err == nil {
		t.Error("a request gets more than the budget")
	}
}

func TestRequestsMayHaveWhatQueuesDoNotUse(t *testing.T) {
	for range 2 {
		if err := Acquire(t.Context(), MaxBody); err != nil {
			t.Fatal(err)
		}
		defer Release(MaxBody)
	}
	if TryKeep(total - 2*MaxBody + 1) {
		t.Error("a queue gets more than there is")
	}
	if !TryKeep(total - 2*MaxBody) {
		t.Fatal("a queue does not get what is left")
	}
	Drop(total - 2*MaxBody)
}
