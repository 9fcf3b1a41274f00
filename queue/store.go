package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// store commits notifications in groups: those that come while one transaction is
// being committed share the next. So the wait for the disk is shared, and one that
// comes alone waits for nobody.
type store struct {
	insert  func(context.Context, []river.InsertManyParams) ([]*rivertype.JobInsertResult, error)
	coming  chan *deposit
	stopped chan struct{} // closed when nothing is taken any more
	done    chan struct{} // closed when all that was taken is answered
}

// deposit is a notification on its way into the database.
type deposit struct {
	params river.InsertManyParams
	key    string // the same for duplicates; empty if it has none
	size   int    // in bytes
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

func newStore(insert func(context.Context, []river.InsertManyParams) ([]*rivertype.JobInsertResult, error), committers int) *store {
	s := &store{
		insert:  insert,
		coming:  make(chan *deposit),
		stopped: make(chan struct{}),
		done:    make(chan struct{}),
	}
	running := make(chan struct{})
	for range committers {
		go func() {
			s.commitAll()
			running <- struct{}{}
		}()
	}
	go func() {
		for range committers {
			<-running
		}
		close(s.done)
	}()
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
	<-s.done
}

func (s *store) commitAll() {
	for {
		var group []*deposit
		select {
		case d := <-s.coming:
			group = s.gather(d)
		case <-s.stopped:
			return
		}
		s.commit(group)
	}
}

// gather takes all that waits, as far as there is room in a group.
func (s *store) gather(first *deposit) []*deposit {
	group, size := []*deposit{first}, first.size
	for len(group) < maxGroup && size < maxGroupSize {
		select {
		case d := <-s.coming:
			group = append(group, d)
			size += d.size
		default:
			return group
		}
	}
	return group
}

// commit stores a group, and answers each of it. River refuses a group with
// duplicates in it, so only the first of these is inserted. All who insert do so in
// the same order: two that wait for each other's duplicates would never end.
func (s *store) commit(group []*deposit) {
	slices.SortStableFunc(group, func(a, b *deposit) int { return strings.Compare(a.key, b.key) })
	params := make([]river.InsertManyParams, 0, len(group))
	place := make([]int, len(group)) // in params
	first := make(map[string]int)
	for i, d := range group {
		if earlier, known := first[d.key]; known && d.key != "" {
			place[i] = place[earlier]
			continue
		}
		first[d.key], place[i] = i, len(params)
		params = append(params, d.params)
	}

	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	results, err := s.insert(ctx, params)
	if err == nil && len(results) != len(params) {
		err = fmt.Errorf("%d of %d inserts were answered", len(results), len(params))
	}
	for i, d := range group {
		answer := storeAnswer{err: err}
		if err == nil {
			answer.duplicate = results[place[i]].UniqueSkippedAsDuplicate || d.key != "" && first[d.key] != i
		}
		d.answer <- answer
	}
}
