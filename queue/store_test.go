package queue

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/riverqueue/river/riverdriver"
)

// fakeInserts records groups, and holds each until it is let go.
type fakeInserts struct {
	groups [][]string // ids
	let    chan error
	known  []string // ids that are there already
}

func (f *fakeInserts) insert(_ context.Context, collect func() []*riverdriver.JobInsertFastParams) ([]*riverdriver.JobInsertFastResult, error) {
	var ids []string
	var results []*riverdriver.JobInsertFastResult
	for _, job := range collect() {
		id := string(job.UniqueKey)
		ids = append(ids, id)
		results = append(results, &riverdriver.JobInsertFastResult{UniqueSkippedAsDuplicate: slices.Contains(f.known, id)})
	}
	f.groups = append(f.groups, ids)
	return results, <-f.let
}

func depositOf(id string) *deposit {
	return &deposit{job: &riverdriver.JobInsertFastParams{UniqueKey: []byte(id)}}
}

func TestStoreSharesCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inserts := &fakeInserts{let: make(chan error), known: []string{"e"}}
		s := newStore(inserts.insert, 1)
		answers := make([]*storeAnswer, 8)
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
				duplicate, err := s.put(t.Context(), depositOf(id))
				answers[i] = &storeAnswer{duplicate, err}
			}()
			synctest.Wait()
		}
		if len(inserts.groups) != 1 || answered() != 0 {
			t.Fatalf("groups %q and %d answers, want the first one alone, and no answer before it is stored", inserts.groups, answered())
		}
		inserts.let <- nil
		synctest.Wait()
		if answered() != 1 {
			t.Errorf("%d answers, want that of the first group", answered())
		}
		inserts.let <- nil
		synctest.Wait()
		if want := []string{"", "", "b", "c", "e"}; len(inserts.groups) != 2 || !slices.Equal(inserts.groups[1], want) {
			t.Errorf("groups %q, want all others in the second, in order, duplicates once", inserts.groups)
		}
		for i, duplicate := range []bool{false, false, false, true, false, false, true, true} {
			if answers[i] == nil || *answers[i] != (storeAnswer{duplicate: duplicate}) {
				t.Errorf("answer %d: %+v, want duplicate %t", i, answers[i], duplicate)
			}
		}
		s.stop()
		if _, err := s.put(t.Context(), depositOf("z")); !errors.Is(err, errStoreClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestStoreTellsAllOfAGroupThatItFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inserts := &fakeInserts{let: make(chan error)}
		s := newStore(inserts.insert, 1)
		full := errors.New("disk is full")
		var failed atomic.Int32
		for _, id := range []string{"a", "b", "b"} {
			go func() {
				if _, err := s.put(t.Context(), depositOf(id)); errors.Is(err, full) {
					failed.Add(1)
				}
			}()
			synctest.Wait()
		}
		inserts.let <- full
		inserts.let <- full
		synctest.Wait()
		if failed.Load() != 3 {
			t.Errorf("%d of 3 were told", failed.Load())
		}
		s.stop()
	})
}

func TestStoreDoesNotKeepWaitingWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inserts := &fakeInserts{let: make(chan error)}
		s := newStore(inserts.insert, 1)
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 2)
		for range 2 { // one that is being stored, and one that waits to be
			go func() {
				_, err := s.put(ctx, depositOf("a"))
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
		inserts.let <- nil
		s.stop()
	})
}
