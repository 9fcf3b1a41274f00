package intercomwebhook

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/failover"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
)

// routeParser parses the routes and copies of a handler.
type routeParser struct {
	httpcaddyfile.Helper
	handler *Handler
	covered []coverage      // by the routes so far
	lanes   map[string]bool // of the routes and copies so far
}

// parse parses the segment of a route subdirective.
func (p *routeParser) parse(segment caddyfile.Segment) (Route, error) {
	head, err := parseHead(segment)
	if err != nil {
		return Route{}, err
	}
	d := p.firstLine(segment)
	rememberPlace(&head.topics, segment[0].File, segment[0].Line)
	wanted := coverages(head.topics, head.workspaces)
	for _, one := range wanted {
		if slices.Contains(p.covered, one) {
			return Route{}, d.WrapErr(routedTwice(one))
		}
	}
	if err := checkReachable(wanted, p.covered); err != nil {
		return Route{}, d.Errf("%s %w", head.selection, err)
	}
	p.covered = append(p.covered, wanted...)
	if err := p.addLane(cmp.Or(head.lane, lanename.Default("", head.topics))); err != nil {
		return Route{}, d.WrapErr(err)
	}
	return p.assemble(head)
}

// parseCopy parses the segment of a copy subdirective.
func (p *routeParser) parseCopy(segment caddyfile.Segment) (Copy, error) {
	head, err := parseHead(segment)
	if err != nil {
		return Copy{}, err
	}
	rememberPlace(&head.topics, segment[0].File, segment[0].Line)
	if slices.ContainsFunc(head.topics, isCopyOption) || slices.ContainsFunc(head.workspaces, isCopyOption) {
		return Copy{}, p.firstLine(segment).WrapErr(errMisplacedOption)
	}
	if err := p.addLane(cmp.Or(head.lane, lanename.Default(lanename.CopyPrefix, head.topics))); err != nil {
		return Copy{}, p.firstLine(segment).WrapErr(err)
	}
	var c Copy
	if head.rest, err = cutOptions(&c, head.rest); err != nil {
		return Copy{}, err
	}
	c.Route, err = p.assemble(head)
	return c, err
}

// firstLine returns a dispenser whose errors name the first line of the segment.
func (p *routeParser) firstLine(segment caddyfile.Segment) *caddyfile.Dispenser {
	d := caddyfile.NewDispenser(segment)
	d.Next()
	return d
}

func routedTwice(c coverage) error {
	if c.workspace == "" {
		return fmt.Errorf("topic pattern %q already has a route", c.topics)
	}
	return fmt.Errorf("topic pattern %q already has a route for workspace %q", c.topics, c.workspace)
}

// addLane returns an error if an earlier route or copy has the lane. Provision checks that, too,
// but does not know the line of the Caddyfile.
func (p *routeParser) addLane(name string) error {
	if p.lanes[name] {
		return fmt.Errorf("another route or copy already has the lane %q: give this one another lane with `as <lane>`", name)
	}
	p.lanes[name] = true
	return nil
}

// assemble parses what follows the first line, and returns the route.
func (p *routeParser) assemble(head head) (Route, error) {
	handler, err := p.parseBackend(head)
	if err != nil {
		return Route{}, err
	}
	matchers := caddy.ModuleMap{"intercom_topic": p.JSON(head.topics)}
	if len(head.workspaces) > 0 {
		matchers["intercom_workspace"] = p.JSON(head.workspaces)
	}
	return Route{
		Route: caddyhttp.Route{
			MatcherSetsRaw: caddyhttp.RawMatcherSets{matchers},
			HandlersRaw:    []json.RawMessage{handler},
		},
		Lane: head.lane,
	}, nil
}

// parseBackend parses `to ...`, or a block of directives.
func (p *routeParser) parseBackend(head head) (json.RawMessage, error) {
	switch {
	case head.proxied:
		proxy, err := p.parseProxy(head.rest)
		if err != nil {
			return nil, err
		}
		return caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil), nil
	case len(head.rest) == 1:
		return nil, p.firstLine(head.rest).Errf("%s: the backend is missing; add `to <upstreams...>` or a block of directives", head.name)
	default:
		routes, err := parseDirectives(p.Helper, head.rest)
		if err != nil {
			return nil, err
		}
		return caddyconfig.JSONModuleObject(caddyhttp.Subroute{Routes: routes}, "handler", "subroute", nil), nil
	}
}

// parseProxy parses `to <upstreams...> [{ <reverse_proxy options> }]`, as
// reverse_proxy parses its own directive.
func (p *routeParser) parseProxy(segment caddyfile.Segment) (*reverseproxy.Handler, error) {
	d := p.firstLine(segment)
	switch upstreams := d.RemainingArgs(); {
	case len(upstreams) == 0:
		return nil, d.Err("to: the upstream is missing")
	case slices.Contains(upstreams, "as"):
		return nil, d.Err("`as <lane>` must come before `to`")
	case slices.Contains(upstreams, "for"):
		return nil, d.Err("`for <workspaces...>` must come before `to`")
	case slices.ContainsFunc(upstreams, isCopyOption):
		// As upstreams, they would have no effect, and logs would show the secret.
		return nil, d.WrapErr(errMisplacedOption)
	}
	d.Reset()
	proxy := new(reverseproxy.Handler)
	if err := proxy.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(p.Helper); err != nil {
		return nil, err
	}
	if err := failover.SetDefaults(proxy, cmp.Or(p.handler.MaxSize, defaultMaxSize)); err != nil {
		return nil, d.WrapErr(err)
	}
	return proxy, nil
}

// parseDirectives parses a segment that has one token and a block of HTTP directives.
func parseDirectives(h httpcaddyfile.Helper, segment caddyfile.Segment) (caddyhttp.RouteList, error) {
	d := caddyfile.NewDispenser(segment)
	parsed, err := httpcaddyfile.ParseSegmentAsSubroute(h.WithDispenser(d))
	if err != nil {
		return nil, err
	}
	subroute, ok := parsed.(*caddyhttp.Subroute)
	if !ok || len(subroute.Routes) == 0 {
		return nil, d.Err("the block of directives is missing or empty; to do nothing, write { respond 200 }")
	}
	return subroute.Routes, nil
}
