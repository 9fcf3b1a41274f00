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
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
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
	if head.name == "copy" {
		lane = lanename.Default(lanename.CopyPrefix, head.topics)
		if slices.ContainsFunc(head.topics, isCopyOption) || slices.ContainsFunc(head.workspaces, isCopyOption) {
			return c, d.WrapErr(errMisplacedOption)
		}
		if head.rest, err = cutOptions(&c, head.rest); err != nil {
			return c, err
		}
	} else if err := p.cover(head); err != nil {
		return c, d.WrapErr(err)
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
	p.covered = append(p.covered, wanted...)
	return nil
}

// assemble parses what follows the first line, and returns the route.
func (p *routeParser) assemble(h head) (Route, error) {
	handler, err := p.parseBackend(h)
	if err != nil {
		return Route{}, err
	}
	matchers := caddy.ModuleMap{"intercom_topic": p.JSON(h.topics)}
	if len(h.workspaces) > 0 {
		matchers["intercom_workspace"] = p.JSON(h.workspaces)
	}
	return Route{
		Route: caddyhttp.Route{MatcherSetsRaw: caddyhttp.RawMatcherSets{matchers}, HandlersRaw: []json.RawMessage{handler}},
		Lane:  h.lane,
	}, nil
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
	switch upstreams := d.RemainingArgs(); {
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

// firstLine returns a dispenser whose errors name the first line of the segment.
func firstLine(segment caddyfile.Segment) *caddyfile.Dispenser {
	d := caddyfile.NewDispenser(segment)
	d.Next()
	return d
}

// head is the first line of a route or copy:
//
//	route <topics...> [for <workspaces...>] [as <lane>] [to ...]
type head struct {
	name       string // of the subdirective
	topics     MatchTopic
	workspaces MatchWorkspace
	lane       string
	proxied    bool // it has `to`

	selection string            // the tokens before `as` and `to`
	rest      caddyfile.Segment // `to`, or else the last token of the line, and all that follows
}

// parseHead parses the first line of a route up to `to`.
func parseHead(segment caddyfile.Segment) (h head, err error) {
	d := firstLine(segment)
	h.name = d.Val()
	args := headArgs{h.name, d.RemainingArgs(), 0}
	if h.topics, err = args.list("topic pattern", topicpattern.Check); err != nil {
		return head{}, d.WrapErr(err)
	}
	if len(h.topics) == 0 {
		return head{}, d.Errf("%s: the topic pattern is missing; * fits every topic", h.name)
	}
	if args.take("for") {
		if h.workspaces, err = args.list("workspace", checkWorkspace); err != nil {
			return head{}, d.WrapErr(err)
		}
		if len(h.workspaces) == 0 {
			return head{}, d.Err("for: the workspace is missing; give the app ids of workspaces, as in `for tulip4`, or leave out `for` to take all of them")
		}
	}
	h.selection = args.parsed()
	if args.take("as") {
		if args.at == len(args.all) {
			return head{}, d.Err("as: the name of the lane is missing")
		}
		h.lane = args.next()
		if err := lanename.Check(h.lane); err != nil {
			return head{}, d.WrapErr(err)
		}
		args.at++
	}
	h.proxied = args.next() == "to"
	h.rest = segment[min(args.at+1, len(args.all)):]
	if args.at < len(args.all) && !h.proxied {
		return head{}, d.WrapErr(args.unexpected(h.lane != ""))
	}
	return h, nil
}

// headArgs are the arguments on the first line of a route.
type headArgs struct {
	name string // of the subdirective
	all  []string
	at   int // the next one to parse
}

// next returns the next argument; empty if there is none.
func (a *headArgs) next() string {
	if a.at == len(a.all) {
		return ""
	}
	return a.all[a.at]
}

func (a *headArgs) take(keyword string) bool {
	found := a.next() == keyword
	if found {
		a.at++
	}
	return found
}

// list parses arguments up to the next keyword.
func (a *headArgs) list(element string, check func(string) error) (list []string, err error) {
	for ; a.at < len(a.all) && !slices.Contains([]string{"for", "as", "to"}, a.next()); a.at++ {
		if isUpstream(a.next()) && !slices.Contains(a.all, "to") {
			return nil, a.missingTo()
		}
		if list, err = appendNew(list, element, a.next(), check); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// parsed returns the line so far.
func (a *headArgs) parsed() string {
	return strings.Join(append([]string{a.name}, a.all[:a.at]...), " ")
}

// unexpected returns the error for an argument that cannot be where it is.
func (a *headArgs) unexpected(behindLane bool) error {
	switch token := a.next(); {
	case isUpstream(token):
		return a.missingTo()
	case !behindLane: // `for` behind the workspaces
		return fmt.Errorf("%s is given twice", token)
	case token == "for":
		return errors.New("`for <workspaces...>` must come before `as <lane>`")
	default:
		return fmt.Errorf("unexpected %q after the lane: topics must come before as", token)
	}
}

func (a *headArgs) missingTo() error {
	given := a.parsed()
	if a.at == 0 {
		given += " <topics...>"
	}
	return fmt.Errorf("%s: `to` is missing before the upstream, as in `%s to %s`", a.name, given, a.next())
}

// isUpstream reports whether the token can be an upstream, but not a topic pattern.
func isUpstream(token string) bool {
	return strings.ContainsAny(token, ":{") || strings.HasPrefix(token, "unix/")
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
