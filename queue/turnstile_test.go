package queue

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

func TestTurnstileLetsStoringWaitForOneAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turnstile turnstile
		enter := func(s side) {
			if err := turnstile.enter(t.Context(), s); err != nil {
				t.Error(err)
			}
		}
		enter(delivering)
		var turns []side
		for _, s := range []side{delivering, delivering, delivering, storing, storing} {
			go func() {
				enter(s)
				turns = append(turns, s) // one at a time, or the race detector tells
				turnstile.leave()
			}()
			synctest.Wait() // until it waits
		}
		turnstile.leave()
		synctest.Wait()
		if want := []side{storing, delivering, storing, delivering, delivering}; !slices.Equal(turns, want) {
			t.Errorf("turns %v, want %v", turns, want)
		}
		enter(storing) // nobody is in it
	})
}

func TestTurnstileForgetsWhoGaveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turnstile turnstile
		if err := turnstile.enter(t.Context(), storing); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() { gaveUp <- turnstile.enter(ctx, storing) }()
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want that of the context", err)
		}
		turnstile.leave()
		if err := turnstile.enter(t.Context(), delivering); err != nil {
			t.Error(err)
		}
	})
}
