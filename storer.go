package intercomwebhook

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/body"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

var (
	errQueueWithoutRoute = errors.New("queue: there is no route to deliver to; add one, such as route * for every topic")
	errOnceWithoutQueue  = errors.New("once needs a queue: without one, nothing is known of the notifications before; add `queue`")
	errCopyWithoutQueue  = errors.New("copy needs a queue: a copy is stored with its notification and delivered later, and without a queue nothing is stored; add `queue`")
)

// storer puts notifications into the queue, and delivers them when the queue says so.
type storer struct {
	queue       Queue
	router      *router
	server      *caddyhttp.Server // nil outside of a server
	floodLogger *zap.Logger
}

// attach attaches the routes and copies to the queue.
func (s *storer) attach(configHash []byte) error {
	if !slices.ContainsFunc(s.router.routes, func(one route) bool { return !one.ignores }) {
		return errQueueWithoutRoute
	}
	endpoint := Endpoint{Lanes: s.router.lanes(), ConfigHash: hex.EncodeToString(configHash), Route: s.prepareDelivery}
	var names []string
	for _, lane := range endpoint.Lanes {
		names = append(names, lane.Name)
	}
	if err := s.queue.CheckLanes(names); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if err := s.queue.Attach(endpoint); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	return nil
}

// store puts a notification into the queue, and returns the outcome and the status for
// Intercom.
func (s *storer) store(r *http.Request, t *tag, content []byte) (outcome string, status int) {
	n := Notification{Topic: t.Topic, Workspace: t.AppID, ID: t.ID, Copies: s.router.copiesOf(r, t), Body: content}
	// An error of a matcher is not reported here: it comes again at the delivery.
	route, err := s.router.match(r, t.Topic)
	switch {
	case err == nil && route.ignores && len(n.Copies) == 0:
		return s.router.ignored(t), http.StatusOK
	case err == nil && route.ignores:
		n.CopiesOnly = true
	case err == nil:
		n.Lane = route.lane
		t.result.lane, t.result.label = route.lane, s.router.label(route.lane)
		if route.once.within > 0 {
			n.Once, n.OnceWithin = t.fields.Text(route.once.field), route.once.within
		}
	case n.Topic == intercom.TopicPing:
		n.CopiesOnly = true // it is stored only because of its copies
	}
	stored, err := s.queue.Store(r, n)
	switch {
	case err != nil:
		if c := s.floodLogger.Check(zap.ErrorLevel, "notification could not be stored"); c != nil {
			c.Write(zap.Inline(t), zap.Error(err))
		}
		return outcomeUnqueued, http.StatusServiceUnavailable
	case stored == StoredDuplicate:
		return outcomeDuplicate, http.StatusOK
	case stored == StoredTwin, route != nil && route.ignores:
		return s.router.ignored(t), http.StatusOK
	default:
		return outcomeQueued, http.StatusOK
	}
}

// prepareDelivery is Endpoint.Route.
func (s *storer) prepareDelivery(r *http.Request, content []byte, attempt Attempt, to string) (lane string, deliver func() Delivery) {
	r = s.prepare(r)
	t := newTag(r)
	body.Restore(r, content)
	parsed, err := s.router.parse(t, schemeOf(r.Header), content)
	if err != nil {
		return "", func() Delivery { return Delivery{Err: err} }
	}
	t.attempt, t.stale = strconv.Itoa(attempt.Number), attempt.Stale
	t.setNotification(r.Header, parsed)
	var found *route
	if to == "" {
		found, err = s.router.matchStored(r, t.Topic)
	} else {
		found, err = s.router.ofLane(to)
	}
	if found != nil {
		lane = found.lane
		found.resign(r.Header, content)
	}
	return lane, func() Delivery { return Delivery(s.router.run(r, t, found, err).Outcome) }
}

// schemeOf returns the scheme of a notification whose signature was verified when it came.
func schemeOf(header http.Header) *signature.Scheme {
	if _, fin := header[signature.Fin.Header]; fin {
		return signature.Fin
	}
	return signature.Hub
}

// prepare makes a request look as it did when it first came to this handler: prepared by
// Caddy's server, and then with the method and URI that earlier handlers gave it.
func (s *storer) prepare(r *http.Request) *http.Request {
	method, target, uri := r.Method, r.URL, r.RequestURI
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		r.Method, r.URL, r.RequestURI = original.Method, original.URL, original.RequestURI
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), shield.New(), s.server)
	r.Method, r.URL, r.RequestURI = method, target, uri
	return r
}
