package module

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

func TestCheckAccess(t *testing.T) {
	for _, c := range []struct {
		name                       string
		remoteAddr, clientIP, host string
		placeholder, user          string
		want                       error
	}{
		{name: "this machine", remoteAddr: "127.0.0.1:5000", clientIP: "127.0.0.1", host: "localhost:8080"},
		{name: "this machine, by its address", remoteAddr: "127.0.0.1:5000", clientIP: "127.0.0.1", host: "127.0.0.1"},
		{name: "this machine, by another of its addresses", remoteAddr: "127.8.0.1:5000", clientIP: "127.8.0.1", host: "127.8.0.2:80"},
		{name: "this machine, in upper case", remoteAddr: "127.0.0.1:5000", clientIP: "127.0.0.1", host: "LOCALHOST"},
		{name: "this machine, with IPv6", remoteAddr: "[::1]:5000", clientIP: "::1", host: "[::1]:8080"},
		{name: "this machine, with a mapped address", remoteAddr: "[::ffff:127.0.0.1]:5000", clientIP: "::ffff:127.0.0.1", host: "[::ffff:127.0.0.1]"},

		{name: "another machine", remoteAddr: "192.0.2.1:5000", clientIP: "192.0.2.1", host: "localhost", want: errRemoteAddress},
		{name: "another machine that says it is this one", remoteAddr: "192.0.2.1:5000", clientIP: "127.0.0.1", host: "localhost", want: errRemoteAddress},
		{name: "a unix socket", remoteAddr: "@", clientIP: "", host: "localhost", want: errRemoteAddress},
		{name: "no address", remoteAddr: "", clientIP: "127.0.0.1", host: "localhost", want: errRemoteAddress},
		{name: "another machine, behind a proxy on this one", remoteAddr: "127.0.0.1:5000", clientIP: "192.0.2.1", host: "localhost", want: errClientIP},
		{name: "no client_ip", remoteAddr: "127.0.0.1:5000", clientIP: "", host: "localhost", want: errClientIP},
		{name: "a name of somebody's, which leads here (DNS rebinding)", remoteAddr: "127.0.0.1:5000", clientIP: "127.0.0.1", host: "attacker.example", want: errHost},
		{name: "a name that begins like this machine", remoteAddr: "127.0.0.1:5000", clientIP: "127.0.0.1", host: "localhost.attacker.example:8080", want: errHost},
		{name: "a name that begins like an address", remoteAddr: "127.0.0.1:5000", clientIP: "127.0.0.1", host: "127.0.0.1.attacker.example", want: errHost},
		{name: "another address", remoteAddr: "127.0.0.1:5000", clientIP: "127.0.0.1", host: "192.0.2.1", want: errHost},
		{name: "any address", remoteAddr: "127.0.0.1:5000", clientIP: "127.0.0.1", host: "0.0.0.0:8080", want: errHost},
		{name: "two ports", remoteAddr: "127.0.0.1:5000", clientIP: "127.0.0.1", host: "localhost:80:80", want: errHost},
		{name: "a port that is none", remoteAddr: "127.0.0.1:5000", clientIP: "127.0.0.1", host: "localhost:attacker.example", want: errHost},
		{name: "no host", remoteAddr: "127.0.0.1:5000", clientIP: "127.0.0.1", host: "", want: errHost},

		{name: "authenticated, from anywhere", remoteAddr: "192.0.2.1:5000", clientIP: "192.0.2.1", host: "hooks.example", placeholder: "http.auth.user.id", user: "ops"},
		{name: "authenticated as nobody", remoteAddr: "192.0.2.1:5000", clientIP: "192.0.2.1", host: "hooks.example", placeholder: "http.auth.user.id", user: "", want: errRemoteAddress},
		{name: "refused by Caddy, but known", remoteAddr: "192.0.2.1:5000", clientIP: "192.0.2.1", host: "hooks.example", placeholder: "http.auth.candidate.id", user: "ops", want: errRemoteAddress},
	} {
		t.Run(c.name, func(t *testing.T) {
			repl := caddy.NewReplacer()
			r := httptest.NewRequest(http.MethodGet, "/queue/", nil)
			r = caddyhttp.PrepareRequest(r, repl, nil, new(caddyhttp.Server))
			r.RemoteAddr, r.Host = c.remoteAddr, c.host
			r.Header.Set("Http.auth.user.id", "ops")
			caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, c.clientIP)
			if c.placeholder != "" {
				repl.Set(c.placeholder, c.user)
			}
			if got := checkAccess(r); !errors.Is(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "x-forwarded-proto", "X-Original-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "CF-Connecting-IP", "True-Client-Ip"} {
		t.Run("forwarded with "+name, func(t *testing.T) {
			if got := checkAccess(local(t, func(r *http.Request) { r.Header[name] = []string{"127.0.0.1"} })); !errors.Is(got, errForwarded) {
				t.Errorf("got %v, want %v", got, errForwarded)
			}
		})
	}
	t.Run("forwarded by a proxy that speaks HTTP/1.0", func(t *testing.T) {
		if got := checkAccess(local(t, func(r *http.Request) { r.ProtoMinor = 0 })); !errors.Is(got, errForwarded) {
			t.Errorf("got %v, want %v", got, errForwarded)
		}
	})
	t.Run("with the headers of a browser", func(t *testing.T) {
		got := checkAccess(local(t, func(r *http.Request) {
			for _, name := range []string{"Accept", "Cookie", "Origin", "Referer", "Sec-Fetch-Site", "User-Agent", "If-None-Match"} {
				r.Header.Set(name, "via")
			}
		}))
		if got != nil {
			t.Errorf("got %v", got)
		}
	})
	t.Run("what no Caddy has prepared", func(t *testing.T) {
		r := httptest.NewRequest(http.MethodGet, "/queue/", nil)
		r.RemoteAddr, r.Host = "127.0.0.1:5000", "localhost"
		if got := checkAccess(r); !errors.Is(got, errClientIP) {
			t.Errorf("got %v, want %v", got, errClientIP)
		}
	})
}

// local is a request of this machine, which set changes.
func local(t *testing.T, set func(*http.Request)) *http.Request {
	t.Helper()
	r := caddyhttp.PrepareRequest(httptest.NewRequest(http.MethodGet, "/queue/", nil), caddy.NewReplacer(), nil, new(caddyhttp.Server))
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "localhost"
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "127.0.0.1")
	set(r)
	return r
}

func TestWebhookBehindMatchersThatNameNothing(t *testing.T) {
	routes := caddyhttp.RouteList{{
		MatcherSets: caddyhttp.MatcherSets{{new(caddyhttp.MatchHost), new(caddyhttp.MatchPath)}},
		Handlers:    []caddyhttp.MiddlewareHandler{new(intercomwebhook.Handler)},
	}}
	if host, path := webhookIn(routes, "hooks.example.com", "/"); host != "hooks.example.com" || path != "/" {
		t.Errorf("it is at %q %q", host, path)
	}
}
