package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// store inserts notifications in batches. Those that arrive while a transaction is being
// committed share the next one, so that they wait for the disk together. One that arrives
// alone is inserted at once.
type store struct {
	db        db.DB
	book      *book
	pacer     *pacer
	laneOf    func(db.Lane) *lane // nil if this instance does not work on it
	committed func(error)         // is called after each batch

	incoming   chan *insert
	stopped    chan struct{} // closed when no further notifications are accepted
	committing sync.WaitGroup

	latency  atomic.Int64 // of answers, a moving average, in nanoseconds
	answered atomic.Int64 // when the last one was given, as Unix time in nanoseconds
}

// insert is a notification that waits to be stored.
type insert struct {
	*db.NewNotification
	acquired int     // bytes of memory
	lanes    []*lane // by delivery; those that have reserved a place; nil if none has
	answer   chan insertAnswer
}

type insertAnswer struct {
	duplicate bool
	err       error
}

const (
	// The largest batch, in notifications and in bytes.
	maxBatch     = 256
	maxBatchSize = 16 << 20

	// committers is how many batches are inserted at the same time, so that one can be
	// written while another waits for the disk or the network.
	committers = 2

	// commitTimeout is how long a batch may take. It is shorter than the 5s after which
	// Intercom gives up.
	commitTimeout = 4 * time.Second

	// insertOverhead is what a notification takes in memory besides its body, about.
	insertOverhead = 4 << 10

	// contactAge is how old the last sign of the database may be while a notification could be
	// stored.
	contactAge = 10 * time.Second

	// maxInsert bounds the bytes that one notification acquires, so that it can get them.
	maxInsert = totalMemory - laneMemory
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
		s.committing.Go(s.commitAll)
	}
}

// stop accepts no further notifications, and returns when all accepted ones are answered.
func (s *store) stop() {
	close(s.stopped)
	s.committing.Wait()
}

// insert returns when the notification is durable. If the context ends before, insert
// returns an error, but the notification may still be stored.
func (s *store) insert(ctx context.Context, n *db.NewNotification) (duplicate bool, err error) {
	began := time.Now()
	s.pacer.storing()
	defer func() {
		took := time.Since(began)
		s.pacer.answered(took)
		s.noteLatency(took)
	}()
	// the body, and a copy of it on its way to the database
	p := &insert{NewNotification: n, acquired: min(2*len(n.Body)+insertOverhead, maxInsert), answer: make(chan insertAnswer, 1)}
	if err := s.book.acquire(ctx, p.acquired); err != nil {
		return false, err
	}
	select {
	case s.incoming <- p: // whoever reads it gives back the memory
	case <-s.stopped:
		s.book.release(p.acquired)
		return false, errClosed
	case <-ctx.Done():
		s.book.release(p.acquired)
		return false, fmt.Errorf("waiting to be stored: %w", ctx.Err())
	}
	select {
	case answer := <-p.answer:
		return answer.duplicate, answer.err
	case <-ctx.Done():
		return false, fmt.Errorf("being stored: %w", ctx.Err())
	}
}

// noteLatency keeps a moving average. That a concurrent update is lost now and then does
// not matter.
func (s *store) noteLatency(latency time.Duration) {
	s.latency.Store((7*s.latency.Load() + int64(latency)) / 8)
	s.answered.Store(time.Now().UnixNano())
}

// answerTime returns the average latency of answers; 0 if none was given in the last second.
func (s *store) answerTime() time.Duration {
	if time.Since(time.Unix(0, s.answered.Load())) >= time.Second {
		return 0
	}
	return time.Duration(s.latency.Load())
}

func (s *store) commitAll() {
	for {
		select {
		case p := <-s.incoming:
			s.commit(p)
		case <-s.stopped:
			return
		}
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
			s.reserveLanes(p, token)
			notifications[i] = p.NewNotification
		}
		return notifications
	})
	if err == nil && len(results) != len(batch) {
		err = fmt.Errorf("the database answered %d of %d inserts", len(results), len(batch))
	}
	for i, p := range batch {
		p.answer <- insertAnswer{duplicate: err == nil && results[i].Duplicate, err: err}
	}
	s.committed(err)
	if err != nil {
		results = make([]db.Stored, len(batch)) // nothing is known to be stored
	}
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

// reserveLanes lets the insert claim those deliveries whose lanes have room for them.
func (s *store) reserveLanes(p *insert, token db.Token) {
	p.lanes = nil
	for i := range p.Deliveries {
		p.Deliveries[i].Token = 0
		to := s.laneOf(db.Lane{Endpoint: p.Endpoint, Name: p.Deliveries[i].Lane})
		if to == nil {
			continue
		}
		moved := 0 // the body is handed over once
		if p.lanes == nil {
			moved = min(len(p.Body), p.acquired)
		}
		if !to.reserve(p.Workspace, len(p.Body), moved) {
			continue
		}
		p.acquired -= moved
		if p.lanes == nil {
			p.lanes = make([]*lane, len(p.Deliveries))
		}
		p.lanes[i], p.Deliveries[i].Token = to, token
	}
}

// handOver gives the deliveries of stored notifications to the lanes that have reserved
// places for them. It tells the other lanes that the database has something to claim.
func (s *store) handOver(batch []*insert, results []db.Stored, token db.Token) {
	now := time.Now()
	byLane := make(map[*lane][]*delivery)
	toClaim := make(map[db.Lane]bool)
	var all []*delivery
	acquired := 0
	for i, p := range batch {
		acquired += p.acquired
		stored := results[i].ID != 0
		for place, to := range p.Deliveries {
			name := db.Lane{Endpoint: p.Endpoint, Name: to.Lane}
			switch reserved := p.lanes != nil && p.lanes[place] != nil; {
			case reserved && stored:
				d := &delivery{
					id: db.DeliveryID(results[i].ID, place), token: token, lane: name,
					note: p.Notification, fixed: to.Fixed, claimed: now, fromMemory: true,
				}
				all = append(all, d)
				byLane[p.lanes[place]] = append(byLane[p.lanes[place]], d)
			case reserved:
				p.lanes[place].unreserve(p.Workspace, len(p.Body))
			case stored:
				toClaim[name] = true
			}
		}
	}
	s.book.stored(token, all, acquired)
	for lane, deliveries := range byLane {
		lane.accept(deliveries)
	}
	for name := range toClaim {
		if lane := s.laneOf(name); lane != nil {
			lane.refill(true)
		}
	}
}

// contact remembers when the database last did what it was asked for.
type contact struct {
	mu   sync.Mutex
	last time.Time
	err  error // since then
}

var errNoContact = errors.New("the database has not answered for 10 s")

// note records a commit or a heartbeat, or its failure.
func (c *contact) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err = err; err == nil {
		c.last = time.Now()
	}
}

// check returns an error if the last one is too old, or something since has failed.
func (c *contact) check(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return fmt.Errorf("the database: %w", c.err)
	case now.Sub(c.last) > contactAge:
		return errNoContact
	default:
		return nil
	}
}
