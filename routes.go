package intercomwebhook

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
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

// laneName matches the names that River allows for its queues. A lane is one.
var laneName = regexp.MustCompile(`^[a-z0-9]+([_-][a-z0-9]+)*$`)

const maxLaneLength = 64

func checkLane(name string) error {
	if len(name) > maxLaneLength || !laneName.MatchString(name) {
		return fmt.Errorf("lane %q: the name must be lower-case letters and digits, joined by single - or _, at most %d characters", name, maxLaneLength)
	}
	return nil
}

// fallbackLane is the lane of a route that has neither a lane nor a topic pattern.
const fallbackLane = "route"

var repeatedSeparators = regexp.MustCompile(`[_-]{2,}`)

// defaultLane makes a valid name from a valid topic pattern.
func defaultLane(pattern string) string {
	if pattern == "*" {
		return "default"
	}
	name := strings.ToLower(strings.TrimSuffix(pattern, ".*"))
	name = strings.NewReplacer(".", "-", "*", "any").Replace(name)
	name = strings.Trim(repeatedSeparators.ReplaceAllString(name, "-"), "_-")
	name = strings.TrimRight(name[:min(len(name), maxLaneLength)], "_-")
	return cmp.Or(name, fallbackLane)
}

// route is a Route that is ready to run.
type route struct {
	lane      string
	matchers  caddyhttp.MatcherSets
	handler   caddyhttp.Handler
	namesPing bool
}

// provisionRoutes makes the routes ready to run. A route without a lane gets one.
func provisionRoutes(ctx caddy.Context, configured []Route) ([]route, error) {
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
		name := c.Lane
		if patterns := c.patterns(); name == "" && len(patterns) > 0 {
			name = defaultLane(patterns[0])
		}
		name = cmp.Or(name, fallbackLane)
		duplicate := slices.ContainsFunc(routes, func(r route) bool { return r.lane == name })
		if duplicate && c.Lane == "" {
			name = fmt.Sprintf("%s-%d", name, i)
		} else if duplicate {
			return nil, fmt.Errorf("route %d: another route already has the lane %q: give one of them another lane", i, name)
		}
		if err := checkLane(name); err != nil {
			return nil, fmt.Errorf("route %d: %w", i, err)
		}
		routes = append(routes, route{name, c.MatcherSets, c.compile(), slices.Contains(c.patterns(), intercom.TopicPing)})
	}
	return routes, nil
}

// compile returns a handler that runs the handlers of the route. It does not evaluate the
// matchers again, and calls no handler after the route.
func (r Route) compile() caddyhttp.Handler {
	r.MatcherSets, r.Group, r.Terminal = nil, "", false
	return r.Compile(unhandled)
}

// result is what came of running a route.
type result struct {
	lane string // empty if no route fits
	Delivery
}

// MarshalLogObject writes the result to the logs.
func (r result) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	if r.lane != "" {
		enc.AddString("route", r.lane)
	}
	if r.Status != 0 {
		enc.AddInt("backend_status", r.Status)
	}
	return nil
}

// findRoute finds the route with the lane to, whatever its matchers say, or the first one
// that fits the notification now if to is empty. It returns the name of its lane, empty if
// there is no such route or a matcher failed, and a function that runs the route once and
// returns the result.
func (h *Handler) findRoute(r *http.Request, t *tag, to string) (lane string, run func() result) {
	var route *route
	var err error
	if to == "" {
		route, err = matchRoute(h.routes, r, t.topic)
	} else {
		route, err = routeOfLane(h.routes, to)
	}
	if route != nil {
		lane = route.lane
	}
	return lane, func() result {
		ran := result{lane: lane, Delivery: Delivery{Err: err}}
		if route != nil {
			ran.Delivery = newShield().run(route.handler, r)
			if !errors.Is(ran.Err, ErrUnrouted) {
				backendResponsesTotal.WithLabelValues(lane, codeLabel(ran.Status, ran.Err)).Inc()
			}
		}
		if panicked, ok := errors.AsType[*panicError](ran.Err); ok {
			h.logPanic(panicked, zap.Inline(t), zap.Inline(ran))
		}
		return ran
	}
}

// matchRoute returns the first route that fits the request, or an error. A ping fits only
// routes that name it.
func matchRoute(routes []route, r *http.Request, topic string) (fitting *route, err error) {
	defer catchPanic(&err)
	for i := range routes {
		if topic == intercom.TopicPing && !routes[i].namesPing {
			continue
		}
		fits, err := routes[i].matchers.AnyMatchWithError(r)
		if err != nil { // its text is not used, because it may quote the request
			return nil, fmt.Errorf("a matcher of route %s failed", routes[i].lane)
		}
		if fits {
			return &routes[i], nil
		}
	}
	return nil, fmt.Errorf("%w: no route for this topic", ErrUnrouted)
}

// takesPing reports whether a ping goes to one of the routes.
func (h *Handler) takesPing(r *http.Request) bool {
	_, err := matchRoute(h.routes, r, intercom.TopicPing)
	return !errors.Is(err, ErrUnrouted)
}

// routeOfLane returns the route with a lane, or an error.
func routeOfLane(routes []route, lane string) (*route, error) {
	i := slices.IndexFunc(routes, func(r route) bool { return r.lane == lane })
	if i < 0 {
		return nil, fmt.Errorf("%w: no route has the lane %q", ErrUnrouted, lane)
	}
	return &routes[i], nil
}
