package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// throughTheDatabase returns the request as an engine would give it back.
func throughTheDatabase(t *testing.T, r *http.Request) *http.Request {
	t.Helper()
	stored, err := db.DecodeRequest(newRequest(r).Encode())
	if err != nil {
		t.Fatal(err)
	}
	got, err := restoreRequest(t.Context(), &stored)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestRequestsComeOutAsTheyWentIn(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "https://hooks.example.com/intercom?a=%2F&b", nil)
	r.RemoteAddr = "192.0.2.7:4711"
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	local := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
	r.Header = http.Header{
		"X-Hub-Signature": {"sha1=0123456789abcdef0123456789abcdef01234567"},
		"X-Several":       {"one", "two"},
		"X-Latin":         {"caf\xe9"},
	}
	got := throughTheDatabase(t, r)
	if !reflect.DeepEqual(got.Header, r.Header) {
		t.Errorf("header %q, want %q", got.Header, r.Header)
	}
	if got.Method != r.Method || got.Host != r.Host || got.RemoteAddr != r.RemoteAddr || got.URL.RequestURI() != r.URL.RequestURI() ||
		got.ProtoMajor != 2 || got.TLS == nil {
		t.Errorf("request %+v, want %+v", got, r)
	}
	if addr := got.Context().Value(http.LocalAddrContextKey).(net.Addr); addr.String() != "192.0.2.1:443" || addr.Network() != "tcp" {
		t.Errorf("local address %s %s", addr.Network(), addr)
	}
}

func TestHandlersDoNotChangeTheHeadersOfOtherDeliveries(t *testing.T) {
	stored := db.Request{URI: "/", Header: map[string][]string{"A": {"1"}, "B": {"2", "3"}}}
	for range 2 {
		r, err := restoreRequest(t.Context(), &stored)
		if err != nil {
			t.Fatal(err)
		}
		r.Header["A"][0] = "changed"
		r.Header.Add("A", "more")
		if got := r.Header["B"]; len(got) != 2 || got[0] != "2" {
			t.Errorf("B is %q", got)
		}
		r.Header["B"] = append(r.Header["B"], "4")
	}
	if stored.Header["A"][0] != "1" || len(stored.Header["A"]) != 1 || len(stored.Header["B"]) != 2 {
		t.Errorf("stored %v", stored.Header)
	}
}

// A row could put a second Content-Length into the request of a backend.
func TestNoStoredHeaderFramesAMessage(t *testing.T) {
	stored := map[string][]string{
		"x-lower": {"1"}, "X-Lower": {"2"}, "X-Hub-Signature": {"sha1=00"}, "Content-Type": {"application/json"},
		"bad name": {"1"}, "X-Bad\r\nX": {"1"}, "": {"1"}, "X-Value": {"a\r\nTransfer-Encoding: chunked", "fine"}, "X-Nul": {"\x00"},
	}
	for _, name := range []string{
		"Content-Length", "Transfer-Encoding", "Connection", "Host", "Trailer", "TE", "Upgrade", "Keep-Alive", "Proxy-Connection",
	} {
		stored[name], stored[strings.ToLower(name)], stored[strings.ToUpper(name)] = []string{"1"}, []string{"1"}, []string{"1"}
	}
	got := restoreHeader(stored)
	if values := got["X-Lower"]; len(values) != 2 {
		t.Errorf("X-Lower is %q, want both values", values)
	}
	delete(got, "X-Lower")
	want := http.Header{"X-Hub-Signature": {"sha1=00"}, "Content-Type": {"application/json"}, "X-Value": {"fine"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("header %q, want %q", got, want)
	}
}

func TestRewrittenRequestsComeOutWithWhatTheyWereBefore(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/new", nil)
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, http.Request{Method: "PATCH", RequestURI: "/old?caf\xe9"}))
	got := throughTheDatabase(t, r)
	original, _ := got.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if got.Method != "POST" || got.URL.Path != "/new" || original.Method != "PATCH" || original.RequestURI != "/old?caf\xe9" ||
		original.URL == nil || original.URL.Path != "/old" {
		t.Errorf("%s %s was %s %q, parsed as %v", got.Method, got.URL, original.Method, original.RequestURI, original.URL)
	}
}

// Caddy's placeholders panic without a local address.
func TestRequestsWithoutALocalAddress(t *testing.T) {
	r, err := restoreRequest(t.Context(), &db.Request{Method: "POST", URI: "/", Proto: "HTTP/1.1"})
	if err != nil {
		t.Fatal(err)
	}
	shown := caddyhttp.NewTestReplacer(r).ReplaceAll("{http.request.local}|{http.request.local.host}|{http.request.local.port}", "none")
	if shown != "none|none|none" {
		t.Errorf("placeholders are %s", shown)
	}
}

func TestStoredURIThatIsNotValidIsNotQuoted(t *testing.T) {
	for name, stored := range map[string]db.Request{
		"the URI":                 {URI: "private words"},
		"the URI before rewrites": {URI: "/", OriginalURI: "private words"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := restoreRequest(t.Context(), &stored)
			if !errors.Is(err, errStoredURI) || strings.Contains(err.Error(), "private") {
				t.Errorf("error is %v, want %v", err, errStoredURI)
			}
		})
	}
}
