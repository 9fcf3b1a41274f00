package sqlite

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

func TestWriteLockLetsStoringWaitForOneAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lock writeLock
		enter := func(w work) {
			if err := lock.lock(t.Context(), w); err != nil {
				t.Error(err)
			}
		}
		enter(delivering)
		var turns []work
		for _, w := range []work{delivering, delivering, delivering, storing, storing} {
			go func() {
				enter(w)
				turns = append(turns, w) // one at a time, or the race detector tells
				lock.unlock()
			}()
			synctest.Wait() // until it waits
		}
		lock.unlock()
		synctest.Wait()
		if want := []work{storing, delivering, storing, delivering, delivering}; !slices.Equal(turns, want) {
			t.Errorf("turns %v, want %v", turns, want)
		}
		enter(storing) // nobody is in it
	})
}

func TestWriteLockForgetsWhoGaveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lock writeLock
		if err := lock.lock(t.Context(), storing); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() { gaveUp <- lock.lock(ctx, storing) }()
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want that of the context", err)
		}
		lock.unlock()
		if err := lock.lock(t.Context(), delivering); err != nil {
			t.Error(err)
		}
	})
}
