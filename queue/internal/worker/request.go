package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/textproto"
	"net/url"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// newRequest returns the request as it is stored, without its body.
func newRequest(r *http.Request) db.Request {
	stored := db.Request{
		Method: r.Method, URI: r.URL.RequestURI(), Proto: r.Proto, HTTPS: r.TLS != nil, Host: r.Host,
		RemoteAddr: r.RemoteAddr, Header: r.Header.Clone(),
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		stored.LocalNet, stored.LocalAddr = local.Network(), local.String()
	}
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if ok && (original.Method != r.Method || original.RequestURI != stored.URI) {
		stored.OriginalMethod, stored.OriginalURI = original.Method, original.RequestURI
	}
	return stored
}

// errStoredURI does not wrap the error of url.ParseRequestURI, which has the URI in it.
var errStoredURI = errors.New("stored request: the URI is not valid")

// restoreRequest returns a stored request as it was received, but without its body. Its
// context is ctx with the values that a server would have added.
func restoreRequest(ctx context.Context, stored *db.Request) (*http.Request, error) {
	target, err := url.ParseRequestURI(stored.URI)
	if err != nil {
		return nil, errStoredURI
	}
	r := &http.Request{
		Method: stored.Method, URL: target, RequestURI: stored.URI, Proto: stored.Proto, Host: stored.Host,
		RemoteAddr: stored.RemoteAddr, Header: restoreHeader(stored.Header), Body: http.NoBody,
	}
	r.ProtoMajor, r.ProtoMinor, _ = http.ParseHTTPVersion(stored.Proto)
	if stored.HTTPS {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	}
	// Caddy's placeholders panic without a local address. This type has any network and text.
	ctx = context.WithValue(ctx, http.LocalAddrContextKey, net.Addr(&net.UnixAddr{Net: stored.LocalNet, Name: stored.LocalAddr}))
	if stored.OriginalURI != "" {
		original := http.Request{Method: stored.OriginalMethod, RequestURI: stored.OriginalURI, RemoteAddr: stored.RemoteAddr}
		if original.URL, err = url.ParseRequestURI(stored.OriginalURI); err != nil {
			return nil, errStoredURI
		}
		ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, original)
	}
	return r.WithContext(ctx), nil
}

// framing are the headers that frame a message or belong to its connection. The request of a
// delivery has its own.
var framing = map[string]bool{
	"Connection": true, "Content-Length": true, "Host": true, "Keep-Alive": true, "Proxy-Connection": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

// restoreHeader returns a copy of the stored headers, because handlers may change it. Others
// can write to the database, so it has only valid headers, under their canonical names, and
// none that frames a message: a second Content-Length would make two requests of one.
func restoreHeader(stored map[string][]string) http.Header {
	header := make(http.Header, len(stored))
	for name, values := range stored {
		name = textproto.CanonicalMIMEHeaderKey(name)
		if !httpguts.ValidHeaderFieldName(name) || framing[name] {
			continue
		}
		for _, value := range values {
			if httpguts.ValidHeaderFieldValue(value) {
				header[name] = append(header[name], value)
			}
		}
	}
	return header
}
