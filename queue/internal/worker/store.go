package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// store inserts notifications in batches: those that arrive while a transaction is being committed
// share the next one. One that arrives alone is inserted at once.
type store struct {
	db        db.DB
	book      *book
	pacer     *pacer
	laneOf    func(db.Lane) *lane // nil if this instance does not work on it
	committed func(error)         // is called after each batch

	incoming   chan *insert
	stopped    chan struct{} // closed when no further notifications are accepted
	committing sync.WaitGroup
}

// insert is a notification that waits to be stored.
type insert struct {
	*db.NewNotification
	claimed []*delivery // those for which their lanes have room; the id is their place until they are stored

	stored chan struct{} // closed when the result is known
	result db.Stored
	err    error
}

const (
	maxBatch     = 256 // notifications
	maxBatchSize = 16 << 20

	// committers is how many batches are inserted at the same time, so that one can be
	// written while another waits for the disk or the network.
	committers = 2

	commitTimeout = 4 * time.Second // for a batch; Intercom gives up after 5 s
)

var errClosed = errors.New("the queue is closed")

func newStore(database db.DB, book *book, pacer *pacer, laneOf func(db.Lane) *lane, committed func(error)) *store {
	return &store{
		db: database, book: book, pacer: pacer, laneOf: laneOf, committed: committed,
		incoming: make(chan *insert), stopped: make(chan struct{}),
	}
}

// start starts to insert, so many batches at the same time.
func (s *store) start(committers int) {
	for range committers {
		s.committing.Go(func() {
			for {
				select {
				case p := <-s.incoming:
					s.commit(p)
				case <-s.stopped:
					return
				}
			}
		})
	}
}

// stop accepts no further notifications, and returns when all accepted ones are answered.
func (s *store) stop() {
	close(s.stopped)
	s.committing.Wait()
}

// insert returns when the notification is durable. If the context ends before, insert
// returns an error, but the notification may still be stored.
func (s *store) insert(ctx context.Context, n *db.NewNotification) (db.Stored, error) {
	answered := s.pacer.storing()
	defer answered()
	p := &insert{NewNotification: n, stored: make(chan struct{})}
	select {
	case s.incoming <- p:
	case <-s.stopped:
		return db.Stored{}, errClosed
	case <-ctx.Done():
		return db.Stored{}, fmt.Errorf("waiting to be stored: %w", ctx.Err())
	}
	select {
	case <-p.stored:
		return p.result, p.err
	case <-ctx.Done():
		return db.Stored{}, fmt.Errorf("being stored: %w", ctx.Err())
	}
}

// commit inserts a notification, and all others that wait when the transaction begins. It
// answers each, and gives those that are claimed to their lanes.
func (s *store) commit(first *insert) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	token := s.book.newToken()
	batch := []*insert{first}
	results, err := s.db.Store(ctx, func() []*db.NewNotification {
		batch = s.gather(batch)
		notifications := make([]*db.NewNotification, len(batch))
		for i, p := range batch {
			s.claim(p, token)
			notifications[i] = p.NewNotification
		}
		return notifications
	})
	if err == nil && len(results) != len(batch) {
		err = fmt.Errorf("the database answered %d of %d inserts", len(results), len(batch))
	}
	if err != nil {
		results = make([]db.Stored, len(batch)) // nothing is known to be stored
	}
	for i, p := range batch {
		p.result, p.err = results[i], err
		close(p.stored)
	}
	s.committed(err)
	s.handOver(batch, results, token)
}

// gather adds all inserts that wait, until the batch is full.
func (s *store) gather(batch []*insert) []*insert {
	size := len(batch[0].Body)
	for len(batch) < maxBatch && size < maxBatchSize {
		select {
		case p := <-s.incoming:
			batch = append(batch, p)
			size += len(p.Body)
		default:
			return batch
		}
	}
	return batch
}

// claim lets the insert claim those deliveries whose lanes have room for them.
func (s *store) claim(p *insert, token db.Token) {
	for place := range p.Deliveries {
		to := &p.Deliveries[place]
		l := s.laneOf(db.Lane{Endpoint: p.Endpoint, Name: to.Lane})
		if l != nil && to.Order.Key == "" && l.reserve(len(p.Body)) {
			to.Token = token
			p.claimed = append(p.claimed, &delivery{id: int64(place), token: token, lane: l, note: p.Notification, fixed: to.Fixed})
		}
	}
}

// handOver gives the claimed deliveries of stored notifications to their lanes. It tells the
// other lanes that the database has something to claim.
func (s *store) handOver(batch []*insert, results []db.Stored, token db.Token) {
	now := time.Now()
	var stored []*delivery
	for i, p := range batch {
		id := results[i].ID
		for _, d := range p.claimed {
			if id != 0 && (!results[i].Twin || d.id != 0) {
				d.id, d.claimed = db.DeliveryID(id, int(d.id)), now
				stored = append(stored, d)
			} else {
				s.book.unreserve(d.lane, len(p.Body))
				d.lane.accept(nil, 1)
			}
		}
		for _, to := range p.Deliveries {
			if id != 0 && to.Token == 0 {
				if lane := s.laneOf(db.Lane{Endpoint: p.Endpoint, Name: to.Lane}); lane != nil {
					lane.refill(true)
					if to.Hold > 0 {
						time.AfterFunc(to.Hold, func() { lane.refill(true) })
					}
				}
			}
		}
	}
	s.book.claimed(token, stored)
	for i, d := range stored {
		d.lane.accept(stored[i:i+1], 1)
	}
}
