package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/riverqueue/river/riverdriver"
)

// store commits notifications in groups: those that come while one transaction is
// being committed share the next. So the wait for the disk is shared, and one that
// comes alone waits for nobody.
type store struct {
	insert  insertFunc
	coming  chan *deposit
	stopped chan struct{} // closed when nothing is taken any more

	committing sync.WaitGroup
}

// deposit is a notification on its way into the database.
type deposit struct {
	job    *riverdriver.JobInsertFastParams
	answer chan storeAnswer
}

type storeAnswer struct {
	duplicate bool
	err       error
}

const (
	// A group has at most so many notifications, and bytes.
	maxGroup     = 256
	maxGroupSize = 16 << 20

	// commitTimeout is how long a group may take. It ends before Intercom gives up.
	commitTimeout = 4 * time.Second
)

var errStoreClosed = errors.New("the queue is closed")

// insertFunc is database.insert.
type insertFunc func(ctx context.Context, collect func() []*riverdriver.JobInsertFastParams) ([]*riverdriver.JobInsertFastResult, error)

func newStore(insert insertFunc, committers int) *store {
	s := &store{insert: insert, coming: make(chan *deposit), stopped: make(chan struct{})}
	for range committers {
		s.committing.Go(s.commitAll)
	}
	return s
}

// put returns when the notification can no longer be lost. If the context ends
// before, whether it is stored is open; it may be.
func (s *store) put(ctx context.Context, d *deposit) (duplicate bool, err error) {
	d.answer = make(chan storeAnswer, 1)
	select {
	case s.coming <- d:
	case <-s.stopped:
		return false, errStoreClosed
	case <-ctx.Done():
		return false, fmt.Errorf("waiting to be stored: %w", ctx.Err())
	}
	select {
	case answer := <-d.answer:
		return answer.duplicate, answer.err
	case <-ctx.Done():
		return false, fmt.Errorf("being stored: %w", ctx.Err())
	}
}

// stop returns when all that was taken is answered.
func (s *store) stop() {
	close(s.stopped)
	s.committing.Wait()
}

func (s *store) commitAll() {
	for {
		select {
		case d := <-s.coming:
			s.commit(d)
		case <-s.stopped:
			return
		}
	}
}

// commit stores a notification and all others that wait when the database is ready
// for them, and answers each.
func (s *store) commit(d *deposit) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	g := &group{deposits: []*deposit{d}}
	results, err := s.insert(ctx, func() []*riverdriver.JobInsertFastParams {
		g.gather(s.coming)
		return g.jobs()
	})
	if err == nil && len(results) != len(g.first) {
		err = fmt.Errorf("%d of %d inserts were answered", len(results), len(g.first))
	}
	for i, d := range g.deposits {
		answer := storeAnswer{err: err}
		if err == nil {
			first := g.place[i]
			answer.duplicate = results[first].UniqueSkippedAsDuplicate || g.first[first] != i
		}
		d.answer <- answer
	}
}

// group is what is stored in one transaction.
type group struct {
	deposits []*deposit
	place    []int // of each in what is inserted
	first    []int // the deposit of each that is inserted
}

// gather takes all that waits, as far as there is room.
func (g *group) gather(coming <-chan *deposit) {
	size := len(g.deposits[0].job.EncodedArgs)
	for len(g.deposits) < maxGroup && size < maxGroupSize {
		select {
		case d := <-coming:
			g.deposits = append(g.deposits, d)
			size += len(d.job.EncodedArgs)
		default:
			return
		}
	}
}

// jobs returns what to insert. River refuses duplicates in one call, so only the first
// of these is in it. All who insert do so in the same order: two that wait for each
// other's duplicates would never end.
func (g *group) jobs() []*riverdriver.JobInsertFastParams {
	slices.SortStableFunc(g.deposits, func(a, b *deposit) int { return bytes.Compare(a.job.UniqueKey, b.job.UniqueKey) })
	g.place = make([]int, len(g.deposits))
	var jobs []*riverdriver.JobInsertFastParams
	for i, d := range g.deposits {
		key := d.job.UniqueKey
		if i == 0 || len(key) == 0 || !bytes.Equal(key, g.deposits[i-1].job.UniqueKey) {
			g.first = append(g.first, i)
			jobs = append(jobs, d.job)
		}
		g.place[i] = len(jobs) - 1
	}
	return jobs
}
