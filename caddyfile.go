package intercomwebhook

import (
	"encoding/json"
	"errors"
	"math"
	"slices"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/body"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/secrets"
)

// subdirectives has the names for error messages, in the order of the grammar.
var subdirectives = []string{"client_secret", "fin_secret", "allow", "max_size", "timeout", "route", "ignore", "copy", "app_requests", "queue"}

// parseCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	intercom_webhook [<matcher>] {
//		client_secret <secrets...>
//		fin_secret    <secrets...>
//		allow         <ip source> <args...>
//		max_size      <size>
//		timeout       <duration>
//
//		route <topics...> [for <workspaces...>] [where <conditions...>] [once <field> within <duration>] [as <lane>] to <upstreams...> [{
//			<reverse_proxy options>
//		}]
//		route <topics...> [for <workspaces...>] [where <conditions...>] [once <field> within <duration>] [as <lane>] {
//			<any HTTP directives>
//		}
//		ignore <topics...> [for <workspaces...>] [where <conditions...>]
//		copy ... { # as route without once, with these options in its block
//			sample <percent>
//			resign <secret>
//		}
//		app_requests {
//			<any HTTP directives>
//		}
//		queue [<engine>] ...
//	}
//
// allow, route, ignore and copy may be repeated. Behind `to`, reverse_proxy's options for retries have
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
		if seen[name] && name != "allow" && name != "route" && name != "ignore" && name != "copy" {
			return nil, h.Errf("%s is given twice", name)
		}
		seen[name] = true

		var err error
		switch name {
		case "client_secret":
			handler.ClientSecrets, err = parseSecrets(h.Dispenser, secrets.ErrMissing)
		case "fin_secret":
			handler.FinSecrets, err = parseSecrets(h.Dispenser, errFinSecretMissing)
		case "allow":
			var source json.RawMessage
			source, err = parseSource(h.Dispenser)
			handler.AllowRaw = append(handler.AllowRaw, source)
		case "max_size":
			handler.MaxSize, err = parseSize(h.Dispenser)
		case "timeout":
			handler.Timeout, err = option.ParseDuration(h.Dispenser, option.UpTo(option.Year))
		case "route", "ignore":
			// parsed later, because it depends on whether a queue follows
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

	parser := routeParser{Helper: h, queued: len(queue) > 0, lanes: make(laneSet)}
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
		routed := slices.ContainsFunc(handler.Routes, func(one Route) bool { return !one.Ignore })
		var err error
		if handler.QueueRaw, err = parseQueue(queue, parser.lanes, routed); err != nil {
			return nil, err
		}
	}
	rememberPlace(handler, file, line)
	return handler, nil
}

var errFinSecretMissing = errors.New("fin_secret: the secret is missing; it is shown under Fin AI Agent > Deploy > Fin Agent API")

func parseSecrets(d *caddyfile.Dispenser, missing error) ([]string, error) {
	option := d.Val()
	given := d.RemainingArgs()
	if len(given) == 0 {
		return nil, d.WrapErr(missing)
	}
	for i, secret := range given {
		if secret == "" {
			return nil, d.Errf("%s %d is empty", option, i+1)
		}
		if slices.Contains(given[:i], secret) {
			return nil, d.Errf("%s %d is given twice", option, i+1)
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
	if err != nil || size == 0 {
		return 0, d.Errf("max_size %q is not a size such as 4MiB", text)
	}
	limit := int64(min(size, math.MaxInt64))
	if err := body.CheckMaxSize(limit); err != nil {
		return 0, d.WrapErr(err)
	}
	return limit, nil
}
