package intercomwebhook

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("intercom_webhook", parseCaddyfile)
	// In front of all directives that dispatch to backends, of which invoke is the
	// first and handle, route and reverse_proxy follow: nothing unverified gets there.
	httpcaddyfile.RegisterDirectiveOrder("intercom_webhook", httpcaddyfile.Before, "invoke")
}

// subdirectives are those of intercom_webhook, in the order of its grammar.
var subdirectives = []string{"client_secret", "allow", "max_size", "timeout", "route", "app_requests", "queue"}

// parseCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	intercom_webhook [<matcher>] {
//		client_secret <secrets...>
//		allow         <ip source> <args...>
//		max_size      <size>
//		timeout       <duration>
//
//		route <topics...> [as <lane>] to <upstreams...> [{
//			<reverse_proxy options>
//		}]
//		route <topics...> [as <lane>] {
//			<any HTTP directives>
//		}
//		app_requests {
//			<any HTTP directives>
//		}
//		queue [<engine>] ...
//	}
//
// allow and route may be repeated. Options of a `route ... to` that concern
// retries have defaults of their own, see retryOnNextUpstream.
func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	var routes []caddyfile.Segment
	var queue caddyfile.Segment
	seen := make(map[string]bool)

	h.Next() // consume the directive name
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	for h.NextBlock(0) {
		name := h.Val()
		if seen[name] && name != "allow" && name != "route" {
			return nil, h.Errf("%s is given twice", name)
		}
		seen[name] = true

		var err error
		switch name {
		case "client_secret":
			handler.ClientSecrets, err = parseSecrets(h.Dispenser)
		case "allow":
			var source json.RawMessage
			source, err = parseSource(h.Dispenser)
			handler.AllowRaw = append(handler.AllowRaw, source)
		case "max_size":
			handler.MaxSize, err = parseSize(h.Dispenser)
		case "timeout":
			handler.Timeout, err = parseDuration(h.Dispenser, checkDuration)
		case "route":
			// needs max_size, which may still follow
			routes = append(routes, h.NextSegment())
		case "app_requests":
			handler.AppRequests, err = parseDirectives(h, h.NextSegment())
		case "queue":
			// has options for lanes, which may still follow
			queue = h.NextSegment()
		default:
			err = h.Errf("unknown subdirective %s of intercom_webhook: it has %s", name, choices(name, subdirectives))
		}
		if err != nil {
			return nil, err
		}
	}
	if len(handler.ClientSecrets) == 0 {
		return nil, h.WrapErr(errNoSecret)
	}

	parser := routeParser{Helper: h, handler: handler, lanes: make(map[string]bool)}
	for _, segment := range routes {
		route, err := parser.parse(segment)
		if err != nil {
			return nil, err
		}
		handler.Routes = append(handler.Routes, route)
	}
	if len(queue) > 0 {
		var err error
		if handler.QueueRaw, err = parseQueue(queue, parser.lanes); err != nil {
			return nil, err
		}
	}
	return handler, nil
}

func parseSecrets(d *caddyfile.Dispenser) ([]string, error) {
	secrets := d.RemainingArgs()
	if len(secrets) == 0 {
		return nil, d.WrapErr(errNoSecret)
	}
	for i, secret := range secrets {
		if secret == "" {
			return nil, d.Errf("client_secret %d is empty", i+1)
		}
		if slices.Contains(secrets[:i], secret) {
			return nil, d.Errf("client_secret %d stands there twice", i+1)
		}
	}
	return secrets, nil
}

func parseSource(d *caddyfile.Dispenser) (json.RawMessage, error) {
	if !d.NextArg() {
		return nil, d.Err("allow: name an IP source, as in `allow static 192.0.2.0/24`")
	}
	name := d.Val()
	if name == "static" && d.CountRemainingArgs() == 0 {
		return nil, d.WrapErr(errNoRange)
	}
	id := sourceNamespace + "." + name
	if _, err := caddy.GetModule(id); err != nil {
		if isRange(name) {
			return nil, d.Errf("allow: an address range is not an IP source; did you mean `allow static %s`?",
				strings.Join(append([]string{name}, d.RemainingArgs()...), " "))
		}
		return nil, d.Errf("allow: this Caddy has no IP source %q: it has %s", name, choices(name, modulesIn(sourceNamespace)))
	}
	module, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return nil, err
	}
	return caddyconfig.JSONModuleObject(module, "source", name, nil), nil
}

// isRange reports whether the IP source static takes this as a range.
func isRange(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	_, err := netip.ParsePrefix(s)
	return err == nil || s == "private_ranges"
}

func parseSize(d *caddyfile.Dispenser) (int64, error) {
	var text string
	if !d.AllArgs(&text) {
		return 0, d.ArgErr()
	}
	size, err := humanize.ParseBytes(text)
	if err != nil || size == 0 || size >= math.MaxInt64 {
		return 0, d.Errf("max_size %q is not a size such as 4MiB", text)
	}
	return int64(size), nil
}

// parseDuration reads the duration of a subdirective, whose name was just read.
func parseDuration(d *caddyfile.Dispenser, check func(name string, d time.Duration) error) (caddy.Duration, error) {
	name := d.Val()
	var text string
	if !d.AllArgs(&text) {
		return 0, d.ArgErr()
	}
	duration, err := caddy.ParseDuration(text)
	if err != nil {
		return 0, d.Errf("%s %q is not a duration such as 4.5s", name, text)
	}
	if err := check(name, duration); err != nil {
		return 0, d.WrapErr(err)
	}
	return caddy.Duration(duration), nil
}

const (
	sourceNamespace = "http.ip_sources"
	queueNamespace  = "http.intercom_webhook.queues"
)

// UnmarshalQueue parses `queue [<engine>] ...`, of which the first token was just read.
func UnmarshalQueue(d *caddyfile.Dispenser) (queue caddyfile.Unmarshaler, engine string, err error) {
	engine = "sqlite"
	if d.NextArg() {
		engine = d.Val()
	}
	id := queueNamespace + "." + engine
	if _, err := caddy.GetModule(id); err != nil {
		return nil, "", d.WrapErr(unknownEngine(engine))
	}
	queue, err = caddyfile.UnmarshalModule(d, id)
	return queue, engine, err
}

var engineName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// unknownEngine explains what is wrong with the name of an engine. It quotes nothing
// but a name: what looks otherwise may be a URL with a password.
func unknownEngine(engine string) error {
	engines := modulesIn(queueNamespace)
	if len(engines) == 0 {
		return errors.New("queue: this Caddy has no engines; build them in with " +
			"xcaddy build --with github.com/caddy-intercom/caddy-intercom-webhook/queue")
	}
	switch {
	case engineName.MatchString(engine):
		return fmt.Errorf("queue: this Caddy has no engine %q: it has %s", engine, choices(engine, engines))
	case strings.HasPrefix(engine, "/"), strings.HasPrefix(engine, "."), strings.HasSuffix(engine, ".db"):
		return fmt.Errorf("queue: a file is not an engine: this Caddy has %s; "+
			"sqlite takes its file in its block, as in `path <file>`", enumerate(engines))
	default:
		return fmt.Errorf("queue: this is not the name of an engine: this Caddy has %s; "+
			"a database URL follows its engine, as in `queue postgres {env.DATABASE_URL}`", enumerate(engines))
	}
}

func modulesIn(namespace string) []string {
	var names []string
	for _, module := range caddy.GetModules(namespace) {
		names = append(names, module.ID.Name())
	}
	return names
}

// choices lists what could have been given instead of name, and says which one is
// spelled like it.
func choices(name string, valid []string) string {
	likely := nearest(name, slices.Clone(valid), 1)[0]
	if 2*levenshtein.ComputeDistance(name, likely) > max(len(name), len(likely)) {
		return enumerate(valid)
	}
	return fmt.Sprintf("%s; did you mean %s?", enumerate(valid), likely)
}

func enumerate(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// parseQueue parses a segment with a queue.
func parseQueue(segment caddyfile.Segment, lanes map[string]bool) (json.RawMessage, error) {
	d := caddyfile.NewDispenser(segment)
	d.Next() // consume the subdirective name
	module, engine, err := UnmarshalQueue(d)
	if err != nil {
		return nil, err
	}
	d.Reset()
	d.Next() // so that errors name the line of the queue
	if len(lanes) == 0 {
		return nil, d.WrapErr(errQueueWithoutRoute)
	}
	if err := module.(Queue).CheckLanes(slices.Sorted(maps.Keys(lanes))); err != nil {
		return nil, d.WrapErr(err)
	}
	return caddyconfig.JSONModuleObject(module, "engine", engine, nil), nil
}

// parseDirectives parses a segment that consists of its first token and a block of
// HTTP directives.
func parseDirectives(h httpcaddyfile.Helper, segment caddyfile.Segment) (caddyhttp.RouteList, error) {
	d := caddyfile.NewDispenser(segment)
	parsed, err := httpcaddyfile.ParseSegmentAsSubroute(h.WithDispenser(d))
	if err != nil {
		return nil, err
	}
	subroute, ok := parsed.(*caddyhttp.Subroute)
	if !ok || len(subroute.Routes) == 0 {
		return nil, d.Err("a block of directives is missing or empty; one that does nothing is { respond 200 }")
	}
	return subroute.Routes, nil
}

// routeParser parses the routes of a handler.
type routeParser struct {
	httpcaddyfile.Helper
	handler  *Handler
	patterns []string // of the routes so far
	lanes    map[string]bool
}

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
				return Route{}, d.WrapErr(checkPattern(token))
			}
			given := "route <topics...>"
			if len(topics) > 0 {
				given = join(segment[:last])
			}
			return Route{}, d.Errf("route: `to` is missing in front of the upstream, as in `%s to %s`", given, token)
		case route.Lane != "":
			return Route{}, d.Errf("unexpected %q behind the lane: topics come first", token)
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
			if err := checkPattern(token); err != nil {
				return Route{}, d.WrapErr(err)
			}
			if slices.Contains(p.patterns, token) || slices.Contains(topics, token) {
				return Route{}, d.Errf("topic pattern %q is routed already", token)
			}
			topics = append(topics, token)
		}
	}
	if len(topics) == 0 {
		return Route{}, d.Err("route: no topic pattern; * is every topic")
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
		return Route{}, d.Err("route: give it a backend with `to <upstreams...>`, or a block of directives")
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

// isUpstream reports whether this can be an upstream and no topic pattern.
func isUpstream(token string) bool {
	return strings.ContainsAny(token, ":{") || strings.HasPrefix(token, "unix/")
}

func join(tokens []caddyfile.Token) string {
	words := make([]string, len(tokens))
	for i, token := range tokens {
		words[i] = token.Text
	}
	return strings.Join(words, " ")
}

// claimLane checks what Provision checks too, but here the line is known.
func (p *routeParser) claimLane(name string) error {
	if err := checkLane(name); err != nil {
		return err
	}
	if p.lanes[name] {
		return fmt.Errorf("lane %q is another route's already: give this one another with `as <lane>`", name)
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
		return nil, d.Err("to: no upstream given")
	case slices.Contains(upstreams, "as"):
		return nil, d.Err("as <lane> stands in front of to")
	}
	d.Reset()
	proxy := new(reverseproxy.Handler)
	if err := proxy.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(p.Helper); err != nil {
		return nil, err
	}
	if err := retryOnNextUpstream(proxy, cmp.Or(p.handler.MaxSize, defaultMaxSize)); err != nil {
		return nil, d.WrapErr(err)
	}
	return proxy, nil
}

// dialTimeout is how long an upstream may take to accept a connection, so that a
// dead one leaves time for the next. Caddy's default of 3 s would use up most of it.
const dialTimeout = time.Second

// retryOnNextUpstream gives reverse_proxy what it needs to send a notification to
// the next upstream when one is down or hangs up, wherever the user said nothing
// else. By default it would neither retry a POST nor be able to send its body twice.
// Retries follow at once: Intercom likes its answer within 500 ms, and a reload of
// the config would end a wait between them without another try.
func retryOnNextUpstream(proxy *reverseproxy.Handler, maxSize int64) error {
	if proxy.RequestBuffers == 0 {
		proxy.RequestBuffers = maxSize + 1 // one that fills the buffer counts as cut off
	}
	if proxy.LoadBalancing == nil {
		proxy.LoadBalancing = new(reverseproxy.LoadBalancing)
	}
	lb := proxy.LoadBalancing
	if lb.RetryMatchRaw == nil {
		lb.RetryMatchRaw = caddyhttp.RawMatcherSets{{"method": json.RawMessage(`["POST"]`)}}
	}
	if lb.Retries == 0 && lb.TryDuration == 0 {
		lb.Retries = max(3, len(proxy.Upstreams)-1)
	}
	if len(proxy.Upstreams) > 1 {
		next := &nextUpstream{ChooseByRaw: lb.SelectionPolicyRaw}
		lb.SelectionPolicyRaw = caddyconfig.JSONModuleObject(next, "policy", "intercom_next", nil)
	}
	return limitDialing(proxy)
}

func limitDialing(proxy *reverseproxy.Handler) error {
	transport := new(reverseproxy.HTTPTransport)
	if proxy.TransportRaw != nil {
		var module struct {
			Protocol string `json:"protocol"`
		}
		if err := json.Unmarshal(proxy.TransportRaw, &module); err != nil || module.Protocol != "http" {
			return err
		}
		if err := json.Unmarshal(proxy.TransportRaw, transport); err != nil {
			return err
		}
	}
	if transport.DialTimeout == 0 {
		transport.DialTimeout = caddy.Duration(dialTimeout)
		proxy.TransportRaw = caddyconfig.JSONModuleObject(transport, "protocol", "http", nil)
	}
	return nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	intercom_topic <patterns...>
func (m *MatchTopic) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if d.CountRemainingArgs() == 0 {
			return d.ArgErr()
		}
		for d.NextArg() {
			if err := checkPattern(d.Val()); err != nil {
				return d.WrapErr(err)
			}
			if slices.Contains(*m, d.Val()) {
				return d.Errf("topic pattern %q stands there twice", d.Val())
			}
			*m = append(*m, d.Val())
		}
		if d.NextBlock(0) {
			return d.Err("intercom_topic takes no block")
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the IP source from Caddyfile tokens. Syntax:
//
//	intercom [<regions...>] {
//		refresh <duration>
//		url     <template with {region}>
//		timeout <duration>
//	}
func (s *IPRanges) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the name of the source
	s.Regions = d.RemainingArgs()
	if err := checkRegions(s.Regions); err != nil {
		return d.WrapErr(err)
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true

		var err error
		switch name {
		case "refresh":
			s.Refresh = new(caddy.Duration)
			*s.Refresh, err = parseDuration(d, checkRefresh)
		case "url":
			if !d.AllArgs(&s.URL) {
				return d.ArgErr()
			}
			if err := checkListURL(s.URL, s.Regions); err != nil {
				return d.WrapErr(err)
			}
		case "timeout":
			s.Timeout, err = parseDuration(d, checkDuration)
		default:
			err = d.Errf("unknown option %s of the IP source intercom: it has %s", name, choices(name, []string{"refresh", "url", "timeout"}))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*MatchTopic)(nil)
	_ caddyfile.Unmarshaler = (*IPRanges)(nil)
)
