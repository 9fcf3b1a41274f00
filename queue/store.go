package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// store inserts notifications in batches. Those that arrive while a transaction is being
// committed share the next one, so that they wait for the disk together. One that arrives
// alone is inserted at once.
type store struct {
	dispatcher *dispatcher
	memory     *semaphore.Weighted // bytes of notifications that are being stored
	incoming   chan *pendingInsert
	stopped    chan struct{} // closed when no further notifications are accepted

	committing sync.WaitGroup

	latency  atomic.Int64 // of answers, a moving average, in nanoseconds
	answered atomic.Int64 // when the last one was given, as Unix time in nanoseconds
}

// pendingInsert is a notification that waits to be inserted, with its copies.
type pendingInsert struct {
	pendingJob
	copies []pendingJob // whose jobs are in job.With
	logger *zap.Logger
	answer chan insertResult
}

// pendingJob is a job that waits to be inserted.
type pendingJob struct {
	job  *jobdb.NewJob
	note *notification
	lane *lane // has reserved a place for it; nil if none has
}

// newPendingInsert returns the insert of a notification and its copies.
func newPendingInsert(note *notification, n intercomwebhook.Notification, a *attachment) *pendingInsert {
	p := &pendingInsert{pendingJob: pendingJob{job: note.job(n.Lane, a.options), note: note}, logger: a.logger}
	for _, lane := range n.Copies {
		copied, job := note.copyFor(lane, a.options)
		p.copies = append(p.copies, pendingJob{job: job, note: copied})
		p.job.With = append(p.job.With, job)
	}
	return p
}

// size returns the bytes of the jobs.
func (p *pendingInsert) size() int {
	size := len(p.job.Args)
	for _, copied := range p.copies {
		size += len(copied.job.Args)
	}
	return size
}

type insertResult struct {
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

	// storingMemory bounds, in bytes, the notifications that are being stored, together
	// with their jobs.
	storingMemory = 48 << 20

	// slowAnswer is the latency from which on deliveries yield the processors to storing. It
	// is half of the 500 ms after which Intercom lowers an endpoint's priority.
	slowAnswer = 250 * time.Millisecond

	// memoryTimeout is how long a notification waits for memory before it is refused.
	memoryTimeout = 2 * time.Second
)

var (
	errStoreClosed = errors.New("the queue is closed")
	errNoMemory    = errors.New("too many bytes are being stored at once")
)

func newStore(d *dispatcher) *store {
	return &store{
		dispatcher: d,
		memory:     semaphore.NewWeighted(storingMemory),
		incoming:   make(chan *pendingInsert),
		stopped:    make(chan struct{}),
	}
}

// start starts to insert, so many batches at the same time. Calls of insert before wait for
// it.
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

// reserve waits until there is memory to store so many jobs with a body of this size. The
// caller must call release when they are stored.
func (s *store) reserve(ctx context.Context, size, jobs int) (release func(), err error) {
	// the body, and each job twice, because it is copied on its way to the database
	weight := min(int64(size)+int64(jobs)*(2*int64(size)+4<<10), storingMemory)
	ctx, cancel := context.WithTimeout(ctx, memoryTimeout)
	defer cancel()
	if err := s.memory.Acquire(ctx, weight); err != nil {
		return nil, errNoMemory
	}
	return func() { s.memory.Release(weight) }, nil
}

// insert returns when the notification is durable. If the context ends before, insert
// returns an error, but the notification may still be stored.
func (s *store) insert(ctx context.Context, p *pendingInsert) (duplicate bool, err error) {
	p.answer = make(chan insertResult, 1)
	began := time.Now()
	defer func() { s.noteLatency(time.Since(began)) }()
	select {
	case s.incoming <- p:
	case <-s.stopped:
		return false, errStoreClosed
	case <-ctx.Done():
		return false, fmt.Errorf("waiting to be stored: %w", ctx.Err())
	}
	select {
	case result := <-p.answer:
		return result.duplicate, result.err
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

// recentLatency returns the average latency of answers; 0 if none was given in the last second.
func (s *store) recentLatency() time.Duration {
	if time.Since(time.Unix(0, s.answered.Load())) >= time.Second {
		return 0
	}
	return time.Duration(s.latency.Load())
}

// slow reports whether Intercom gets its answers late now.
func (s *store) slow() bool { return s.recentLatency() > slowAnswer }

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
func (s *store) commit(p *pendingInsert) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	token := s.dispatcher.held.newToken()
	defer s.dispatcher.held.settle(token)
	b := &batch{inserts: []*pendingInsert{p}}
	collected := false
	results, err := s.dispatcher.db.Store(ctx, func() []*jobdb.NewJob {
		collected = true
		b.gather(s.incoming)
		return s.jobs(b, token)
	})
	if !collected {
		p.answer <- insertResult{err: err}
		return
	}
	if err == nil && len(results) != len(b.groups) {
		err = fmt.Errorf("the database answered %d of %d inserts", len(results), len(b.groups))
	}
	for i, g := range b.groups {
		result := jobdb.Stored{Err: err}
		if err == nil {
			result = results[i]
		}
		g.answer(result)
		s.handOverAll(g.first, result)
	}
}

// jobs returns the jobs to insert. A job whose lane has room for it is claimed for the lane
// by the insert. Jobs are in the order of their keys: two transactions that insert the same
// keys in different orders would wait for each other.
func (s *store) jobs(b *batch, token jobdb.Token) []*jobdb.NewJob {
	b.groupDuplicates()
	jobs := make([]*jobdb.NewJob, len(b.groups))
	for i, g := range b.groups {
		jobs[i] = g.first.job
		s.reserveLane(&g.first.pendingJob, token)
		for k := range g.first.copies {
			s.reserveLane(&g.first.copies[k], token)
		}
	}
	return jobs
}

// reserveLane reserves a place in the lane of the job, if there is room.
func (s *store) reserveLane(p *pendingJob, token jobdb.Token) {
	p.job.Token = 0
	if lane := s.dispatcher.lane(p.job.Queue); lane != nil && lane.reserve(p.job) {
		p.lane, p.job.Token = lane, token
	}
}

// handOverAll gives a notification and its copies to their lanes. It logs the copies that
// the database has refused.
func (s *store) handOverAll(p *pendingInsert, result jobdb.Stored) {
	s.handOver(&p.pendingJob, result)
	for i := range p.copies {
		copied := jobdb.Stored{Duplicate: true} // it is not stored, as the notification is not
		if i < len(result.With) {
			if copied = result.With[i]; copied.Err != nil {
				p.logger.Error("the database refuses a copy of a notification: the copy is lost; the notification is stored",
					zap.String("lane", p.copies[i].job.Queue), zap.String("topic", p.note.Topic), zap.String("app_id", p.note.AppID), zap.String("id", p.note.ID), zap.Error(copied.Err))
			}
		}
		s.handOver(&p.copies[i], copied)
	}
}

// handOver gives a stored job to the lane that has reserved a place for it. If none has, it
// tells the lane that the database has a job to claim.
func (s *store) handOver(p *pendingJob, result jobdb.Stored) {
	stored := result.Err == nil && !result.Duplicate
	switch {
	case p.lane != nil && stored:
		p.lane.take(&heldJob{
			id: result.ID, token: p.job.Token, queue: p.job.Queue, workspace: workspaceOf(p.job), attempt: 1, claimed: time.Now(),
			size: len(p.job.Args), note: p.note,
		})
	case p.lane != nil:
		p.lane.unreserve(p.job)
	case stored:
		if lane := s.dispatcher.lane(p.job.Queue); lane != nil {
			lane.claimMore()
		}
	}
}

// batch has the inserts of one transaction.
type batch struct {
	inserts []*pendingInsert
	groups  []*duplicates
}

// duplicates are inserts with the same unique key. Only the first is stored.
type duplicates struct {
	first  *pendingInsert
	others []*pendingInsert
}

// gather adds all inserts that wait, until the batch is full.
func (b *batch) gather(incoming <-chan *pendingInsert) {
	size := b.inserts[0].size()
	for len(b.inserts) < maxBatch && size < maxBatchSize {
		select {
		case p := <-incoming:
			b.inserts = append(b.inserts, p)
			size += p.size()
		default:
			return
		}
	}
}

// groupDuplicates sorts the inserts by key and makes the groups.
func (b *batch) groupDuplicates() {
	slices.SortStableFunc(b.inserts, func(x, y *pendingInsert) int { return bytes.Compare(x.job.UniqueKey, y.job.UniqueKey) })
	for i, p := range b.inserts {
		if i > 0 && p.job.UniqueKey != nil && bytes.Equal(p.job.UniqueKey, b.inserts[i-1].job.UniqueKey) {
			last := b.groups[len(b.groups)-1]
			last.others = append(last.others, p)
			continue
		}
		b.groups = append(b.groups, &duplicates{first: p})
	}
}

// answer answers the first with its result, and the others as duplicates of it.
func (g *duplicates) answer(result jobdb.Stored) {
	g.first.answer <- insertResult{duplicate: result.Duplicate, err: result.Err}
	for _, p := range g.others {
		p.answer <- insertResult{duplicate: result.Err == nil, err: result.Err}
	}
}
