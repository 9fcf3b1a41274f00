// Package db is the interface between the queue's worker and an engine that keeps
// notifications in a database, and has the rows that they exchange.
//
// A notification is stored once, with one delivery for each lane that it goes to. A
// delivery is waiting until it is claimed, delivering while an instance has it, retrying
// between two attempts, and in the end delivered or dead.
package db

import (
	"context"
	"errors"
	"time"
)

// DB stores notifications and hands out their deliveries. All methods may be called at the
// same time from several goroutines. All times that are stored or compared are the
// database's.
//
// An error of a method means that its effect is unknown: the database may have done it, and
// the reply was lost. No method fails because of what is in a notification.
type DB interface {
	// Store inserts notifications and their deliveries in one transaction, and returns once
	// they are durable. It calls collect, once, when it may write, so that notifications
	// that arrive while it waits share the transaction. Results are in the order of the
	// notifications.
	//
	// A notification with the same endpoint, workspace and notification id as one that is
	// there, or as an earlier one of the batch, is a duplicate: nothing of it is stored, and
	// Store returns when the first one is as durable as a new one would be.
	Store(ctx context.Context, collect func() []*NewNotification) ([]Stored, error)

	// Of the deliveries of a lane with the same Order.Key, at most one has its turn: the first
	// that is not finished, by Order.CreatedAt and then by id, once its hold is over and none of
	// them is delivering. Only that one is claimed.
	//
	// Claim marks up to claim.Limit deliveries of a lane as delivering with the claim's
	// token, and returns them. It takes waiting ones, and retrying ones that are due; neither
	// kind keeps the other from its half. Of waiting ones, workspaces take turns, the one
	// behind claim.After first, and each workspace's are taken in the order in which they
	// were stored. It reports whether there may be more to claim now.
	Claim(ctx context.Context, claim Claim) (claimed []Claimed, more bool, err error)

	// Finish ends claims. An outcome has an effect only while its claim holds the delivery.
	// It returns the ids of those that had one.
	Finish(ctx context.Context, outcomes []Outcome) (applied []int64, err error)

	// Held returns all deliveries that are marked as delivering for this instance. Those that
	// the process does not know of come from a lost reply, and are to be released.
	Held(ctx context.Context) ([]Held, error)

	// Heartbeat tells that this instance lives and what it works on, and returns what is
	// known of the live others that share the database.
	Heartbeat(ctx context.Context, self Presence) (Peers, error)

	// TakeOver releases the deliveries of instances that are gone: those without a
	// heartbeat for GoneAfter by the database's clock, which must not have stepped forward
	// in that time. They count as not attempted.
	TakeOver(ctx context.Context) (released int64, err error)

	// Backlog counts the waiting, delivering, retrying and dead deliveries of each lane, and
	// what is held back in it, as of now. Its cost grows with their number, and not with that of
	// delivered ones. Of names, it returns the first 100 characters.
	Backlog(ctx context.Context) ([]LaneCount, []HeldBack, error)

	// Expire deletes up to expiry.Limit delivered and dead deliveries of the endpoint that are
	// older than they are kept, and notifications with their last delivery. It looks at a
	// bounded number of rows, those after the cursor first, and returns the next cursor; 0
	// when it has looked at all that could be old enough.
	Expire(ctx context.Context, expiry Expiry) (deleted int64, cursor int64, err error)

	// Paused returns the paused lanes.
	Paused(ctx context.Context) ([]Lane, error)

	// SetPaused pauses or resumes a lane.
	SetPaused(ctx context.Context, lane Lane, paused bool) error

	// Instance returns the name of this process in the database: the host's name and a
	// number.
	Instance() string

	// Close ends all use of the database. It tells the others that this instance is gone.
	Close() error
}

// State is the state of a delivery.
type State string

// The states of a delivery.
const (
	Waiting    State = "waiting"    // for its first attempt, or its first one since a person retried it
	Delivering State = "delivering" // claimed by an instance
	Retrying   State = "retrying"   // between two attempts
	Delivered  State = "delivered"
	Dead       State = "dead" // will not be tried again unless a person retries it
)

// States are all states, in the order of a delivery's life.
var States = []State{Waiting, Delivering, Retrying, Delivered, Dead}

// Reason says why a delivery is dead.
type Reason string

// The reasons.
const (
	Attempts  Reason = "attempts"  // it had max_attempts
	Age       Reason = "age"       // it was older than max_age
	Refused   Reason = "refused"   // the backend's status is one of dead_on
	Unrouted  Reason = "unrouted"  // no route fits, or answers
	Cancelled Reason = "cancelled" // by a person
)

// Reasons are all reasons.
var Reasons = []Reason{Attempts, Age, Refused, Unrouted, Cancelled}

// Lane is a lane of an endpoint.
type Lane struct{ Endpoint, Name string }

// Notification is a notification as it came.
type Notification struct {
	ID             int64 // in the database; 0 before it is stored
	Endpoint       string
	Workspace      string
	Topic          string
	NotificationID string // Intercom's; empty if it gave none
	Object         string // what it is about: type and id, as in conversation:123, at most 200 bytes; may be empty
	ReceivedAt     time.Time
	Request        Request
	Body           []byte
}

// NewNotification is a notification to be stored. It has up to MaxDeliveries deliveries.
type NewNotification struct {
	*Notification
	Deliveries []NewDelivery
	Once       Once
}

// Once is for notifications that are one thing to the first of their deliveries. Only the first of those
// with the same key within the time is new. The others are twins: their first delivery is not stored,
// and nothing of one that has no other.
type Once struct {
	Key    string // at most 64 bytes; empty: it has no twins
	Within time.Duration
}

// NewDelivery is a delivery to be stored with its notification.
type NewDelivery struct {
	Lane  string
	Fixed bool  // it goes to its lane whatever the routes say, as a copy does
	Token Token // claims it at once; 0, or with an order: it is stored as waiting
	Order Order
	Hold  time.Duration // until its turn can come, if it has an order
}

// Order says in which order the deliveries of a lane are made that are about the same object.
type Order struct {
	Key       string    // of the object, at most MaxOrderKey bytes; empty: it has no order
	CreatedAt time.Time // of the notification, by Intercom's clock, after 1970 and before 2200
}

// MaxOrderKey is the longest key of an order, in bytes.
const MaxOrderKey = 200

// MaxDeliveries is how many deliveries a notification can have, over its whole life.
const MaxDeliveries = 100

// DeliveryID returns the id of a delivery: the place of the first one is 0. So the
// deliveries of a notification are a range of the primary key, which needs no further index.
func DeliveryID(notification int64, place int) int64 {
	return notification*MaxDeliveries + int64(place)
}

// NotificationOf returns the id of a delivery's notification.
func NotificationOf(delivery int64) int64 { return delivery / MaxDeliveries }

// Stored is what came of a notification to be stored.
type Stored struct {
	ID        int64 // of the notification; 0 for a duplicate, and for a twin of which nothing is stored
	Duplicate bool
	Twin      bool // see Once
}

// Token names one claim. Tokens of one instance are never used twice, and not 0. Who holds
// a delivery is known by the instance and the token.
type Token int64

// Claim says what to claim.
type Claim struct {
	Lane     Lane
	Token    Token
	Limit    int
	MaxBytes int     // of bodies in all; a first one that is larger is returned all the same
	After    string  // the workspace of the last waiting delivery that this lane has claimed
	Except   []int64 // ids of deliveries to leave alone
	Ordered  bool    // deliveries with an order get their turns
}

// Claimed is a claimed delivery.
type Claimed struct {
	ID           int64
	Notification *Notification
	Fixed        bool
	Attempts     int           // that have ended since it was stored or retried by a person
	Age          time.Duration // since it was stored, or retried by a person; never negative
	Ordered      bool          // it has an order
	Stale        bool          // one behind it in the order is delivered, and kept
}

// Outcome ends a claim.
type Outcome struct {
	ID    int64
	Token Token

	// State is Delivered, Retrying or Dead after an attempt. Waiting releases the delivery:
	// the claim counts as no attempt, and the delivery is waiting or retrying as before it.
	State   State
	Reason  Reason        // of a dead one
	Delay   time.Duration // until the next attempt of a retrying one
	Attempt *Attempt      // nil if it is released
	Ordered bool          // the next one of its object must not be claimed before this is durable
}

// Attempt is an attempt to deliver. All of them leave upstream, status and duration in the
// delivery. One that failed is a row of its own, too.
type Attempt struct {
	At       time.Time // when it ended
	Instance string
	Upstream string // empty if none was chosen
	Status   int    // 0 if there was no answer
	Duration time.Duration
	Error    string // empty if it was successful
	Answer   []byte // the first 1 KiB of its body
}

// Held is a delivery that is marked as delivering for this instance.
type Held struct {
	ID    int64
	Token Token
}

// Presence is what an instance tells the others.
type Presence struct {
	Instance string            // set by the engine
	Version  string            // of the program
	Lanes    []Lane            // that it works on
	Configs  map[string]string // by endpoint: a hash of its config
}

// Peers are the other live instances.
type Peers struct {
	Others    []Presence
	Exclusive bool      // nobody else can have the database
	Now       time.Time // by the database's clock
}

// GoneAfter is how old the heartbeat of an instance may be while it is taken to be live.
const GoneAfter = 30 * time.Second

// LaneCount is how many deliveries of a lane are in a state.
type LaneCount struct {
	Lane   Lane
	State  State
	Count  int64
	Oldest time.Duration // age of the oldest one, since it was stored
}

// HeldBack is what waits in a lane for the turns of objects whose first delivery is not
// finished.
type HeldBack struct {
	Lane    Lane
	Objects int64
	Oldest  time.Duration // age of the oldest delivery that is held back
	By      string        // Intercom's id of the notification that holds it back or, without one, its number
}

// Expiry says which deliveries to delete.
type Expiry struct {
	Endpoint      string
	KeepDelivered time.Duration
	KeepDead      time.Duration
	Limit         int
	Cursor        int64
	All           bool // also look behind rows that are too young: what was moved has older times than its neighbours
}

// A PermanentError is one that only a person can fix: the config that wants the database
// must be refused.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap returns the error itself.
func (e *PermanentError) Unwrap() error { return e.Err }

// IsPermanent reports whether only a person can fix the error.
func IsPermanent(err error) bool {
	_, permanent := errors.AsType[*PermanentError](err)
	return permanent
}

// ErrLocked is the error for a file that another process has open.
var ErrLocked = errors.New("another process uses it: two Caddys need two files, or one PostgreSQL")
