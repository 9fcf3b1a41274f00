package queue

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// fakeDB records the batches that are stored, and holds each until it is let go.
type fakeDB struct {
	jobdb.DB
	batches [][]string // ids
	let     chan error
	known   []string // ids that are there already
}

func (f *fakeDB) Store(_ context.Context, collect func() []*jobdb.NewJob) ([]jobdb.Stored, error) {
	var ids []string
	var results []jobdb.Stored
	for _, job := range collect() {
		id := string(job.UniqueKey)
		ids = append(ids, id)
		results = append(results, jobdb.Stored{Duplicate: slices.Contains(f.known, id)})
	}
	f.batches = append(f.batches, ids)
	return results, <-f.let
}

func newTestStore(db *fakeDB) *store {
	s := newStore(&dispatcher{db: db, held: newHeldJobs()})
	s.start(1)
	return s
}

func pendingInsertOf(id string) *pendingInsert {
	job := new(jobdb.NewJob)
	if id != "" {
		job.UniqueKey = []byte(id)
	}
	return &pendingInsert{pendingJob: pendingJob{job: job}}
}

func TestStoreSharesCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &fakeDB{let: make(chan error), known: []string{"e"}}
		s := newTestStore(db)
		answers := make([]*insertResult, 8)
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
				duplicate, err := s.insert(t.Context(), pendingInsertOf(id))
				answers[i] = &insertResult{duplicate, err}
			}()
			synctest.Wait()
		}
		if len(db.batches) != 1 || answered() != 0 {
			t.Fatalf("batches %q and %d answers, want the first one alone, and no answer before it is stored", db.batches, answered())
		}
		db.let <- nil
		synctest.Wait()
		if answered() != 1 {
			t.Errorf("%d answers, want that of the first batch", answered())
		}
		db.let <- nil
		synctest.Wait()
		if want := []string{"", "", "b", "c", "e"}; len(db.batches) != 2 || !slices.Equal(db.batches[1], want) {
			t.Errorf("batches %q, want all others in the second, in order, duplicates once", db.batches)
		}
		for i, duplicate := range []bool{false, false, false, true, false, false, true, true} {
			if answers[i] == nil || *answers[i] != (insertResult{duplicate: duplicate}) {
				t.Errorf("answer %d: %+v, want duplicate %t", i, answers[i], duplicate)
			}
		}
		s.stop()
		if _, err := s.insert(t.Context(), pendingInsertOf("z")); !errors.Is(err, errStoreClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestStoreTellsAllOfABatchThatItFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &fakeDB{let: make(chan error)}
		s := newTestStore(db)
		full := errors.New("disk is full")
		var failed atomic.Int32
		for _, id := range []string{"a", "b", "b"} {
			go func() {
				if _, err := s.insert(t.Context(), pendingInsertOf(id)); errors.Is(err, full) {
					failed.Add(1)
				}
			}()
			synctest.Wait()
		}
		db.let <- full
		db.let <- full
		synctest.Wait()
		if failed.Load() != 3 {
			t.Errorf("%d of 3 were told", failed.Load())
		}
		s.stop()
	})
}

func TestStoreDoesNotKeepWaitingWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &fakeDB{let: make(chan error)}
		s := newTestStore(db)
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 2)
		for range 2 { // one that is being stored, and one that waits to be
			go func() {
				_, err := s.insert(ctx, pendingInsertOf("a"))
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
		db.let <- nil
		s.stop()
	})
}
