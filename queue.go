package intercomwebhook

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"time"
)

// Queue is a guest module that stores notifications durably, and delivers them later.
// Its namespace is `http.intercom_webhook.queues`.
type Queue interface {
	// CheckLanes returns an error if the queue has options for a lane that is none
	// of these, which are those of the routes.
	CheckLanes(lanes []string) error

	// Attach tells the queue, before anything is stored, whose notifications it is
	// to store and deliver.
	Attach(endpoint Endpoint) error

	// Store keeps the request and returns nil only once it can no longer be lost.
	// Intercom is answered 200 then, or 503. It reports whether the notification is
	// one that it has already, which it then does not store again.
	Store(r *http.Request, n Notification) (duplicate bool, err error)
}

// Notification is what a Queue is told of a verified request.
type Notification struct {
	Topic string
	Kind  string // the topic if it is a known one, or else "other"
	AppID string // of the workspace; may be empty
	ID    string // empty for one that Intercom gave no id
	Lane  string // of the first route that fits; empty if none does
	Body  []byte // not to be changed
}

// Endpoint is the handler, as its Queue sees it.
type Endpoint interface {
	// Lanes returns the names of the routes, in their order.
	Lanes() []string

	// ConfigHash is the same for handlers that are configured alike.
	ConfigHash() [sha256.Size]byte

	// Route finds the route that fits the notification now. It returns the name of the
	// route, empty if there is none, and a function that runs it once, within the deadline
	// of the request's context. Of the request it needs what a server would set, but for
	// the body; and, if the request had been rewritten in front of the handler, what it
	// was before, as the value of caddyhttp.OriginalRequestCtxKey in its context. The
	// attempt, from 1, is told to the backend.
	Route(r *http.Request, body []byte, attempt int) (lane string, deliver func() Delivery)
}

// Delivery is what came of an attempt to deliver a notification.
type Delivery struct {
	Upstream string // the address of the backend, where reverse_proxy chose one
	Status   int    // what the backend answered; 0 if it gave no answer
	Answer   []byte // the first 1 KiB of what it said

	// RetryAfter is how long the backend asks to be left alone, 0 if it does not say.
	RetryAfter time.Duration

	Err error // nil if a backend took it; ErrUnrouted if another attempt is no use
}

// ErrUnrouted is why a notification cannot be delivered with the current config: no
// route fits, or none of the route's directives answers.
var ErrUnrouted = errors.New("unrouted")
