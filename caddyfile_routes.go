package intercomwebhook

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/failover"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

// routeParser parses the routes and copies of a handler.
type routeParser struct {
	httpcaddyfile.Helper
	queued  bool       // there is a queue
	covered []coverage // by the routes so far
	lanes   laneSet    // of the routes and copies so far
}

// parse parses the segment of a route or copy subdirective. Of a route, only Copy.Route is
// used.
func (p *routeParser) parse(segment caddyfile.Segment) (c Copy, err error) {
	head, err := parseHead(segment)
	if err != nil {
		return c, err
	}
	d := firstLine(segment)
	rememberPlace(&head.topics, d.File(), d.Line())
	lane := lanename.Default("", head.topics)
	switch {
	case head.name == "ignore":
		if head.lane != "" || head.once != nil || head.proxied || len(head.rest) > 1 {
			return c, d.Err("ignore: it delivers nothing, and has neither a lane nor `once` nor a backend")
		}
		if err := p.cover(head); err != nil {
			return c, d.WrapErr(err)
		}
		c.Route = Route{Route: caddyhttp.Route{MatcherSetsRaw: p.matchers(head)}, Ignore: true}
		return c, nil
	case head.once != nil && !p.queued:
		return c, d.WrapErr(errOnceWithoutQueue)
	case head.once != nil && head.name == "copy":
		return c, d.Err("once is for routes: a copy gets what comes, whatever becomes of the route's delivery")
	case head.name == "copy":
		lane = lanename.Default(lanename.CopyPrefix, head.topics)
		if slices.ContainsFunc(head.topics, isCopyOption) || slices.ContainsFunc(head.workspaces, isCopyOption) {
			return c, d.WrapErr(errMisplacedOption)
		}
		if head.rest, err = cutOptions(&c, head.rest); err != nil {
			return c, err
		}
	default:
		if err := p.cover(head); err != nil {
			return c, d.WrapErr(err)
		}
	}
	if err := p.lanes.add(cmp.Or(head.lane, lane)); err != nil {
		return c, d.WrapErr(err)
	}
	c.Route, err = p.assemble(head)
	return c, err
}

// cover returns an error if the earlier routes cover the route.
func (p *routeParser) cover(h head) error {
	wanted := coverages(h.topics, h.workspaces)
	for _, one := range wanted {
		switch {
		case !slices.Contains(p.covered, one):
		case one.workspace == "":
			return fmt.Errorf("topic pattern %q already has a route", one.topics)
		default:
			return fmt.Errorf("topic pattern %q already has a route for workspace %q", one.topics, one.workspace)
		}
	}
	if err := checkReachable(wanted, p.covered); err != nil {
		return fmt.Errorf("%s %w", h.selection, err)
	}
	if h.conditions == nil {
		p.covered = append(p.covered, wanted...)
	}
	return nil
}

// assemble parses what follows the first line, and returns the route.
func (p *routeParser) assemble(h head) (Route, error) {
	handler, err := p.parseBackend(h)
	if err != nil {
		return Route{}, err
	}
	return Route{
		Route: caddyhttp.Route{MatcherSetsRaw: p.matchers(h), HandlersRaw: []json.RawMessage{handler}},
		Lane:  h.lane, Once: h.once,
	}, nil
}

// matchers returns those for the selection of the first line.
func (p *routeParser) matchers(h head) caddyhttp.RawMatcherSets {
	matchers := caddy.ModuleMap{"intercom_topic": p.JSON(h.topics)}
	if len(h.workspaces) > 0 {
		matchers["intercom_workspace"] = p.JSON(h.workspaces)
	}
	if len(h.conditions) > 0 {
		matchers["intercom_field"] = p.JSON(h.conditions)
	}
	return caddyhttp.RawMatcherSets{matchers}
}

// parseBackend parses `to ...`, or a block of directives.
func (p *routeParser) parseBackend(h head) (json.RawMessage, error) {
	switch {
	case h.proxied:
		proxy, err := p.parseProxy(h.rest)
		if err != nil {
			return nil, err
		}
		return caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil), nil
	case len(h.rest) == 1:
		return nil, firstLine(h.rest).Errf("%s: the backend is missing; add `to <upstreams...>` or a block of directives", h.name)
	default:
		routes, err := parseDirectives(p.Helper, h.rest)
		if err != nil {
			return nil, err
		}
		return caddyconfig.JSONModuleObject(caddyhttp.Subroute{Routes: routes}, "handler", "subroute", nil), nil
	}
}

// parseProxy parses `to <upstreams...> [{ <reverse_proxy options> }]`, as
// reverse_proxy parses its own directive.
func (p *routeParser) parseProxy(segment caddyfile.Segment) (*reverseproxy.Handler, error) {
	d := firstLine(segment)
	upstreams := d.RemainingArgs()
	late := slices.IndexFunc(upstreams, func(upstream string) bool { return keywords[upstream] != "" })
	switch {
	case late >= 0:
		return nil, d.Errf("`%s` must come before `to`", keywords[upstreams[late]])
	case slices.ContainsFunc(upstreams, isCopyOption):
		// As upstreams, they would have no effect, and logs would show the secret.
		return nil, d.WrapErr(errMisplacedOption)
	}
	d.Reset()
	proxy := new(reverseproxy.Handler)
	if err := proxy.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	if len(proxy.Upstreams) == 0 && proxy.DynamicUpstreamsRaw == nil {
		return nil, firstLine(segment).Err("to: the upstream is missing")
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(p.Helper); err != nil {
		return nil, err
	}
	if err := failover.SetDefaults(proxy, p.queued); err != nil {
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

var copyOptions = []string{"sample", "resign"}

func isCopyOption(name string) bool { return slices.Contains(copyOptions, name) }

var errMisplacedOption = errors.New("`sample <percent>` and `resign <secret>` are options of copy: put them into its block, each on a line of its own")

// cutOptions reads the options of a copy in its block, and returns the segment without them.
func cutOptions(c *Copy, segment caddyfile.Segment) (caddyfile.Segment, error) {
	d := firstLine(segment)
	opening := 1 + len(d.RemainingArgs())
	if opening == len(segment) { // there is no block
		return segment, nil
	}
	rest := slices.Clone(segment[:opening+1])
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		var err error
		switch {
		case seen[name]:
			err = d.Errf("%s is given twice", name)
		case name == "sample":
			c.Sample, err = parseSample(d)
		case name == "resign":
			c.Resign, err = oneArg(d, "resign: the secret is missing, as in `resign {env.STAGING_SECRET}`")
		case misspelt(name) != "":
			err = d.Errf("unknown option %s of copy: did you mean %s?", name, misspelt(name))
		default:
			rest = append(rest, d.NextSegment()...)
			continue
		}
		if err != nil {
			return nil, err
		}
		seen[name] = true
	}
	return append(rest, segment[len(segment)-1]), nil
}

// misspelt returns the option of a copy that is meant with a name that is neither a directive
// nor a named matcher and has a similar spelling, or else an empty string.
func misspelt(name string) string {
	nearest, distance := option.Nearest(name, copyOptions)
	_, err := caddy.GetModule("http.handlers." + name)
	if err == nil || strings.HasPrefix(name, "@") || distance > 2 {
		return ""
	}
	return nearest
}

func parseSample(d *caddyfile.Dispenser) (*float64, error) {
	text, err := oneArg(d, "sample: the percentage is missing, as in `sample 10%`")
	if err != nil {
		return nil, err
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil {
		return nil, d.Errf("sample %q is not a percentage such as 10%% or 0.5%%", text)
	}
	if err := checkSample(percent); err != nil {
		return nil, d.WrapErr(err)
	}
	return &percent, nil
}

// oneArg returns the only argument, which must not be empty.
func oneArg(d *caddyfile.Dispenser, missing string) (text string, err error) {
	none := d.CountRemainingArgs() == 0
	switch alone := d.AllArgs(&text); {
	case none || alone && text == "":
		return "", d.Err(missing)
	case !alone:
		return "", d.ArgErr()
	}
	return text, nil
}
