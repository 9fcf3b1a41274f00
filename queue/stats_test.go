package queue

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// slowDB has one unfinished job, or none, and takes long to find the oldest.
type slowDB struct {
	jobdb.DB
	changes uint64
	jobs    int64
}

func (f *slowDB) Changes(context.Context) (uint64, error) { return f.changes, nil }

func (f *slowDB) Count(_ context.Context, state jobdb.State) (map[string]int64, error) {
	if f.jobs == 0 || state != jobdb.StateAvailable {
		return nil, nil
	}
	return map[string]int64{"support": f.jobs}, nil
}

func (f *slowDB) Oldest(context.Context) (map[string]time.Duration, error) {
	time.Sleep(time.Second)
	if f.jobs == 0 {
		return nil, nil
	}
	return map[string]time.Duration{"support": time.Minute}, nil
}

// A change that was counted while the age of the oldest job was not to be read yet was
// forgotten: the age of a job that was delivered grew until the next change.
func TestOldestIsReadAgainAfterTheLastChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &slowDB{changes: 1, jobs: 1}
		var s stats
		refresh := func() {
			t.Helper()
			if err := s.refresh(t.Context(), db); err != nil {
				t.Fatal(err)
			}
		}
		refresh()
		db.changes, db.jobs = 2, 0
		time.Sleep(statsValidity) // enough for the counts, not for the oldest
		refresh()
		time.Sleep(statsShare * time.Second)
		refresh()
		if len(s.oldest) != 0 {
			t.Errorf("oldest: %v, want none, as the queue is empty", s.oldest)
		}
	})
}
