package intercomwebhook

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"time"
)

// Queue is a guest module that stores notifications durably, and delivers them later.
// Its namespace is `http.intercom_webhook.queues`.
type Queue interface {
	// CheckLanes returns an error if the queue has options for a lane that is not in
	// lanes. These are the lanes of the routes and copies.
	CheckLanes(lanes []string) error

	// LaneLabel returns the name of a lane in metrics and logs, which tells lanes of several
	// endpoints apart.
	LaneLabel(lane string) string

	// Attach tells the queue whose notifications it stores and delivers. It is called
	// once, before Store.
	Attach(endpoint Endpoint) error

	// Store stores the notification and its copies. It returns nil only when the notification can no
	// longer be lost, because Intercom then gets 200 and does not send it again. After an
	// error Intercom gets 503. If the queue has the notification already, Store does not
	// store it again, and reports a duplicate.
	Store(r *http.Request, n Notification) (duplicate bool, err error)

	// Ready returns nil if a notification could be stored now, and otherwise an error that
	// says why not. It returns when ctx ends. Load balancers ask often, so it must be cheap:
	// what is tried in the database is tried at most about once a second.
	Ready(ctx context.Context) error
}

// Notification is a verified notification, for a Queue.
type Notification struct {
	Topic  string
	Kind   string   // the topic if it is a known one, or else "other"
	AppID  string   // of the workspace; may be empty
	ID     string   // empty if Intercom gave none
	Lane   string   // of the first route that fits; empty if none does
	Copies []string // lanes of the copies that fit
	Body   []byte   // must not be changed
}

// Endpoint is the handler, as its Queue sees it.
type Endpoint interface {
	// Lanes returns the lanes of the routes, in the order of the routes, and then those of
	// the copies.
	Lanes() []string

	// Topics returns the topics of notifications that can come to a lane, for labels of
	// metrics: known topics, and "other" for those that are not known. For an empty lane,
	// these are the topics of notifications that can fit no route.
	Topics(lane string) []string

	// ConfigHash returns the same hash for handlers with the same config.
	ConfigHash() [sha256.Size]byte

	// Route finds the route or copy with the lane to, whatever its matchers say, or the one that
	// fits the notification now if to is empty. It returns the lane of the route, empty if
	// there is none, and a function that delivers the notification. The function may be
	// called once. It obeys the deadline of the request's context.
	//
	// The request needs everything that a server sets, except the body. If it was
	// rewritten before it came to the handler, its context must have the original request
	// as the value of caddyhttp.OriginalRequestCtxKey. The backend gets the number of the
	// attempt, which starts at 1.
	Route(r *http.Request, body []byte, attempt int, to string) (lane string, deliver func() Delivery)
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
