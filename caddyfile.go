package intercomwebhook

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/secrets"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("intercom_webhook", parseCaddyfile)
	httpcaddyfile.RegisterHandlerDirective("intercom_ready", parseReady)
	// Before redir and all that answers, so that nothing answers in their place. intercom_ready
	// comes first, because a site may have intercom_webhook without a path.
	httpcaddyfile.RegisterDirectiveOrder("intercom_ready", httpcaddyfile.Before, "redir")
	httpcaddyfile.RegisterDirectiveOrder("intercom_webhook", httpcaddyfile.Before, "redir")
}

// subdirectives has the names for error messages, in the order of the grammar.
var subdirectives = []string{"client_secret", "allow", "max_size", "timeout", "route", "copy", "app_requests", "queue"}

// parseCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	intercom_webhook [<matcher>] {
//		client_secret <secrets...>
//		allow         <ip source> <args...>
//		max_size      <size>
//		timeout       <duration>
//
//		route <topics...> [for <workspaces...>] [as <lane>] to <upstreams...> [{
//			<reverse_proxy options>
//		}]
//		route <topics...> [for <workspaces...>] [as <lane>] {
//			<any HTTP directives>
//		}
//		copy ... { # as route, with these options in its block
//			sample <percent>
//			resign <secret>
//		}
//		app_requests {
//			<any HTTP directives>
//		}
//		queue [<engine>] ...
//	}
//
// allow, route and copy may be repeated. Behind `to`, reverse_proxy's options for retries have
// other defaults, see failover.SetDefaults.
func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	var routes, copies []caddyfile.Segment
	var queue caddyfile.Segment
	seen := make(map[string]bool)

	h.Next() // consume the directive name
	file, line := h.File(), h.Line()
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	for h.NextBlock(0) {
		name := h.Val()
		if seen[name] && name != "allow" && name != "route" && name != "copy" {
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
			handler.Timeout, err = option.ParseDuration(h.Dispenser, option.UpTo(option.Year))
		case "route":
			// parsed later, because it needs max_size, which may follow
			routes = append(routes, h.NextSegment())
		case "copy":
			copies = append(copies, h.NextSegment())
		case "app_requests":
			handler.AppRequests, err = parseDirectives(h, h.NextSegment())
		case "queue":
			// parsed later, because it checks the lanes of routes and copies that may follow
			queue = h.NextSegment()
		default:
			err = h.Errf("unknown subdirective %s of intercom_webhook: it has %s", name, option.Choices(name, subdirectives))
		}
		if err != nil {
			return nil, err
		}
	}
	if len(handler.ClientSecrets) == 0 {
		return nil, h.WrapErr(secrets.ErrMissing)
	}

	parser := routeParser{Helper: h, maxSize: cmp.Or(handler.MaxSize, defaultMaxSize), lanes: make(laneSet)}
	for _, segment := range slices.Concat(routes, copies) {
		isCopy := segment[0].Text == "copy"
		if isCopy && len(queue) == 0 {
			return nil, firstLine(segment).WrapErr(errCopyWithoutQueue)
		}
		parsed, err := parser.parse(segment)
		if err != nil {
			return nil, err
		}
		if isCopy {
			handler.Copies = append(handler.Copies, parsed)
		} else {
			handler.Routes = append(handler.Routes, parsed.Route)
		}
	}
	if len(queue) > 0 {
		var err error
		if handler.QueueRaw, err = parseQueue(queue, parser.lanes, len(routes) > 0); err != nil {
			return nil, err
		}
	}
	rememberPlace(handler, file, line)
	return handler, nil
}

func parseSecrets(d *caddyfile.Dispenser) ([]string, error) {
	given := d.RemainingArgs()
	if len(given) == 0 {
		return nil, d.WrapErr(secrets.ErrMissing)
	}
	for i, secret := range given {
		if secret == "" {
			return nil, d.Errf("client_secret %d is empty", i+1)
		}
		if slices.Contains(given[:i], secret) {
			return nil, d.Errf("client_secret %d is given twice", i+1)
		}
	}
	return given, nil
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

const queueNamespace = "http.intercom_webhook.queues"

// UnmarshalQueue parses `queue [<engine>] ...`. Its first token must be the current one.
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

// unknownEngine returns the error for an engine that this Caddy does not have. It quotes
// only what looks like a name: anything else may be a URL with a password.
func unknownEngine(engine string) error {
	engines := modulesIn(queueNamespace)
	if len(engines) == 0 {
		return errors.New("queue: this Caddy has no engines; build them in with " +
			"xcaddy build --with github.com/caddy-intercom/caddy-intercom-webhook/queue")
	}
	switch {
	case engineName.MatchString(engine):
		return fmt.Errorf("queue: this Caddy has no engine %q: it has %s", engine, option.Choices(engine, engines))
	case strings.HasPrefix(engine, "/"), strings.HasPrefix(engine, "."), strings.HasSuffix(engine, ".db"):
		return fmt.Errorf("queue: a file is not an engine: this Caddy has %s; "+
			"sqlite takes its file in its block, as in `path <file>`", option.Enumerate(engines))
	default:
		return fmt.Errorf("queue: this is not the name of an engine: this Caddy has %s; "+
			"a database URL follows its engine, as in `queue postgres {env.DATABASE_URL}`", option.Enumerate(engines))
	}
}

// parseQueue parses the segment of the queue subdirective, and checks the queue against the
// lanes of the routes and copies.
func parseQueue(segment caddyfile.Segment, lanes laneSet, routed bool) (json.RawMessage, error) {
	module, engine, err := UnmarshalQueue(firstLine(segment))
	if err != nil {
		return nil, err
	}
	d := firstLine(segment) // so that errors name the line of the queue
	if !routed {
		return nil, d.WrapErr(errQueueWithoutRoute)
	}
	if err := module.(Queue).CheckLanes(slices.Sorted(maps.Keys(lanes))); err != nil {
		return nil, d.WrapErr(err)
	}
	return caddyconfig.JSONModuleObject(module, "engine", engine, nil), nil
}
