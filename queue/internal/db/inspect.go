package db

import (
	"context"
	"time"
)

// MaxDeadGroups is how many groups of dead deliveries are told.
const MaxDeadGroups = 500

// Inspector is a DB that people can look at and change. Both engines are one.
type Inspector interface {
	// List returns deliveries that a filter selects, by id, and the id from which to go on;
	// 0 after the last one. It looks at a bounded number of rows, so it may return few or
	// none although there are more. It reads no body.
	List(ctx context.Context, filter Filter, page Page) (found []Delivery, next int64, err error)

	// Find returns the notifications of an endpoint that have this Intercom id or, if it is a
	// number, this id in the database, with all that is known of them. At most limit.
	Find(ctx context.Context, endpoint, id string, limit int) ([]Details, error)

	// DeadGroups groups the dead deliveries of an endpoint by topic, lane and reason. It returns the
	// MaxDeadGroups largest, the largest first.
	DeadGroups(ctx context.Context, endpoint string) ([]DeadGroup, error)

	// Change changes those of the deliveries that the filter still selects, and returns their
	// ids once that is durable. Deliveries that have finished after filter.AsOf are not
	// as they were selected, and are left alone, and so are those that are delivering, except
	// by Erase.
	Change(ctx context.Context, change Change) (changed []int64, err error)
}

// Eraser is a DB that can make what was erased unreadable in its files.
type Eraser interface {
	// Scrub makes deleted rows unreadable, as far as that is in the engine's power. Whole
	// rewrites the file, so that not one byte is left, and storing stands still meanwhile. It
	// returns where they may still be, in whole sentences.
	Scrub(ctx context.Context, whole bool) (remains string, err error)
}

// Mover is a DB into which notifications of another one can be moved.
type Mover interface {
	// Import stores notifications with their deliveries and attempts under new ids, and
	// returns once they are durable. What is there already is left as it is: one with the
	// same endpoint, workspace and notification id, or without such an id, with the same
	// endpoint, workspace, topic, receipt time and body. It returns how many it has stored.
	// None of the deliveries may be delivering.
	Import(ctx context.Context, notifications []Details) (stored int, err error)
}

// Joined is a database that was opened beside a Caddy that may use it.
type Joined interface {
	Mover
	Close() error
}

// Filter selects deliveries of an endpoint. A zero field selects all.
type Filter struct {
	Endpoint     string
	States       []State
	Reasons      []Reason
	Statuses     []int  // of the last attempt; 4 is every 4xx
	Topic        string // a pattern
	Lane         string
	Workspace    string
	Notification string    // Intercom's id or, if it is a number, that in the database
	Object       string    // an object, or its id alone
	Since, Until time.Time // stored at or after, and before
	Error        string    // text in the last error or in the answer to that attempt; ASCII in upper or lower case
	AsOf         time.Time // not finished after this time
	Uncancelled  bool      // not dead as cancelled

	FinishedSince, FinishedUntil time.Time // delivered or dead at or after, and before
}

// Page says which part of the selected deliveries to return.
type Page struct {
	From   int64 // the id to begin with; 0: the first, or with Newest the last
	Limit  int
	Newest bool // from the newest to the oldest
}

// Delivery is a delivery as it is in the database.
type Delivery struct {
	ID             int64
	Notification   int64  // id of the row
	NotificationID string // Intercom's
	Object         string
	Endpoint       string
	Workspace      string
	Topic          string
	Lane           string
	Fixed          bool
	State          State
	Reason         Reason
	Attempts       int
	StoredAt       time.Time
	AgeFrom        time.Time // when a person retried it, or StoredAt
	DueAt          time.Time // of a retrying one, when the next attempt is; of a waiting one that is on hold, until when
	Order          Order
	FinishedAt     time.Time // zero unless it is delivered or dead

	// Of the last attempt.
	Upstream string
	Status   int
	Duration time.Duration
	Error    string // empty if it was successful
}

// Details are a notification and all that is known of its deliveries.
type Details struct {
	Notification
	Deliveries []DeliveryDetails // by id
}

// Release makes deliveries that are delivering what they are once their claims are released.
func (d *Details) Release() {
	for i := range d.Deliveries {
		one := &d.Deliveries[i].Delivery
		switch {
		case one.State != Delivering:
		case one.Attempts == 0:
			one.State = Waiting
		default:
			one.State, one.DueAt = Retrying, one.StoredAt
		}
	}
}

// DeliveryDetails are a delivery and its failed attempts, the oldest first.
type DeliveryDetails struct {
	Delivery
	History []Attempt
}

// DeadGroup is what the dead deliveries of a group have in common.
type DeadGroup struct {
	Topic  string
	Lane   string
	Reason Reason

	Count          int64
	Oldest, Newest time.Time // when the first and the last one finished
	Error          string    // of the newest one
}

// Action is what a person does with deliveries.
type Action string

// The actions.
const (
	// Retry makes deliveries that are not delivering or waiting already waiting, with their
	// whole schedule before them: attempts from 0, age from now.
	Retry Action = "retry"

	// Send makes for each delivery another one of its notification, fixed to the lane
	// Change.To and waiting; if the notification has one in that lane, it is retried instead.
	// What was sent, unless it was delivered, is then dead as cancelled, with the error "sent to <lane>".
	Send Action = "send"

	// Drop deletes deliveries, and notifications with their last delivery.
	Drop Action = "drop"

	// Erase is Drop, of deliveries that are delivering, too.
	Erase Action = "erase"
)

// Change says what to do with which deliveries.
type Change struct {
	Action Action
	To     string // the lane of Send
	Filter Filter
	IDs    []int64
}
