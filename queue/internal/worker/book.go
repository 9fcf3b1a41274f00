package worker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// delivery is a delivery that this process has claimed and whose outcome is not written yet.
type delivery struct {
	id         int64
	token      db.Token
	lane       db.Lane
	note       *db.Notification
	fixed      bool // it goes to its lane whatever the routes say
	attempts   int  // that have ended
	claimed    time.Time
	age        time.Duration // when it was claimed
	fromMemory bool          // it was claimed when it was stored

	state atomic.Int32
}

// The states of a delivery in this process.
const (
	notBegun int32 = iota
	begun
	dropped // another instance has it, or its row is gone
)

// begin reports whether the delivery may begin. It may not if it was dropped.
func (d *delivery) begin() bool { return d.state.CompareAndSwap(notBegun, begun) }

// drop prevents the delivery. It returns false if it has begun.
func (d *delivery) drop() bool { return d.state.CompareAndSwap(notBegun, dropped) }

// ageNow returns the time since the delivery was stored, or since a person retried it.
func (d *delivery) ageNow() time.Duration { return d.age + time.Since(d.claimed) }

// size returns the bytes that are counted for the delivery.
func (d *delivery) size() int { return len(d.note.Body) }

// book says what this process holds: the claims that wait for a reply of the database, the
// deliveries, and the bytes. A row that is marked as delivering for this instance and is not
// in the book was claimed in a transaction whose reply was lost.
type book struct {
	mu         sync.Mutex
	last       db.Token          // the newest one
	pending    map[db.Token]bool // claims that wait for a reply
	deliveries map[int64]*delivery
	memory     memory
}

// memoryTimeout is how long a notification waits for memory before it is refused.
const memoryTimeout = 2 * time.Second

var errNoMemory = errors.New("too many bytes are being stored at once")

func newBook() *book {
	return &book{
		last:       db.Token(time.Now().UnixNano()), // so that the tokens of two processes differ
		pending:    make(map[db.Token]bool),
		deliveries: make(map[int64]*delivery),
		memory:     newMemory(),
	}
}

// newToken returns the token of a claim. The caller must call settled when the deliveries of
// the claim are in the book, or when it has failed.
func (b *book) newToken() db.Token {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.nextToken()
}

func (b *book) nextToken() db.Token {
	b.last++
	b.pending[b.last] = true
	return b.last
}

// acquire waits until there is memory to store so many bytes. They must be given back to
// release.
func (b *book) acquire(ctx context.Context, bytes int) error {
	b.mu.Lock()
	granted := b.memory.acquire(bytes)
	b.mu.Unlock()
	if granted == nil {
		return nil
	}
	timer := time.NewTimer(memoryTimeout)
	defer timer.Stop()
	select {
	case <-granted:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.memory.giveUp(granted) {
		return errNoMemory
	}
	return nil // granted at the last moment
}

// full reports whether storing a notification would have to wait for memory.
func (b *book) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.memory.waiting) > 0
}

// reserve reserves bytes of a lane for a delivery that is being stored. If it does, it gives
// back moved bytes that were acquired to store the notification, because they are counted for
// the lane now. It returns false if the lane has no memory left.
func (b *book) reserve(lane db.Lane, size, moved int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.memory.reserve(lane, size) {
		return false
	}
	b.memory.release(moved)
	return true
}

func (b *book) unreserve(lane db.Lane, size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.memory.add(lane, -size)
}

// reserveClaim fills in the token and the bytes of a claim, and reserves the bytes. It
// returns false if the lane has no memory left. The caller must call claimed with the reply.
func (b *book) reserveClaim(claim *db.Claim) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	bytes, ok := b.memory.reserveClaim(claim.Lane)
	if ok {
		claim.Token, claim.MaxBytes = b.nextToken(), bytes
	}
	return ok
}

// claimed adds the deliveries of a claim, of which there are none if it has failed. Their
// bytes replace those that reserveClaim has reserved.
func (b *book) claimed(claim db.Claim, deliveries []*delivery) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.memory.add(claim.Lane, -claim.MaxBytes)
	for _, d := range deliveries {
		b.memory.add(d.lane, d.size())
		b.put(d)
	}
	delete(b.pending, claim.Token)
}

// stored ends the claim of a batch that was stored, and gives back the bytes that are still
// acquired for it. The bytes of the deliveries are reserved.
func (b *book) stored(token db.Token, deliveries []*delivery, acquired int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range deliveries {
		b.put(d)
	}
	delete(b.pending, token)
	b.memory.release(acquired)
}

// release gives back bytes that were acquired.
func (b *book) release(bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.memory.release(bytes)
}

// put adds a delivery whose bytes are counted. It forgets an earlier claim of it: a released
// delivery can be claimed again before this process knows that its release is written.
func (b *book) put(d *delivery) {
	if earlier := b.deliveries[d.id]; earlier != nil {
		b.forget(earlier)
	}
	b.deliveries[d.id] = d
}

// takeRefused reports whether a lane was refused memory since the last call.
func (b *book) takeRefused() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	refused := b.memory.refused
	b.memory.refused = false
	return refused
}

// remove removes deliveries whose outcomes are written.
func (b *book) remove(deliveries []*delivery) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range deliveries {
		b.forget(d)
	}
}

func (b *book) forget(d *delivery) {
	if b.deliveries[d.id] == d {
		delete(b.deliveries, d.id)
		b.memory.add(d.lane, -d.size())
	}
}

// reconcile compares the book with the rows that the database has as held by this instance,
// as it said when it was asked. It returns outcomes that release the rows that are not in
// the book. It drops deliveries that this instance no longer holds, but none that was claimed
// later, or that has begun.
func (b *book) reconcile(rows []db.Held, asked time.Time) (lost []db.Outcome) {
	held := make(map[int64]db.Token, len(rows))
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, row := range rows {
		held[row.ID] = row.Token
		d := b.deliveries[row.ID]
		if !b.pending[row.Token] && (d == nil || d.token != row.Token) {
			lost = append(lost, db.Outcome{ID: row.ID, Token: row.Token, State: db.Waiting})
		}
	}
	for id, d := range b.deliveries {
		if held[id] != d.token && d.claimed.Before(asked) && d.drop() {
			b.forget(d)
		}
	}
	return lost
}
