package intercomwebhook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// loadQueue loads the queue, if there is one, and attaches the handler to it.
func (h *Handler) loadQueue(ctx caddy.Context) error {
	switch {
	case h.QueueRaw == nil && len(h.copies) > 0:
		return errCopyWithoutQueue
	case h.QueueRaw == nil:
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
	endpoint := Endpoint{ConfigHash: hex.EncodeToString(h.configHash[:]), Route: h.route}
	for _, route := range h.routes {
		endpoint.Lanes = append(endpoint.Lanes, Lane{Name: route.lane})
	}
	for _, one := range h.copies {
		endpoint.Lanes = append(endpoint.Lanes, Lane{Name: one.lane, Copy: true})
	}
	if err := h.queue.CheckLanes(h.lanes()); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if err := h.queue.Attach(endpoint); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	readiness, err := readinessOf(ctx)
	if err != nil {
		return err
	}
	readiness.queues = append(readiness.queues, h.queue)
	return nil
}

var errQueueWithoutRoute = errors.New("queue: there is no route to deliver to; add one, such as route * for every topic")

// lanes returns the lanes of the routes, and then those of the copies.
func (h *Handler) lanes() []string {
	var lanes []string
	for _, route := range h.routes {
		lanes = append(lanes, route.lane)
	}
	for _, one := range h.copies {
		lanes = append(lanes, one.lane)
	}
	return lanes
}

// label returns the name of a lane in metrics and logs.
func (h *Handler) label(lane string) string {
	if h.queue == nil {
		return lane
	}
	return h.queue.LaneLabel(lane)
}

// hashConfig computes the hash of the config. It must run before the modules in the config
// are loaded, because Caddy clears their raw JSON then.
func (h *Handler) hashConfig() error {
	config, err := json.Marshal(h) //nolint:gosec // only the hash is kept
	h.configHash = sha256.Sum256(renumberGroups(config))
	return err
}

// generatedGroup is the group of routes that exclude each other, such as those of handle
// directives, as the Caddyfile adapter writes it. In a string of JSON, quotes have a
// backslash before them, so it does not occur there.
var generatedGroup = regexp.MustCompile(`"group":"group\d+"`)

// renumberGroups numbers the generated groups from 0. The Caddyfile adapter counts them over
// all sites, so the numbers of one handler depend on what is before it in the file.
func renumberGroups(config []byte) []byte {
	numbers := make(map[string]int)
	return generatedGroup.ReplaceAllFunc(config, func(group []byte) []byte {
		number, known := numbers[string(group)]
		if !known {
			number = len(numbers)
			numbers[string(group)] = number
		}
		return fmt.Appendf(nil, `"group":"group%d"`, number)
	})
}

// store puts a notification into the queue, and returns the outcome and the status for
// Intercom.
func (h *Handler) store(r *http.Request, t *tag, body []byte) (outcome string, status int) {
	n := Notification{Topic: t.topic, Workspace: t.appID, ID: t.id, Copies: h.copiesOf(r, t), Body: body}
	// An error of a matcher is not reported here: it comes again at the delivery.
	if route, err := h.findRoute(r, t, ""); err == nil {
		n.Lane = route.lane
		t.result.lane, t.result.label = route.lane, h.label(route.lane)
	}
	duplicate, err := h.queue.Store(r, n)
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

// route is Endpoint.Route.
func (h *Handler) route(r *http.Request, body []byte, attempt int, to string) (lane string, deliver func() Delivery) {
	r = h.prepare(r)
	t := newTag(r)
	restoreBody(r, body)
	envelope, err := parseEnvelope(body)
	if err != nil {
		return "", func() Delivery { return Delivery{Err: err} }
	}
	t.attempt = strconv.Itoa(attempt)
	t.setNotification(r.Header, envelope)
	route, err := h.findRoute(r, t, to)
	if route != nil {
		lane = route.lane
		route.resign(r.Header, body)
	}
	return lane, func() Delivery { return h.run(r, t, route, err).Delivery }
}

// prepare makes a request look as it did when it first came to this handler: prepared by
// Caddy's server, and then with the method and URI that earlier handlers gave it.
func (h *Handler) prepare(r *http.Request) *http.Request {
	method, target, uri := r.Method, r.URL, r.RequestURI
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		r.Method, r.URL, r.RequestURI = original.Method, original.URL, original.RequestURI
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), newShield(), h.server)
	r.Method, r.URL, r.RequestURI = method, target, uri
	return r
}
