package queue

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestProbesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p prober
		probes := 0
		let := make(chan error, 1)
		ask := func() error {
			latest := p.current(func(ctx context.Context) error {
				probes++
				select {
				case err := <-let:
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			<-latest.ended
			return latest.err
		}
		want := func(n int, what string) {
			t.Helper()
			if probes != n {
				t.Errorf("%s: %d probes, want %d", what, probes, n)
			}
		}

		var asking sync.WaitGroup
		for range 10 {
			asking.Go(func() {
				if err := ask(); err == nil {
					t.Error("an asker did not get the error of the probe")
				}
			})
		}
		time.Sleep(2 * probeInterval) // one that hangs is not helped by another
		synctest.Wait()
		want(1, "while one runs")
		let <- errors.New("full")
		asking.Wait()

		let <- nil
		if err := ask(); err != nil {
			t.Error(err)
		}
		want(2, "after a long one")
		time.Sleep(probeInterval / 2)
		if err := ask(); err != nil {
			t.Error(err)
		}
		want(2, "soon after")
		time.Sleep(probeInterval / 2)
		if err := ask(); !errors.Is(err, context.DeadlineExceeded) { // nobody lets it end
			t.Errorf("error %v", err)
		}
		want(3, "later")
		p.close()
		if p.current(nil) != nil {
			t.Error("a probe began after close")
		}
	})
}

func TestReady(t *testing.T) {
	q := openTestQueue(t, filepath.Join(t.TempDir(), "queue.db"), Options{}, &fakeTarget{lanes: []string{"support"}})
	q.attachment.location.name = "/queue.db"
	want := func(reason string) {
		t.Helper()
		err := q.Ready(t.Context())
		switch {
		case reason == "" && err != nil, reason != "" && (err == nil || err.Error() != "queue /queue.db: "+reason):
			t.Errorf("got %v, want %q", err, reason)
		}
	}
	want("")

	hungry, err := q.dispatcher().store.reserve(t.Context(), storingMemory, 1)
	if err != nil {
		t.Fatal(err)
	}
	want(errNoMemory.Error())
	hungry()
	want("")

	opening := errors.New("no route to host")
	q.dispatcher().openErr.Store(&opening)
	want("the database cannot be reached: no route to host")
	q.dispatcher().openErr.Store(nil)

	acquired := q.attachment.acquired
	q.attachment.acquired = make(chan struct{})
	want(errNotOpen.Error())
	q.attachment.acquired = acquired

	q.close()
	want(errStoreClosed.Error())
}

func TestReadyEndsWithItsContext(t *testing.T) {
	q := openTestQueue(t, filepath.Join(t.TempDir(), "queue.db"), Options{}, &fakeTarget{lanes: []string{"support"}})
	defer q.close()
	let := make(chan struct{})
	defer close(let)
	q.dispatcher().prober.current(func(context.Context) error {
		<-let
		return nil
	})
	late := errors.New("late")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(late)
	if err := q.Ready(ctx); !errors.Is(err, late) {
		t.Errorf("error %v", err)
	}
}
