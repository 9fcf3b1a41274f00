package worker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// The budget of bytes for all bodies under way has two parts, so that neither storing nor delivering
// can keep out the other. What is being stored belongs to the requests that bring it, in the package
// body; this is the part of the lanes.
const (
	laneMemory  = 64 << 20 // beyond it, each lane may have one delivery or claim
	claimMemory = 4 << 20  // for the deliveries of one claim
)

// delivery is a delivery that this process has claimed and whose outcome is not written yet.
type delivery struct {
	id       int64
	token    db.Token
	lane     *lane
	note     *db.Notification
	fixed    bool // it goes to its lane whatever the routes say
	ordered  bool // the next one of its object waits for its outcome
	stale    bool
	attempts int // that have ended
	claimed  time.Time
	age      time.Duration // when it was claimed
	outcome  db.Outcome    // to be written

	begun atomic.Bool
}

// released ends a claim that counts as no attempt.
var released = db.Outcome{State: db.Waiting}

// begin reports whether the delivery may begin: it may once, and not after the book has dropped it.
func (d *delivery) begin() bool { return d.begun.CompareAndSwap(false, true) }

// ageNow returns the time since the delivery was stored, or since a person retried it.
func (d *delivery) ageNow() time.Duration { return d.age + time.Since(d.claimed) }

// book says what this process holds. A row that is marked as delivering for this instance and is not
// in the book was claimed in a transaction whose reply was lost.
type book struct {
	mu         sync.Mutex
	last       db.Token          // the newest one
	pending    map[db.Token]bool // claims that wait for a reply
	deliveries map[int64]*delivery
	bytes      int // of all lanes, with what is reserved for deliveries to come
}

func newBook() *book {
	return &book{
		last:       db.Token(time.Now().UnixNano()), // so that the tokens of two processes differ
		pending:    make(map[db.Token]bool),
		deliveries: make(map[int64]*delivery),
	}
}

// newToken returns the token of a claim. The caller must call claimed once its reply is known.
func (b *book) newToken() db.Token {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	b.pending[b.last] = true
	return b.last
}

// reserve reserves bytes for deliveries to come of a lane. A lane may have as many as it leaves
// free, so one alone may have half, and two a third each: what a lane leaves free is there for the
// others when its backend hangs. A lane that has nothing may have any number, so it always goes on.
func (b *book) reserve(l *lane, bytes int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.bytes > 0 && bytes > laneMemory-b.bytes-l.bytes {
		return false
	}
	b.count(l, bytes)
	return true
}

// unreserve gives back bytes that were reserved.
func (b *book) unreserve(l *lane, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(l, -bytes)
}

func (b *book) count(l *lane, bytes int) {
	b.bytes += bytes
	l.bytes += bytes
}

// claimed ends a claim: its deliveries, of which there are none if it has failed, are in the book.
// Their bytes are reserved. An earlier claim of one is forgotten: a released delivery can be claimed
// again before this process knows that its release is written.
func (b *book) claimed(token db.Token, deliveries []*delivery) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range deliveries {
		if earlier := b.deliveries[d.id]; earlier != nil {
			b.forget(earlier)
		}
		b.deliveries[d.id] = d
	}
	delete(b.pending, token)
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
		b.count(d.lane, -len(d.note.Body))
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
		if held[id] != d.token && d.claimed.Before(asked) && d.begin() {
			b.forget(d)
		}
	}
	return lost
}
