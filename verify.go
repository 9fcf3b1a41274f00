package intercomwebhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// scheme is one of the two ways in which Intercom signs a request. Each has a
// header of its own, and a signature counts only in the header of its scheme.
type scheme struct {
	header  string
	prefix  string
	newHash func() hash.Hash
	size    int // of the HMAC, in bytes
}

var (
	// notifications
	hubSignature = &scheme{header: intercom.HubSignature, prefix: intercom.HubSignaturePrefix, newHash: sha1.New, size: sha1.Size}
	// app requests
	bodySignature = &scheme{header: intercom.BodySignature, newHash: sha256.New, size: sha256.Size}
)

// The reasons for which a request is refused, as they appear in logs, metrics
// and {http.intercom_webhook.reason}.
const (
	reasonMethod             = "method"
	reasonEarlyData          = "early_data"
	reasonSource             = "source"
	reasonSignatureMissing   = "signature_missing"
	reasonSignatureMalformed = "signature_malformed"
	reasonTooLarge           = "too_large"
	reasonBody               = "body"
	reasonSignatureMismatch  = "signature_mismatch"
	reasonEnvelope           = "envelope"
)

// refusal is why a request is not let in. Its text goes to logs and to
// {http.error.message}: it never holds anything that the sender wrote, and so never
// wraps an error of net/http, which may quote the request.
type refusal struct {
	status int
	reason string
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func newRefusal(status int, reason, format string, args ...any) *refusal {
	return &refusal{status: status, reason: reason, err: fmt.Errorf(format, args...)}
}

// verifier lets in only what Intercom sent and signed.
type verifier struct {
	sources []caddyhttp.IPRangeSource
	keys    func() []map[*scheme]*macPool // those of now, by place of the secret
	maxSize int64

	// appRequests enables bodySignature.
	appRequests bool
}

// signedRequest is what is left of a request once it is proven to be Intercom's.
type signedRequest struct {
	scheme *scheme
	secret int // place of the secret that matched
	body   []byte
}

// admit checks all that can be judged before the body is read, cheapest first,
// and returns the signature that the body has to match.
func (v *verifier) admit(r *http.Request) (signature, *refusal) {
	if r.Method != http.MethodPost {
		return signature{}, newRefusal(http.StatusMethodNotAllowed, reasonMethod, "method is not POST")
	}
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		// QUIC's 0-RTT: until the handshake completes, the source address may be forged.
		return signature{}, newRefusal(http.StatusTooEarly, reasonEarlyData, "request came before the TLS handshake was complete")
	}
	if !v.allows(r) {
		return signature{}, newRefusal(http.StatusForbidden, reasonSource, "source address is not allowed")
	}
	claimed, refused := v.findSignature(r.Header)
	if refused != nil {
		return signature{}, refused
	}
	if r.ContentLength > v.maxSize {
		return signature{}, v.tooLarge()
	}
	return claimed, nil
}

// allows judges the address that Caddy found to be the client's, which honors
// trusted_proxies. It fails closed: no address, or none that parses, is not allowed.
func (v *verifier) allows(r *http.Request) bool {
	client, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	addr, err := netip.ParseAddr(client)
	if err != nil {
		return false
	}
	addr = addr.Unmap() // ::ffff:192.0.2.1 is 192.0.2.1, which is how ranges are written
	for _, source := range v.sources {
		for _, prefix := range source.GetIPRanges(r) {
			if prefix.Contains(addr) {
				return true
			}
		}
	}
	return false
}

// findSignature finds the one signature of the request. Two of them, be it in one
// header or in both, are refused: picking one would let the sender choose.
func (v *verifier) findSignature(header http.Header) (signature, *refusal) {
	hub, body := header[hubSignature.header], header[bodySignature.header]
	switch {
	case len(hub)+len(body) > 1:
		return signature{}, newRefusal(http.StatusUnauthorized, reasonSignatureMalformed, "more than one signature header")
	case len(hub) == 1:
		return hubSignature.decode(hub[0])
	case len(body) == 1 && v.appRequests:
		return bodySignature.decode(body[0])
	case len(body) == 1:
		return signature{}, newRefusal(http.StatusUnauthorized, reasonSignatureMissing,
			"%s without %s, and app requests are not enabled", bodySignature.header, hubSignature.header)
	default:
		return signature{}, newRefusal(http.StatusUnauthorized, reasonSignatureMissing, "no signature header")
	}
}

// signature is what a request claims to be signed with.
type signature struct {
	scheme *scheme
	sum    [sha256.Size]byte // of which the first scheme.size bytes count
}

// decode takes the signature out of its header value.
func (s *scheme) decode(value string) (signature, *refusal) {
	claimed := signature{scheme: s}
	var digits [2 * sha256.Size]byte // on the stack, which a conversion would not be
	text, ok := strings.CutPrefix(value, s.prefix)
	if ok && len(text) == hex.EncodedLen(s.size) {
		n := copy(digits[:], text)
		if _, err := hex.Decode(claimed.sum[:], digits[:n]); err == nil {
			return claimed, nil
		}
	}
	return signature{}, newRefusal(http.StatusUnauthorized, reasonSignatureMalformed,
		"%s is not %q and %d hex digits", s.header, s.prefix, hex.EncodedLen(s.size))
}

// verify reads the body and proves that one of the secrets signed it. The
// deadline ends a body that never comes to its end.
func (v *verifier) verify(w http.ResponseWriter, r *http.Request, deadline time.Time) (signedRequest, *refusal) {
	claimed, refused := v.admit(r)
	var body []byte
	var keys []map[*scheme]*macPool
	if refused == nil {
		// before the body comes: a request keeps the secrets that it began with
		keys = v.keys()
		body, refused = v.readBody(w, r, deadline)
	}
	if refused != nil {
		abandonBody(w, r)
		return signedRequest{}, refused
	}
	for i, key := range keys {
		if key[claimed.scheme].signed(body, claimed) {
			return signedRequest{scheme: claimed.scheme, secret: i, body: body}, nil
		}
	}
	return signedRequest{}, newRefusal(http.StatusUnauthorized, reasonSignatureMismatch, "signature matches no secret")
}

// preallocatedBody bounds what a Content-Length alone makes us allocate, in bytes.
// Notifications seen so far had up to 17 KB.
const preallocatedBody = 64 << 10

func (v *verifier) readBody(w http.ResponseWriter, r *http.Request, deadline time.Time) ([]byte, *refusal) {
	// Not every ResponseWriter has deadlines (HTTP/1, 2 and 3 have); Caddy's
	// own idle timeouts then remain.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(deadline)

	limited := http.MaxBytesReader(w, r.Body, v.maxSize)
	// ReadFrom wants room left at the end, to see the EOF without growing
	size := bytes.MinRead + max(0, min(r.ContentLength, preallocatedBody))
	buf := bytes.NewBuffer(make([]byte, 0, size))
	if _, err := buf.ReadFrom(limited); err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return nil, v.tooLarge()
		}
		return nil, newRefusal(http.StatusBadRequest, reasonBody, "%s", bodyFailure(err))
	}
	_ = control.SetReadDeadline(time.Time{})
	_ = limited.Close()
	return buf.Bytes(), nil
}

// bodyFailure says why a body could not be read. The error's own text may quote what
// was sent, such as a malformed trailer.
func bodyFailure(err error) string {
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case ok && timeout.Timeout():
		return "body was not complete in time"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "body was cut short"
	default:
		return "body could not be read"
	}
}

// closeConnection has net/http close an HTTP/1 connection after the answer, so that a
// sender that was refused does not keep it.
func closeConnection(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header()["Connection"] = []string{"close"}
	}
}

// abandonBody ends an HTTP/1 connection with the answer, if the request announced a
// body that was not read. net/http would otherwise read on, before the answer and
// after it, for as long as the sender likes.
func abandonBody(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.ContentLength == 0 {
		return
	}
	closeConnection(w, r)
	_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // the past: reads fail at once
	// A body over its limit makes net/http send the end of the connection at once, but
	// close the socket a little later. Otherwise the kernel may reset the connection
	// because of what was sent and not read, and the sender would miss the answer.
	overLimit := http.MaxBytesReader(innermost(w), io.NopCloser(strings.NewReader("x")), 0)
	_, _ = overLimit.Read(make([]byte, 1))
}

// innermost returns the ResponseWriter that is net/http's own.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}

func (v *verifier) tooLarge() *refusal {
	return newRefusal(http.StatusRequestEntityTooLarge, reasonTooLarge, "body is larger than %d bytes", v.maxSize)
}

// restoreBody gives the bytes that were read back to the request, so that any
// handler behind can read them, and net/http can read them again when it has to
// repeat the request on a new connection. The bytes must not be reused: a
// transport may still read them after its handler has returned.
func restoreBody(r *http.Request, body []byte) {
	r.Body = newReplay(body)
	r.GetBody = func() (io.ReadCloser, error) { return newReplay(body), nil }
	if r.ContentLength != int64(len(body)) {
		r.ContentLength = int64(len(body))
		r.Header["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	// a chunked body has become one of known length, and trailers would turn it back
	r.TransferEncoding = nil
	r.Trailer = nil
}

// replay is a body that is in memory. Closing it does nothing, so that a handler
// that closes it leaves it to the next.
type replay struct{ bytes.Reader }

func newReplay(body []byte) *replay {
	r := new(replay)
	r.Reset(body)
	return r
}

func (*replay) Close() error { return nil }

// macPool holds keyed HMAC states of one secret, because keying one costs as
// much as hashing a small body.
type macPool struct{ pool sync.Pool }

type keyedMAC struct {
	hash.Hash
	sum [sha256.Size]byte // room for the result
}

func newMACPool(newHash func() hash.Hash, secret []byte) *macPool {
	return &macPool{sync.Pool{New: func() any { return &keyedMAC{Hash: hmac.New(newHash, secret)} }}}
}

// signed reports, in constant time, whether the body has the signature claimed.
func (p *macPool) signed(body []byte, claimed signature) bool {
	mac := p.pool.Get().(*keyedMAC)
	defer p.pool.Put(mac)
	mac.Reset()
	mac.Write(body)
	return hmac.Equal(mac.Sum(mac.sum[:0]), claimed.sum[:claimed.scheme.size])
}

// newKeys returns the keys of the secrets, by place.
func newKeys(secrets []string) []map[*scheme]*macPool {
	keys := make([]map[*scheme]*macPool, len(secrets))
	for i, secret := range secrets {
		keys[i] = make(map[*scheme]*macPool)
		for _, s := range []*scheme{hubSignature, bodySignature} {
			keys[i][s] = newMACPool(s.newHash, []byte(secret))
		}
	}
	return keys
}
