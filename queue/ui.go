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
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(UI))
}

// UI serves River's web UI of a queue: what is stored, dead letters with their errors,
// and the means to try again, cancel, delete, and pause a lane.
//
// Whoever can use it can read and delete all that is stored. So it answers 403 to
// everybody but those whom Caddy has authenticated, as `basic_auth` does, and clients
// on this machine: the connection's address, Caddy's `client_ip` and the host in the
// request must all be loopback. The host is checked because a page in a browser on
// this machine can point a name of its own to 127.0.0.1 (DNS rebinding).
type UI struct {
	// The path under which it is mounted, as in `/queue`. Default: the root.
	Prefix string `json:"prefix,omitempty"`

	// The queue, as the handler that uses it has it; of its options only those count
	// that say where the database is. Default: the only one of the config.
	QueueRaw json.RawMessage `json:"queue,omitempty" caddy:"namespace=http.intercom_webhook.queues inline_key=engine"`

	// Whether to answer everybody. It is for those who guard the UI in a way that
	// does not set `{http.auth.user.id}`, such as `forward_auth`. Default: false.
	Unauthenticated bool `json:"unauthenticated,omitempty"`

	location    *location // nil for the only one
	handler     http.Handler
	started     chan struct{} // closed once there is a handler
	cancel      context.CancelFunc
	floodLogger *zap.Logger // writes each message once a second
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

// Provision sets up the handler, which is of use once the config is started.
func (u *UI) Provision(ctx caddy.Context) error {
	if err := checkPrefix(u.Prefix); err != nil {
		return err
	}
	u.started = make(chan struct{})
	u.floodLogger = ctx.Logger().WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, 1, 0)
	}))
	if u.Unauthenticated {
		ctx.Logger().Warn("intercom_queue_ui is unauthenticated: whoever reaches it can read and delete what is in the queue; guard it in another way",
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

// start finds the queue among those of the config.
func (u *UI) start(a *app) error {
	var of *endpoint
	for _, e := range a.queues {
		switch {
		case u.location != nil && u.location.key != e.location.key:
		case of != nil && of.location.key != e.location.key:
			return errors.New("intercom_queue_ui: the config has several queues: name one in its block, as in `queue sqlite`")
		default:
			of = e
		}
	}
	if of == nil {
		return errors.New("intercom_queue_ui: no intercom_webhook of the config has such a queue")
	}
	river, err := of.engine.db.newUI(u.Prefix, newRiverLogger())
	if err != nil {
		return fmt.Errorf("intercom_queue_ui: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	u.cancel = cancel
	if err := river.Start(ctx); err != nil {
		return fmt.Errorf("intercom_queue_ui: %w", err)
	}
	// River takes an order whatever its Content-Type is. Without this, a form on anybody's
	// page could give one, in the name of who is logged in here.
	u.handler = http.NewCrossOriginProtection().Handler(river)
	close(u.started)
	return nil
}

func (u *UI) stop() {
	if u.cancel != nil {
		u.cancel()
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
	u.handler.ServeHTTP(w, r)
	return nil
}

// isFor tells requests for the UI from those for a webhook of a site at whose root
// the UI is: Intercom sends notifications there, and a HEAD to validate the URL.
func (u *UI) isFor(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet:
		return true
	case http.MethodHead:
		return u.Prefix != ""
	default:
		return strings.HasPrefix(r.URL.Path, u.Prefix+"/api/")
	}
}

var (
	errRemoteAddress = errors.New("the client is not authenticated, and its address is not loopback")
	errClientIP      = errors.New("the client is not authenticated, and client_ip is not loopback")
	errHost          = errors.New("the client is not authenticated, and the host that it asks for is not localhost or a loopback address")
)

// checkAccess refuses clients that are neither authenticated by Caddy nor on this
// machine. It fails closed: what cannot be told is not loopback.
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
