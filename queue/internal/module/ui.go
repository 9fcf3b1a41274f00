package module

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/web"
)

func init() {
	caddy.RegisterModule(new(UI))
	httpcaddyfile.RegisterDirective("intercom_queue_ui", parseUI)
	// It shows what people must not see without leave, so it stands behind everything that guards: authentication,
	// abort, error and respond.
	httpcaddyfile.RegisterDirectiveOrder("intercom_queue_ui", httpcaddyfile.Before, "reverse_proxy")
}

// UI serves web pages for a queue: whether all is well, with charts of the last hour; the lanes, which can be paused;
// dead letters grouped by topic, lane and reason; lists of deliveries by all filters; and everything that is known of a
// notification. What a filter selects can be retried, resent, also to another lane, and dropped. At the root of a site
// it answers for its own pages only, and leaves everything else to other handlers.
//
// Whoever can use it can read and delete everything in the queue. So it answers 403 to all but two kinds of clients:
// those that Caddy has authenticated, as with `basic_auth`, and those on this machine, for which the connection's
// address, Caddy's `client_ip` and the host in the request are all loopback. The host is checked because a web page
// in a browser on this machine can let a name of its own point to 127.0.0.1 (DNS rebinding). A request with a header
// that proxies add, such as `X-Forwarded-For` or `Via`, or of HTTP/1.0, which browsers do not speak and proxies do, is
// not from this machine: a proxy on it sends what others sent.
//
// While the database cannot be used, it answers 503 with the reason.
type UI struct {
	// The path under which it is mounted, as in `/queue`. Default: the root.
	Prefix string `json:"prefix,omitempty"`

	// The queue, as in the handler that uses it. Only the options that say where the database is are used. Default:
	// the config's only queue.
	QueueRaw json.RawMessage `json:"queue,omitempty" caddy:"namespace=http.intercom_webhook.queues inline_key=engine"`

	// The hosts in whose name it answers all clients, as in the matcher `host`. Set it only if the UI is protected in
	// a way that does not set `{http.auth.user.id}`, such as `forward_auth`. A web page of somebody else can let its
	// own name point to the UI (DNS rebinding), but none of these. Default: none; the Caddyfile's default is the hosts
	// of the site.
	Unauthenticated caddyhttp.MatchHost `json:"unauthenticated,omitempty"`

	ctx         caddy.Context
	key         string        // of the database; empty: that of the config's only queue
	started     chan struct{} // closed when pages is set
	pages       http.Handler
	floodLogger *zap.Logger // writes each message at most once a second
}

// CaddyModule returns the Caddy module information.
func (*UI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.intercom_queue_ui", New: func() caddy.Module { return new(UI) }}
}

func checkPrefix(prefix string) error {
	if prefix != "" && (!strings.HasPrefix(prefix, "/") || strings.ContainsAny(prefix, "*?#%{} ") || path.Clean(prefix) != prefix) {
		return errors.New("the path prefix must begin with / and be a plain path, as in /queue")
	}
	return nil
}

// checkHosts refuses what any host fits.
func checkHosts(hosts []string) error {
	for _, host := range hosts {
		if strings.Trim(host, "*.") == "" {
			return fmt.Errorf("unauthenticated: the host %q can be that of any web page: name the hosts of the UI, as in queue.example.com", host)
		}
	}
	return nil
}

// Provision sets up the handler. Requests wait until the config is started.
func (u *UI) Provision(ctx caddy.Context) error {
	u.Prefix = strings.TrimSuffix(u.Prefix, "/") // "/" in JSON is the root, too
	if err := checkPrefix(u.Prefix); err != nil {
		return err
	}
	u.ctx, u.started, u.floodLogger = ctx, make(chan struct{}), logging.OncePerSecond(ctx.Logger())
	if u.Unauthenticated != nil {
		if err := checkHosts(u.Unauthenticated); err != nil {
			return err
		}
		if err := u.Unauthenticated.Provision(ctx); err != nil {
			return fmt.Errorf("unauthenticated: %w", err)
		}
		ctx.Logger().Warn("intercom_queue_ui is unauthenticated: whoever reaches it can read and delete what is in the queue; "+
			"make sure that something else guards it, such as forward_auth before it, or remove `unauthenticated`",
			zap.String("prefix", u.Prefix))
	}
	if u.QueueRaw != nil {
		module, err := ctx.LoadModule(u, "QueueRaw")
		if err != nil {
			return fmt.Errorf("loading queue: %w", err)
		}
		engine, ok := module.(Engine)
		if !ok {
			return fmt.Errorf("queue: %s has no pages", module.(caddy.Module).CaddyModule().ID)
		}
		at, err := engine.Database()
		if err != nil {
			return err
		}
		u.key = at.Key
	}
	app, err := appOf(ctx)
	if err != nil {
		return err
	}
	app.uis = append(app.uis, u)
	return app.check()
}

// find returns the queue among those of the config; nil if there is none. It returns an error if it could be several.
func (u *UI) find(queues []*Base) (found *Base, err error) {
	for _, queue := range queues {
		if u.key != "" && u.key != queue.database.Key {
			continue
		}
		if found != nil && found.database.Key != queue.database.Key {
			return nil, errors.New("intercom_queue_ui: the config has several queues: name one in its block, as in `queue sqlite`")
		}
		found = queue
	}
	return found, nil
}

func (u *UI) start(queues []*Base) error {
	found, err := u.find(queues)
	if err != nil {
		return err
	}
	if found == nil {
		return errors.New("intercom_queue_ui: no intercom_webhook of the config has such a queue")
	}
	u.pages = web.New(u.ctx, found.worker, u.Prefix, client, func() (host, path string) { return webhookOf(u.ctx) })
	close(u.started)
	return nil
}

// webhookOf returns the host and path of the config's first intercom_webhook. The host is empty if its route fits any,
// and the path if there is none, or in a named route.
func webhookOf(ctx caddy.Context) (host, path string) {
	loaded, err := ctx.AppIfConfigured("http")
	if err != nil {
		return "", ""
	}
	app := loaded.(*caddyhttp.App)
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		if host, path = webhookIn(app.Servers[name].Routes, "", "/"); path != "" {
			break
		}
	}
	return host, path
}

// webhookIn looks for an intercom_webhook in routes, whose outer routes have matched a host and a path.
func webhookIn(routes caddyhttp.RouteList, host, path string) (foundHost, foundPath string) {
	for _, route := range routes {
		host, path := host, path
		for _, matcher := range slices.Concat(route.MatcherSets...) {
			switch m := matcher.(type) {
			case *caddyhttp.MatchHost:
				host = slices.Concat(*m, caddyhttp.MatchHost{host})[0] // JSON may have none
			case *caddyhttp.MatchPath:
				path = strings.TrimSuffix(slices.Concat(*m, caddyhttp.MatchPath{path})[0], "*")
			}
		}
		for _, handler := range route.Handlers {
			switch h := handler.(type) {
			case *intercomwebhook.Handler:
				return host, path
			case *caddyhttp.Subroute:
				if host, path := webhookIn(h.Routes, host, path); path != "" {
					return host, path
				}
			}
		}
	}
	return "", ""
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !web.Owns(u.Prefix, r) {
		return next.ServeHTTP(w, r)
	}
	if err := checkAccess(r); err != nil && !u.Unauthenticated.Match(r) {
		if c := u.floodLogger.Check(zapcore.WarnLevel, "refused request for intercom_queue_ui: "+err.Error()); c != nil {
			c.Write(zap.String("client_ip", clientIP(r)), zap.String("remote_addr", r.RemoteAddr))
		}
		return caddyhttp.Error(http.StatusForbidden, err)
	}
	select {
	case <-u.started:
		u.pages.ServeHTTP(w, r)
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

var (
	errRemoteAddress = errors.New("the client is not authenticated, and its address is not loopback")
	errForwarded     = errors.New("the client is not authenticated, and a proxy has forwarded the request")
	errClientIP      = errors.New("the client is not authenticated, and client_ip is not loopback")
	errHost          = errors.New("the client is not authenticated, and the host that it asks for is not localhost or a loopback address")
)

// checkAccess returns an error if the client is neither authenticated by Caddy nor on this machine. It fails closed:
// an address that is missing or not valid is not loopback.
func checkAccess(r *http.Request) error {
	if user(r) != "" {
		return nil
	}
	remote, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || !isLoopback(remote) {
		return errRemoteAddress
	}
	if !isLoopback(clientIP(r)) {
		return errClientIP
	}
	if !r.ProtoAtLeast(1, 1) || forwarded(r.Header) {
		return errForwarded
	}
	host := (&url.URL{Host: r.Host}).Hostname()
	if !strings.EqualFold(host, "localhost") && !isLoopback(host) {
		return errHost
	}
	return nil
}

// forwarded reports whether a request has a header that proxies add: X-Forwarded-*, Forwarded, Via, X-Real-Ip,
// Cf-Connecting-Ip and the like. No browser sends any of them.
func forwarded(header http.Header) bool {
	for name := range header {
		if name = strings.ToLower(name); name == "via" || strings.Contains(name, "forwarded") || strings.HasSuffix(name, "-ip") {
			return true
		}
	}
	return false
}

func isLoopback(address string) bool {
	addr, err := netip.ParseAddr(address)
	return err == nil && addr.Unmap().IsLoopback()
}

// user returns the name of the user whom Caddy has authenticated; empty if there is none.
func user(r *http.Request) (name string) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		name, _ = repl.GetString("http.auth.user.id")
	}
	return name
}

func clientIP(r *http.Request) string {
	address, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return address
}

// client returns who makes a request, for logs: a user, or an address.
func client(r *http.Request) string { return cmp.Or(user(r), clientIP(r), r.RemoteAddr) }

// parseUI sets up the pages from Caddyfile tokens. Syntax:
//
//	intercom_queue_ui [<path prefix>] [{
//		queue [<engine>] ...
//		unauthenticated [<hosts...>]
//	}]
//
// The hosts of unauthenticated are those of the site by default.
func parseUI(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	ui := new(UI)
	h.Next() // consume the directive name
	if h.NextArg() {
		ui.Prefix = strings.TrimSuffix(h.Val(), "/")
		if err := checkPrefix(ui.Prefix); err != nil {
			return nil, h.WrapErr(err)
		}
		if h.NextArg() {
			return nil, h.ArgErr()
		}
	}
	for h.NextBlock(0) {
		switch name := h.Val(); {
		case name == "queue" && ui.QueueRaw != nil, name == "unauthenticated" && ui.Unauthenticated != nil:
			return nil, h.Errf("%s is given twice", name)
		case name == "queue":
			module, engine, err := intercomwebhook.UnmarshalQueue(h.Dispenser)
			if err != nil {
				return nil, err
			}
			ui.QueueRaw = caddyconfig.JSONModuleObject(module, "engine", engine, nil)
		case name == "unauthenticated":
			if ui.Unauthenticated = h.RemainingArgs(); len(ui.Unauthenticated) == 0 {
				ui.Unauthenticated = siteHosts(h)
			}
			if len(ui.Unauthenticated) == 0 {
				return nil, h.Err("unauthenticated: the site answers to any host, and so also to the name of a web page of somebody else (DNS rebinding): " +
					"name the hosts of the UI, as in `unauthenticated queue.example.com`")
			}
			if err := checkHosts(ui.Unauthenticated); err != nil {
				return nil, h.WrapErr(err)
			}
		default:
			return nil, h.Errf("unknown option %s of intercom_queue_ui: it has %s", name, option.Choices(name, []string{"queue", "unauthenticated"}))
		}
	}
	var matcher caddy.ModuleMap
	if ui.Prefix != "" {
		matcher = caddy.ModuleMap{"path": h.JSON(caddyhttp.MatchPath{ui.Prefix, ui.Prefix + "/*"})}
	}
	return h.NewRoute(matcher, ui), nil
}

// siteHosts returns the hosts of the site that a directive is in; none if the site answers to any host. Caddy hands
// the addresses of the site only to its own directives, so they are read from a private field. If another version of
// Caddy does not have it, there are none, and the Caddyfile must name them.
func siteHosts(h httpcaddyfile.Helper) (hosts []string) {
	keys := reflect.ValueOf(h).FieldByName("parentBlock")
	if keys.Kind() == reflect.Struct {
		keys = keys.FieldByName("Keys")
	}
	if h.IsNamedRoute() || keys.Kind() != reflect.Slice {
		return nil
	}
	for i := range keys.Len() {
		address, err := httpcaddyfile.ParseAddress(keys.Index(i).FieldByName("Text").String())
		if err != nil || checkHosts([]string{address.Host}) != nil {
			return nil
		}
		hosts = append(hosts, address.Host)
	}
	return hosts
}

// Interface guards
var (
	_ caddy.Provisioner           = (*UI)(nil)
	_ caddyhttp.MiddlewareHandler = (*UI)(nil)
)
