package integration

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

func init() {
	caddy.RegisterModule(new(fakeQueue))
	caddy.RegisterModule(new(stubborn))
	caddy.RegisterModule(new(panicking))
	httpcaddyfile.RegisterHandlerDirective("stubborn", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(stubborn), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("stubborn", httpcaddyfile.Before, "respond")
	httpcaddyfile.RegisterHandlerDirective("panicking", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return &panicking{Answer: h.NextArg()}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("panicking", httpcaddyfile.Before, "respond")
}

// fakeQueue stands in for a database: it keeps what it gets in store, and can be
// told to fail.
type fakeQueue struct{}

// store is what all fake queues share: Caddy makes the queues, out of a test's reach.
var store struct {
	sync.Mutex
	full   bool
	hangs  chan struct{} // until it is closed, storing does not end; nil: it does
	stored []received
}

// resetStore empties the store, and says whether there is room in it.
func resetStore(full bool) {
	store.Lock()
	defer store.Unlock()
	store.full, store.hangs, store.stored = full, nil, nil
}

func inStore() []received {
	store.Lock()
	defer store.Unlock()
	return store.stored
}

func (*fakeQueue) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.intercom_webhook.queues.fake",
		New: func() caddy.Module { return new(fakeQueue) },
	}
}

func (*fakeQueue) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

func (*fakeQueue) CheckLanes([]string) error { return nil }

func (*fakeQueue) LaneLabel(lane string) string { return lane }

func (*fakeQueue) Attach(intercomwebhook.Endpoint) error { return nil }

func (*fakeQueue) Store(r *http.Request, n intercomwebhook.Notification) (intercomwebhook.Stored, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(body, n.Body) {
		return 0, errors.New("the request has another body")
	}
	store.Lock()
	defer store.Unlock()
	if store.hangs != nil {
		<-store.hangs
	}
	if store.full {
		return 0, errors.New("disk is full")
	}
	store.stored = append(store.stored, received{
		method: r.Method, uri: r.RequestURI, header: r.Header.Clone(), body: body, length: r.ContentLength,
	})
	return intercomwebhook.StoredNew, nil
}

func (*fakeQueue) Ready() error {
	store.Lock()
	defer store.Unlock()
	if store.full {
		return errors.New("disk is full")
	}
	return nil
}

// stubborn is a handler that does not heed its context: it waits until released,
// and answers 200 then.
type stubborn struct{}

// stubbornUntil ends the wait of all stubborn handlers when it is closed.
var stubbornUntil chan struct{}

func (*stubborn) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.stubborn",
		New: func() caddy.Module { return new(stubborn) },
	}
}

func (*stubborn) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	<-stubbornUntil
	w.WriteHeader(http.StatusOK)
	return nil
}

// panicking is a handler with a bug. Its panic quotes the request's body.
type panicking struct {
	Answer bool `json:"answer,omitempty"` // begin to answer before
}

func (*panicking) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.panicking",
		New: func() caddy.Module { return new(panicking) },
	}
}

func (p *panicking) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if p.Answer {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	panic("a bug, found by " + string(body))
}

// Interface guards
var (
	_ intercomwebhook.Queue       = (*fakeQueue)(nil)
	_ caddyfile.Unmarshaler       = (*fakeQueue)(nil)
	_ caddyhttp.MiddlewareHandler = (*stubborn)(nil)
	_ caddyhttp.MiddlewareHandler = (*panicking)(nil)
)
