package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// newTestStore returns a store without lanes, and a channel that lets its batches go on.
func newTestStore() (*store, *fakeDB, chan error) {
	database, let := newFakeDB(), make(chan error)
	database.store = func() error { return <-let }
	s := newStore(database, newBook(), newPacer(), func(db.Lane) *lane { return nil }, func(error) {})
	s.start(1)
	return s, database, let
}

func notificationOf(id string) *db.NewNotification {
	return &db.NewNotification{Notification: &db.Notification{NotificationID: id}, Deliveries: []db.NewDelivery{{Lane: "support"}}}
}

func TestStoreSharesCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, database, let := newTestStore()
		database.notifications[1000] = notificationOf("e").Notification
		type result struct {
			duplicate bool
			err       error
		}
		answers := make([]*result, 8)
		answered := func() (n int) {
			for _, answer := range answers {
				if answer != nil {
					n++
				}
			}
			return n
		}
		for i, id := range []string{"a", "b", "c", "b", "", "", "e", "b"} {
			go func() {
				stored, err := s.insert(t.Context(), notificationOf(id))
				answers[i] = &result{stored.Duplicate, err}
			}()
			synctest.Wait()
		}
		if len(database.batches) != 1 || answered() != 0 {
			t.Fatalf("batches %q and %d answers, want the first one alone, and no answer before it is stored", database.batches, answered())
		}
		let <- nil
		synctest.Wait()
		if answered() != 1 {
			t.Errorf("%d answers, want that of the first batch", answered())
		}
		let <- nil
		synctest.Wait()
		if len(database.batches) != 2 || len(database.batches[1]) != 7 {
			t.Errorf("batches %q, want all others in the second", database.batches)
		}
		for i, duplicate := range []bool{false, false, false, true, false, false, true, true} {
			if answers[i] == nil || answers[i].err != nil {
				t.Errorf("answer %d: %+v", i, answers[i])
			} else if i != 1 && i != 3 && i != 7 && answers[i].duplicate != duplicate { // which b comes first is left open
				t.Errorf("answer %d: %+v, want duplicate %t", i, answers[i], duplicate)
			}
		}
		s.stop()
		if _, err := s.insert(t.Context(), notificationOf("z")); !errors.Is(err, errClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestBatchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, database, let := newTestStore()
		for i := range 3 * maxBatch {
			go func() { _, _ = s.insert(t.Context(), notificationOf(fmt.Sprint(i))) }()
		}
		synctest.Wait()
		close(let)
		synctest.Wait()
		s.stop()
		var sizes []int
		for _, batch := range database.batches {
			sizes = append(sizes, len(batch))
		}
		if slices.Max(sizes) != maxBatch {
			t.Errorf("batches of %v, want %d at most", sizes, maxBatch)
		}
	})
}

func TestStoreTellsAllOfABatchThatItFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, let := newTestStore()
		full := errors.New("disk is full")
		var failed atomic.Int32
		for _, id := range []string{"a", "b", "b"} {
			go func() {
				if _, err := s.insert(t.Context(), notificationOf(id)); errors.Is(err, full) {
					failed.Add(1)
				}
			}()
			synctest.Wait()
		}
		let <- full
		let <- full
		synctest.Wait()
		if failed.Load() != 3 {
			t.Errorf("%d of 3 were told", failed.Load())
		}
		s.stop()
	})
}

func TestStoreDoesNotKeepWaitingWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, let := newTestStore()
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 2)
		for range 2 { // one that is being stored, and one that waits to be
			go func() {
				_, err := s.insert(ctx, notificationOf("a"))
				gaveUp <- err
			}()
			synctest.Wait()
		}
		cancel()
		for range 2 {
			if err := <-gaveUp; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want that of the context", err)
			}
		}
		let <- nil
		s.stop()
	})
}
