package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// checkFallbacks looks for sites with an intercom_webhook that refuse no other path: Caddy answers
// these 200 to everything.
func checkFallbacks(f *findings, config []byte) {
	var root struct {
		Apps struct{ HTTP caddyhttp.App }
	}
	_ = json.Unmarshal(config, &root) // it has been loaded
	servers := root.Apps.HTTP.Servers
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		for _, site := range (&siteRoutes{servers[name].NamedRoutes}).open(servers[name]) {
			f.warn("fallback", "no directive of the site "+site+" refuses other paths: Caddy answers them 200, a POST, too",
				"with a mistake in its URL, Intercom finds it valid, and each notification is lost", "end the site with `respond 404`")
		}
	}
}

// siteRoutes walks the routes of a server.
type siteRoutes struct{ named map[string]*caddyhttp.Route }

// open returns the sites that have an intercom_webhook, and leave a path unanswered or say 200 to
// it: their hosts, or where the server listens.
func (s *siteRoutes) open(server *caddyhttp.Server) (sites []string) {
	answered := s.answer(server.Routes)
	for i := range server.Routes {
		r := &server.Routes[i]
		hosts := onlyHosts(r)
		switch {
		case !s.has(*r), answered && !r.Terminal:
		case hosts == nil && !answered:
			sites = append(sites, strings.Join(server.Listen, ", "))
		case hosts != nil && !s.answers(r.HandlersRaw):
			sites = append(sites, strings.Join(hosts, ", "))
		}
	}
	return slices.Compact(sites)
}

// handlerJSON is what the walk needs of a handler.
type handlerJSON struct {
	Handler string              `json:"handler"`
	Name    string              `json:"name"`   // of invoke
	Routes  caddyhttp.RouteList `json:"routes"` // of subroute
	Abort   bool                `json:"abort"`  // of static_response
	Status  any                 `json:"status_code"`
}

// handler decodes a handler, and returns the routes in it.
func (s *siteRoutes) handler(raw json.RawMessage) (h handlerJSON, inner caddyhttp.RouteList) {
	_ = json.Unmarshal(raw, &h) // a handler in another form answers
	switch named := s.named[h.Name]; {
	case h.Handler == "subroute":
		return h, h.Routes
	case h.Handler == "invoke" && named != nil:
		return h, caddyhttp.RouteList{*named}
	}
	return h, nil
}

// has reports whether an intercom_webhook is in a route, wherever.
func (s *siteRoutes) has(r caddyhttp.Route) bool {
	return slices.ContainsFunc(r.HandlersRaw, func(raw json.RawMessage) bool {
		h, inner := s.handler(raw)
		return h.Handler == "intercom_webhook" || slices.ContainsFunc(inner, s.has)
	})
}

// answer reports whether routes answer every path.
func (s *siteRoutes) answer(routes caddyhttp.RouteList) bool {
	return slices.ContainsFunc(routes, func(r caddyhttp.Route) bool { return fitsOtherPaths(r.MatcherSetsRaw) && s.answers(r.HandlersRaw) })
}

// answers reports whether one of some handlers answers every path, and not always with 200. One
// that the walk does not know does.
func (s *siteRoutes) answers(handlers []json.RawMessage) bool {
	return slices.ContainsFunc(handlers, func(raw json.RawMessage) bool {
		switch h, inner := s.handler(raw); h.Handler {
		case "subroute", "invoke":
			return s.answer(inner)
		case "static_response":
			status := fmt.Sprint(h.Status)
			return h.Abort || h.Status != nil && !strings.HasPrefix(status, "2")
		case "intercom_webhook":
			return len(h.Routes) > 0 // without, it calls the next handler
		default:
			return !slices.Contains(passOn, h.Handler)
		}
	})
}

// passOn are handlers that call the next one.
var passOn = []string{
	"authentication", "encode", "headers", "intercept", "intercom_queue_ui", "intercom_ready", "log_append", "map", "metrics", "push",
	"request_body", "rewrite", "templates", "tracing", "vars",
}

// fitsOtherPaths reports whether matchers fit all paths, or all but some.
func fitsOtherPaths(sets caddyhttp.RawMatcherSets) bool {
	return len(sets) == 0 || slices.ContainsFunc(sets, func(set caddy.ModuleMap) bool {
		var not []caddy.ModuleMap
		if len(set) == 1 && json.Unmarshal(set["not"], &not) == nil {
			return !slices.ContainsFunc(not, func(set caddy.ModuleMap) bool { return len(set) != 1 || set["path"] == nil })
		}
		return len(set) == 0
	})
}

// onlyHosts returns the hosts of a route that matches nothing but hosts, as a site does.
func onlyHosts(r *caddyhttp.Route) (hosts []string) {
	for _, set := range r.MatcherSetsRaw {
		var some []string
		if len(set) != 1 || json.Unmarshal(set["host"], &some) != nil {
			return nil
		}
		hosts = append(hosts, some...)
	}
	return hosts
}
