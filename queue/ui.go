package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
)

func init() {
	caddy.RegisterModule(new(UI))
}

// UI serves River's web UI for a queue. It shows the notifications in each lane, and dead
// letters with their errors. It can retry, cancel and delete them, and pause a lane.
//
// Under `/intercom` it has a page of its own. It shows the lanes, dead letters grouped by
// topic and reason, which it can retry and drop a group at a time, and the life of a
// notification.
//
// Whoever can use it can read and delete everything in the queue. So it answers 403 to all
// but two kinds of clients: those that Caddy has authenticated, as with `basic_auth`, and
// those on this machine, for which the connection's address, Caddy's `client_ip` and the
// host in the request are all loopback. The host is checked because a web page in a browser
// on this machine can let a name of its own point to 127.0.0.1 (DNS rebinding).
type UI struct {
	// The path under which it is mounted, as in `/queue`. Default: the root.
	Prefix string `json:"prefix,omitempty"`

	// The queue, as in the handler that uses it. Only the options that say where the
	// database is are used. Default: the config's only queue.
	QueueRaw json.RawMessage `json:"queue,omitempty" caddy:"namespace=http.intercom_webhook.queues inline_key=engine"`

	// Whether to answer all clients. Set it only if the UI is protected in a way that does
	// not set `{http.auth.user.id}`, such as `forward_auth`. Default: false.
	Unauthenticated bool `json:"unauthenticated,omitempty"`

	location    *location // nil: the config's only queue
	dispatcher  *dispatcher
	started     chan struct{} // closed when dispatcher is set
	page        *page
	ctx         context.Context
	cancel      context.CancelFunc
	floodLogger *zap.Logger // writes each message at most once a second

	mu      sync.Mutex
	handler http.Handler // made for the first request after the database is open
}

// CaddyModule returns the Caddy module information.
func (*UI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.intercom_queue_ui",
		New: func() caddy.Module { return new(UI) },
	}
}

var errPrefix = errors.New("the path prefix must begin with / and be a plain path, as in /queue")

func checkPrefix(prefix string) error {
	if prefix != "" && (!strings.HasPrefix(prefix, "/") || strings.ContainsAny(prefix, "*?#%{} ") || path.Clean(prefix) != prefix) {
		return errPrefix
	}
	return nil
}

// Provision sets up the handler. Requests wait until the config is started.
func (u *UI) Provision(ctx caddy.Context) error {
	u.Prefix = strings.TrimSuffix(u.Prefix, "/") // "/" in JSON is the root, too
	if err := checkPrefix(u.Prefix); err != nil {
		return err
	}
	u.started = make(chan struct{})
	u.floodLogger = logging.OncePerSecond(ctx.Logger())
	if u.Unauthenticated {
		ctx.Logger().Warn("intercom_queue_ui is unauthenticated: whoever can reach it can read and delete what is in the queue; protect it in another way",
			zap.String("prefix", u.Prefix))
	}
	if u.QueueRaw != nil {
		module, err := ctx.LoadModule(u, "QueueRaw")
		if err != nil {
			return fmt.Errorf("loading queue: %w", err)
		}
		at, err := module.(interface{ location() (location, error) }).location()
		if err != nil {
			return err
		}
		u.location = &at
	}
	app, err := appOf(ctx)
	if err != nil {
		return err
	}
	app.uis = append(app.uis, u)
	return nil
}

// start finds the queue among those of the config. It returns an error if there is none, or
// if it could be several.
func (u *UI) start(a *app) error {
	var of *attachment
	for _, q := range a.queues {
		switch {
		case u.location != nil && u.location.key != q.location.key:
		case of != nil && of.location.key != q.location.key:
			return errors.New("intercom_queue_ui: the config has several queues: name one in its block, as in `queue sqlite`")
		default:
			of = q
		}
	}
	if of == nil {
		return errors.New("intercom_queue_ui: no intercom_webhook of the config has such a queue")
	}
	u.dispatcher = of.dispatcher
	u.ctx, u.cancel = context.WithCancel(context.Background())
	u.page = newPage(u.ctx, u.dispatcher, u.Prefix)
	close(u.started)
	return nil
}

// river returns River's web UI. It returns an error if the database is not open yet.
func (u *UI) river() (http.Handler, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.handler != nil {
		return u.handler, nil
	}
	if err := u.dispatcher.ready(); err != nil {
		return nil, err
	}
	river, err := u.dispatcher.db.UI(u.ctx, u.Prefix, newRiverLogger())
	if err != nil {
		return nil, err
	}
	// River accepts a POST with any Content-Type. Without this protection, a form on a
	// foreign web page could retry or delete jobs in the name of a user who is logged in.
	u.handler = http.NewCrossOriginProtection().Handler(river)
	return u.handler, nil
}

func (u *UI) stop() {
	if u.cancel != nil {
		u.cancel()
		u.page.changes.wait()
	}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !u.isFor(r) {
		return next.ServeHTTP(w, r)
	}
	if err := checkAccess(r); err != nil && !u.Unauthenticated {
		return u.refuse(r, err)
	}
	select {
	case <-u.started:
	case <-r.Context().Done():
		return r.Context().Err()
	}
	u.setHeaders(w.Header(), r.URL.Path)
	if u.page.has(r.URL.Path) {
		u.page.ServeHTTP(w, r)
		return nil
	}
	river, err := u.river()
	if err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	river.ServeHTTP(w, r)
	return nil
}

// setHeaders keeps foreign web pages from showing the UI in a frame: a click that they lead
// onto its buttons is a request of the UI's own origin, which passes the protection of forms.
// It also keeps notifications, which only the API has, out of the browser's cache.
func (u *UI) setHeaders(header http.Header, path string) {
	header.Set("Content-Security-Policy", "frame-ancestors 'none'")
	header.Set("X-Frame-Options", "DENY")
	header.Set("X-Content-Type-Options", "nosniff")
	if strings.HasPrefix(path, u.Prefix+"/api/") {
		header.Set("Cache-Control", "no-store")
	}
}

// isFor reports whether a request is for the UI. The UI and a webhook can both be at the
// root of a site, to which Intercom sends notifications, and a HEAD to validate the URL.
func (u *UI) isFor(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet:
		return true
	case http.MethodHead:
		return u.Prefix != ""
	default:
		return strings.HasPrefix(r.URL.Path, u.Prefix+"/api/") || isPageForm(u.Prefix, r.URL.Path)
	}
}

var (
	errRemoteAddress = errors.New("the client is not authenticated, and its address is not loopback")
	errClientIP      = errors.New("the client is not authenticated, and client_ip is not loopback")
	errHost          = errors.New("the client is not authenticated, and the host that it asks for is not localhost or a loopback address")
)

// checkAccess returns an error if the client is neither authenticated by Caddy nor on this
// machine. It fails closed: an address that is missing or not valid is not loopback.
func checkAccess(r *http.Request) error {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if user, _ := repl.GetString("http.auth.user.id"); user != "" {
			return nil
		}
	}
	remote, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || !isLoopback(remote) {
		return errRemoteAddress
	}
	clientIP, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	if !isLoopback(clientIP) {
		return errClientIP
	}
	host := (&url.URL{Host: r.Host}).Hostname()
	if !strings.EqualFold(host, "localhost") && !isLoopback(host) {
		return errHost
	}
	return nil
}

func isLoopback(address string) bool {
	addr, err := netip.ParseAddr(address)
	return err == nil && addr.Unmap().IsLoopback()
}

func (u *UI) refuse(r *http.Request, why error) error {
	if c := u.floodLogger.Check(zapcore.WarnLevel, "refused request for intercom_queue_ui: "+why.Error()); c != nil {
		clientIP, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
		c.Write(zap.String("client_ip", clientIP), zap.String("remote_addr", r.RemoteAddr))
	}
	return caddyhttp.Error(http.StatusForbidden, why)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*UI)(nil)
	_ caddyhttp.MiddlewareHandler = (*UI)(nil)
)
