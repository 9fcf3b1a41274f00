package intercomwebhook

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Route is an ordinary route of Caddy for notifications, usually with an
// `intercom_topic` matcher, and with a name.
type Route struct {
	caddyhttp.Route

	// The name of the route in logs and metrics, and of its lane in a queue:
	// lower-case letters and digits, joined by single `-` or `_`, 64 at most.
	// Default: the first topic pattern, as in `conversation-user` for
	// `conversation.user.*`; `default` for `*`.
	Lane string `json:"lane,omitempty"`
}

// laneName is what a queue of River, and so a lane, may be called.
var laneName = regexp.MustCompile(`^[a-z0-9]+([_-][a-z0-9]+)*$`)

const maxLaneLength = 64

func checkLane(name string) error {
	if len(name) > maxLaneLength || !laneName.MatchString(name) {
		return fmt.Errorf("lane %q: give it a name of lower-case letters and digits, joined by single - or _, %d at most", name, maxLaneLength)
	}
	return nil
}

// defaultLane makes a name from a topic pattern.
func defaultLane(pattern string) string {
	if pattern == "*" {
		return "default"
	}
	name := strings.TrimSuffix(pattern, ".*")
	return strings.NewReplacer(".", "-", "*", "any").Replace(name)
}

// route is a Route ready to run.
type route struct {
	name     string
	matchers caddyhttp.MatcherSets
	handler  caddyhttp.Handler
}

// provisionRoutes sets up the routes, and names those that have no lane.
func provisionRoutes(ctx caddy.Context, configured []Route) ([]route, error) {
	routes := make([]route, 0, len(configured))
	for i := range configured {
		c := &configured[i]
		if err := c.Provision(ctx, nil); err != nil {
			return nil, fmt.Errorf("route %d: %w", i, err)
		}
		name := c.Lane
		if patterns := c.patterns(); name == "" && len(patterns) > 0 {
			name = defaultLane(patterns[0])
		}
		name = cmp.Or(name, "route")
		taken := slices.ContainsFunc(routes, func(r route) bool { return r.name == name })
		if taken && c.Lane == "" {
			name = fmt.Sprintf("%s-%d", name, i)
		} else if taken {
			return nil, fmt.Errorf("route %d: lane %q is another route's already", i, name)
		}
		if err := checkLane(name); err != nil {
			return nil, fmt.Errorf("route %d: %w", i, err)
		}
		routes = append(routes, route{name, c.MatcherSets, c.compile()})
	}
	return routes, nil
}

// compile makes a handler that runs the route without asking its matchers again,
// and never anything behind it.
func (r Route) compile() caddyhttp.Handler {
	r.MatcherSets, r.Group, r.Terminal = nil, "", false
	return r.Compile(unhandled)
}

// patterns returns the topic patterns of the route's matchers, in their order.
func (r Route) patterns() []string {
	var patterns []string
	for _, set := range r.MatcherSets {
		for _, matcher := range set {
			if topics, ok := matcher.(*MatchTopic); ok {
				patterns = append(patterns, *topics...)
			}
		}
	}
	return patterns
}

// routeFor returns the first route that fits the request, or nil.
func routeFor(routes []route, r *http.Request) (*route, error) {
	for i := range routes {
		fits, err := routes[i].matchers.AnyMatchWithError(r)
		if err != nil {
			return nil, fmt.Errorf("matching route %s: %w", routes[i].name, err)
		}
		if fits {
			return &routes[i], nil
		}
	}
	return nil, nil
}
