package intercomwebhook

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
)

// Route is an ordinary route of Caddy for notifications, with a lane. Usually it has an
// `intercom_topic` matcher, and an `intercom_workspace` matcher if it is for some workspaces
// only.
type Route struct {
	caddyhttp.Route

	// The name of the route in logs and metrics, and of its lane in a queue:
	// lower-case letters and digits, joined by single `-` or `_`, at most 64 characters.
	// Default: a name made from the first topic pattern, such as `conversation-user`
	// for `conversation.user.*`, and `default` for `*`. If an earlier route has that name,
	// the number of the route follows, counted from 0.
	Lane string `json:"lane,omitempty"`
}

// route is a Route that is ready to run.
type route struct {
	lane      string
	matchers  caddyhttp.MatcherSets
	handler   caddyhttp.Handler
	namesPing bool
	signing   *clientSecrets // of a copy that is signed anew; nil: the signature stays
}

// provisionRoutes makes the routes ready to run. A route without a lane gets one.
func provisionRoutes(ctx caddy.Context, configured []Route, lanes laneSet) ([]route, error) {
	routes := make([]route, 0, len(configured))
	var taken []share // always go to one of the routes so far
	for i := range configured {
		c := &configured[i]
		if err := c.Provision(ctx, nil); err != nil {
			return nil, fmt.Errorf("route %d: %w", i, err)
		}
		possible, certain := c.reach()
		if err := checkReachable(possible, taken); err != nil {
			return nil, fmt.Errorf("route %d %w", i, err)
		}
		taken = append(taken, certain...)
		byDefault := lanename.Default("", c.patterns())
		if lanes[byDefault] {
			byDefault = fmt.Sprintf("%s-%d", byDefault, i)
		}
		ready, err := c.ready(byDefault, lanes)
		if err != nil {
			return nil, fmt.Errorf("route %d: %w", i, err)
		}
		routes = append(routes, ready)
	}
	return routes, nil
}

// ready returns the provisioned route, ready to run. If it has no lane, it gets the default
// one.
func (r Route) ready(defaultLane string, lanes laneSet) (route, error) {
	name := cmp.Or(r.Lane, defaultLane)
	return route{lane: name, matchers: r.MatcherSets, handler: r.compile(), namesPing: slices.Contains(r.patterns(), intercom.TopicPing)}, lanes.claim(name)
}

// laneSet has the lanes of the routes and copies so far.
type laneSet map[string]bool

// claim takes a lane for a route or copy.
func (l laneSet) claim(name string) error {
	if l[name] {
		return fmt.Errorf("another route or copy already has the lane %q: give one of them another lane", name)
	}
	l[name] = true
	return lanename.Check(name)
}

// compile returns a handler that runs the handlers of the route. It does not evaluate the
// matchers again, and calls no handler after the route.
func (r Route) compile() caddyhttp.Handler {
	r.MatcherSets, r.Group, r.Terminal = nil, "", false
	return r.Compile(unhandled)
}

// result is what came of running a route.
type result struct {
	lane     string // empty if no route fits
	label    string // of the lane in metrics and logs
	duration time.Duration
	Delivery
}

// MarshalLogObject writes the result to the logs.
func (r result) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	logging.AddString(enc, "lane", r.label)
	if r.Status != 0 {
		enc.AddInt("backend_status", r.Status)
	}
	return nil
}

// findRoute finds the route or copy with the lane to, whatever its matchers say, or the first
// route that fits the notification now if to is empty.
func (h *Handler) findRoute(r *http.Request, t *tag, to string) (*route, error) {
	if to == "" {
		return matchRoute(h.routes, r, t.topic)
	}
	for i := range h.routes {
		if h.routes[i].lane == to {
			return &h.routes[i], nil
		}
	}
	for i := range h.copies {
		if h.copies[i].lane == to {
			return &h.copies[i].route, nil
		}
	}
	return nil, fmt.Errorf("%w: no route or copy has the lane %q", ErrUnrouted, to)
}

// run runs a route that was found, or returns why none was found.
func (h *Handler) run(r *http.Request, t *tag, route *route, err error) result {
	ran := result{Delivery: Delivery{Err: err}}
	if route != nil {
		start := time.Now()
		ran = result{lane: route.lane, label: h.label(route.lane), Delivery: newShield().run(route.handler, r)}
		ran.duration = time.Since(start)
		if !errors.Is(ran.Err, ErrUnrouted) {
			backendResponsesTotal.WithLabelValues(ran.label, codeLabel(ran.Status, ran.Err)).Inc()
			backendSeconds.WithLabelValues(ran.label).Observe(ran.duration.Seconds())
		}
	}
	if panicked, ok := errors.AsType[*panicError](ran.Err); ok {
		h.logPanic(panicked, zap.Inline(t), zap.Inline(ran))
	}
	return ran
}

// matchRoute returns the first route that fits the request, or an error.
func matchRoute(routes []route, r *http.Request, topic string) (fitting *route, err error) {
	defer catchPanic(&err)
	for i := range routes {
		fits, err := routes[i].fits(r, topic)
		if err != nil {
			return nil, err
		}
		if fits {
			return &routes[i], nil
		}
	}
	return nil, fmt.Errorf("%w: no route for this topic", ErrUnrouted)
}

// fits reports whether the request fits the route. A ping fits only routes that name it.
// A matcher may panic.
func (r *route) fits(request *http.Request, topic string) (bool, error) {
	if topic == intercom.TopicPing && !r.namesPing {
		return false, nil
	}
	fits, err := r.matchers.AnyMatchWithError(request)
	if err != nil { // its text is not used, because it may quote the request
		return false, fmt.Errorf("a matcher of route %s failed", r.lane)
	}
	return fits, nil
}
