package intercomwebhook

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
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

	// Deliver runs the route that fits the notification now, within the deadline of
	// the request's context. Of the request it needs what a server would set, but for
	// the body; and, if the request had been rewritten in front of the handler, what it
	// was before, as the value of caddyhttp.OriginalRequestCtxKey in its context. The
	// attempt, from 1, is told to the backend.
	Deliver(r *http.Request, body []byte, attempt int) Delivery
}

// Delivery is what came of an attempt to deliver a notification.
type Delivery struct {
	Route string // empty if there was none
	Err   error  // nil if a backend took it; ErrUnrouted if another attempt is no use

	// RetryAfter is how long the backend asks to be left alone, 0 if it does not say.
	RetryAfter time.Duration
}

// ErrUnrouted is why a notification cannot be delivered with the current config: no
// route fits, or none of the route's directives answers.
var ErrUnrouted = errors.New("unrouted")

func (h *Handler) loadQueue(ctx caddy.Context) error {
	if h.QueueRaw == nil {
		return nil
	}
	module, err := ctx.LoadModule(h, "QueueRaw")
	if err != nil {
		return fmt.Errorf("loading queue: %w", err)
	}
	if len(h.routes) == 0 {
		return errQueueWithoutRoute
	}
	h.queue = module.(Queue)
	if err := h.queue.CheckLanes(h.Lanes()); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if err := h.queue.Attach(h); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	return nil
}

var errQueueWithoutRoute = errors.New("queue: there is no route to deliver to; route * is for every topic")

// Lanes implements Endpoint.
func (h *Handler) Lanes() []string {
	lanes := make([]string, len(h.routes))
	for i, route := range h.routes {
		lanes[i] = route.name
	}
	return lanes
}

// ConfigHash implements Endpoint.
func (h *Handler) ConfigHash() [sha256.Size]byte { return h.configHash }

// hashConfig takes the hash of the config, whose parts are gone once they are loaded.
func (h *Handler) hashConfig() error {
	config, err := json.Marshal(h) //nolint:gosec // of which nothing but the hash is kept
	h.configHash = sha256.Sum256(config)
	return err
}

// store puts a notification into the queue, and returns what Intercom is told of it.
func (h *Handler) store(r *http.Request, t *tag, body []byte) (outcome string, status int) {
	lane := ""
	if route, err := routeFor(h.routes, r, t.topic); err == nil && route != nil { // an error will come again, and be told, when it is delivered
		lane = route.name
	}
	duplicate, err := h.queue.Store(r, Notification{Topic: t.topic, AppID: t.appID, ID: t.id, Lane: lane, Body: body})
	switch {
	case err != nil:
		if c := h.floodLogger.Check(zap.ErrorLevel, "notification could not be stored"); c != nil {
			c.Write(zap.Inline(t), zap.Error(err))
		}
		return outcomeUnqueued, http.StatusServiceUnavailable
	case duplicate:
		return outcomeDuplicate, http.StatusOK
	default:
		return outcomeQueued, http.StatusOK
	}
}

// Deliver implements Endpoint.
func (h *Handler) Deliver(r *http.Request, body []byte, attempt int) Delivery {
	r = h.prepare(r)
	t := newTag(r)
	restoreBody(r, body)
	envelope, err := parseEnvelope(body)
	if err != nil {
		return Delivery{Err: err}
	}
	t.kind, t.envelope, t.attempt = kindNotification, envelope, strconv.Itoa(attempt)
	t.setHeaders(r.Header)

	status, err := h.deliver(r, t)
	switch {
	case errors.Is(err, errUnrouted), errors.Is(err, errUnhandled):
		err = fmt.Errorf("%w: %w", ErrUnrouted, err)
	case err == nil && !intercom.Accepts(status):
		err = fmt.Errorf("backend answered %d", status)
	}
	return Delivery{Route: t.route, Err: err, RetryAfter: parseRetryAfter(t.retryAfter, time.Now())}
}

// prepare does to a request what Caddy's server does before it runs handlers, and what
// those in front of this one did to its method and URI.
func (h *Handler) prepare(r *http.Request) *http.Request {
	method, target, uri := r.Method, r.URL, r.RequestURI
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		r.Method, r.URL, r.RequestURI = original.Method, original.URL, original.RequestURI
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), newShield(), h.server)
	r.Method, r.URL, r.RequestURI = method, target, uri
	return r
}

// parseRetryAfter reads the value of a Retry-After header: seconds, or a date. Of one
// that is malformed, or in the past, it makes 0.
// Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
func parseRetryAfter(value string, now time.Time) time.Duration {
	const most = 365 * 24 * time.Hour // keeps the product in bounds
	if seconds, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, most)
	}
	if date, err := http.ParseTime(value); err == nil {
		return min(max(0, date.Sub(now)), most)
	}
	return 0
}

// Interface guard
var _ Endpoint = (*Handler)(nil)
