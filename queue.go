package intercomwebhook

import (
	"errors"
	"net/http"
	"time"
)

// Queue is a guest module that stores notifications durably, and delivers them later.
// Its namespace is `http.intercom_webhook.queues`.
type Queue interface {
	// CheckLanes returns an error if the queue has options for a lane that is not among
	// the lanes of the routes and copies.
	CheckLanes(lanes []string) error

	// LaneLabel returns the name of a lane in metrics and logs, which tells lanes of several
	// endpoints apart.
	LaneLabel(lane string) string

	// Attach tells the queue whose notifications it stores and delivers. It is called
	// once, before Store.
	Attach(endpoint Endpoint) error

	// Store stores the notification, and its copies, and returns nil only when they can no
	// longer be lost, because Intercom then gets 200 and does not send it again. After an
	// error Intercom gets 503.
	Store(r *http.Request, n Notification) (Stored, error)

	// Ready returns nil if a notification could be stored now, and otherwise an error that
	// says why not. It does not wait.
	Ready() error
}

// Notification is a verified notification, for a Queue.
type Notification struct {
	Topic     string
	Workspace string   // may be empty
	ID        string   // empty if Intercom gave none
	Lane      string   // of the first route that fits; empty if none does
	Copies    []string // lanes of the copies that fit
	Body      []byte   // must not be changed

	// CopiesOnly is true if no route is to deliver the notification, and none is missing.
	CopiesOnly bool

	// Of the notifications with the same lane, workspace and Once, only the first in the time
	// OnceWithin is delivered to the route. If Once is empty, each one is.
	Once       string
	OnceWithin time.Duration
}

// Stored is what a Queue did with a notification.
type Stored int

// What it can do.
const (
	StoredNew       Stored = iota
	StoredDuplicate        // it has the notification already, and did not store it again
	StoredTwin             // it has one with the same Once, so it stored only the copies
)

// Endpoint is the handler, as its Queue sees it.
type Endpoint struct {
	// Lanes are those of the routes, in the order of the routes, and then those of the copies.
	Lanes []Lane

	// ConfigHash is the same for handlers with the same config.
	ConfigHash string

	// Route finds the route or copy with the lane to, whatever its matchers say, or the one
	// that fits the notification now if to is empty. It returns the lane of the route, empty
	// if there is none, and a function that delivers the notification. The function may be
	// called once. It obeys the deadline of the request's context.
	//
	// The request needs everything that a server sets, except the body. If it was
	// rewritten before it came to the handler, its context must have the original request
	// as the value of caddyhttp.OriginalRequestCtxKey. The backend gets what the attempt has.
	Route func(r *http.Request, body []byte, attempt Attempt, to string) (lane string, deliver func() Delivery)
}

// Lane is the lane of a route or a copy.
type Lane struct {
	Name string
	Copy bool
}

func (l Lane) kind() string {
	if l.Copy {
		return "copy"
	}
	return "route"
}

// Attempt is what a backend is told about an attempt to deliver a notification.
type Attempt struct {
	Number int  // of the attempt, from 1
	Stale  bool // a newer notification about the same object has been delivered
}

// Delivery is what came of an attempt to deliver a notification.
type Delivery struct {
	Upstream string // the address that reverse_proxy chose; empty if it chose none
	Status   int    // the status of the backend's answer; 0 if there was none
	Answer   []byte // the first 1 KiB of the answer's body

	// RetryAfter is how long the backend wants to get no requests; 0 if it does not say.
	RetryAfter time.Duration

	// Err is nil if the backend answered 2xx. It is ErrUnrouted if another attempt with
	// the same config would fail, too. Its text is safe to log and to store.
	Err error
}

// ErrUnrouted is the error for a notification that the current config cannot deliver: no
// route fits or has the lane, or no handler of the route answers.
var ErrUnrouted = errors.New("unrouted")
