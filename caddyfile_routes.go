package intercomwebhook

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/failover"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// routeParser parses the routes of a handler.
type routeParser struct {
	httpcaddyfile.Helper
	handler  *Handler
	patterns []string        // of the routes so far
	lanes    map[string]bool // of the routes so far
}

// parse parses the segment of a route subdirective.
func (p *routeParser) parse(segment caddyfile.Segment) (Route, error) {
	var route Route
	var topics MatchTopic
	var proxied bool

	d := caddyfile.NewDispenser(segment)
	d.Next() // consume the subdirective name
	last := 0
	for !proxied && d.NextArg() {
		last++
		switch token := d.Val(); {
		case token == "to":
			proxied = true
		case isUpstream(token):
			if slices.Contains(d.RemainingArgs(), "to") {
				return Route{}, d.WrapErr(topicpattern.Check(token))
			}
			given := "route <topics...>"
			if len(topics) > 0 {
				given = join(segment[:last])
			}
			return Route{}, d.Errf("route: `to` is missing before the upstream, as in `%s to %s`", given, token)
		case route.Lane != "":
			return Route{}, d.Errf("unexpected %q after the lane: topics must come before as", token)
		case token == "as":
			if !d.NextArg() {
				return Route{}, d.Err("as: the name of the lane is missing")
			}
			last++
			route.Lane = d.Val()
			if err := p.claimLane(route.Lane); err != nil {
				return Route{}, d.WrapErr(err)
			}
		default:
			if err := topicpattern.Check(token); err != nil {
				return Route{}, d.WrapErr(err)
			}
			if slices.Contains(p.patterns, token) || slices.Contains(topics, token) {
				return Route{}, d.Errf("topic pattern %q already has a route", token)
			}
			topics = append(topics, token)
		}
	}
	if len(topics) == 0 {
		return Route{}, d.Err("route: the topic pattern is missing; * fits every topic")
	}
	if err := checkReachable(topics, p.patterns); err != nil {
		return Route{}, d.Errf("route %s %w", strings.Join(topics, " "), err)
	}
	p.patterns = append(p.patterns, topics...)
	if route.Lane == "" {
		if err := p.claimLane(defaultLane(topics[0])); err != nil {
			return Route{}, d.WrapErr(err)
		}
	}
	route.MatcherSetsRaw = caddyhttp.RawMatcherSets{{"intercom_topic": p.JSON(topics)}}

	rest := segment[last:] // the last token of the line, and the block
	switch {
	case proxied:
		proxy, err := p.parseProxy(rest)
		if err != nil {
			return Route{}, err
		}
		route.HandlersRaw = []json.RawMessage{caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil)}
	case len(rest) == 1:
		return Route{}, d.Err("route: the backend is missing; add `to <upstreams...>` or a block of directives")
	default:
		routes, err := parseDirectives(p.Helper, rest)
		if err != nil {
			return Route{}, err
		}
		route.HandlersRaw = []json.RawMessage{
			caddyconfig.JSONModuleObject(caddyhttp.Subroute{Routes: routes}, "handler", "subroute", nil),
		}
	}
	return route, nil
}

// isUpstream reports whether the token can be an upstream, but not a topic pattern.
func isUpstream(token string) bool {
	return strings.ContainsAny(token, ":{") || strings.HasPrefix(token, "unix/")
}

// join returns the text of the tokens, with spaces between them.
func join(tokens []caddyfile.Token) string {
	words := make([]string, len(tokens))
	for i, token := range tokens {
		words[i] = token.Text
	}
	return strings.Join(words, " ")
}

// claimLane checks the name of a lane. Provision checks it, too, but does not know the line
// of the Caddyfile.
func (p *routeParser) claimLane(name string) error {
	if err := checkLane(name); err != nil {
		return err
	}
	if p.lanes[name] {
		return fmt.Errorf("another route already has the lane %q: give this one another lane with `as <lane>`", name)
	}
	p.lanes[name] = true
	return nil
}

// parseProxy parses `to <upstreams...> [{ <reverse_proxy options> }]`, as
// reverse_proxy parses its own directive.
func (p *routeParser) parseProxy(segment caddyfile.Segment) (*reverseproxy.Handler, error) {
	d := caddyfile.NewDispenser(segment)
	d.Next()
	switch upstreams := d.RemainingArgs(); {
	case len(upstreams) == 0:
		return nil, d.Err("to: the upstream is missing")
	case slices.Contains(upstreams, "as"):
		return nil, d.Err("`as <lane>` must come before `to`")
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
