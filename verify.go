package intercomwebhook

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// scheme is one of the two ways in which Intercom signs requests. Each has its own header,
// and a signature in the other header is not accepted.
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

// The reasons for a refusal, as they are in logs, in metrics and in
// {http.intercom_webhook.reason}.
const (
	reasonMethod             = "method"
	reasonEarlyData          = "early_data"
	reasonSource             = "source"
	reasonSignatureMissing   = "signature_missing"
	reasonSignatureMalformed = "signature_malformed"
	reasonTooLarge           = "too_large"
	reasonBody               = "body"
	reasonMemory             = "memory"
	reasonSignatureMismatch  = "signature_mismatch"
	reasonEnvelope           = "envelope"
)

var refusalReasons = []string{
	reasonMethod, reasonEarlyData, reasonSource, reasonSignatureMissing, reasonSignatureMalformed,
	reasonTooLarge, reasonBody, reasonMemory, reasonSignatureMismatch, reasonEnvelope,
}

// refusal is the error for a request that is refused. Its text goes to logs and to
// {http.error.message}. It never contains anything that the sender wrote. So it never
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

// verifier accepts only requests that Intercom sent and signed.
type verifier struct {
	sources []caddyhttp.IPRangeSource
	keys    func() []map[*scheme]*macPool // the current keys, by place of the secret
	maxSize int64

	// appRequests enables the scheme bodySignature.
	appRequests bool
}

// signedRequest is the result of a successful verification.
type signedRequest struct {
	scheme *scheme
	secret int // place of the secret that matched
	body   []byte
}

// admit makes all checks that do not need the body, the cheapest first. It returns the
// signature that the body must match.
func (v *verifier) admit(r *http.Request) (signature, *refusal) {
	if r.Method != http.MethodPost {
		return signature{}, newRefusal(http.StatusMethodNotAllowed, reasonMethod, "method is not POST")
	}
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		// This is 0-RTT of QUIC: the source address may be forged until the handshake is
		// complete.
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

// allows reports whether a source has the client's address, as Caddy found it with
// trusted_proxies. It fails closed: a missing or invalid address is not allowed.
func (v *verifier) allows(r *http.Request) bool {
	client, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	addr, err := netip.ParseAddr(client)
	if err != nil {
		return false
	}
	addr = addr.Unmap() // ::ffff:192.0.2.1 becomes 192.0.2.1, the form that ranges have
	for _, source := range v.sources {
		for _, prefix := range source.GetIPRanges(r) {
			if prefix.Contains(addr) {
				return true
			}
		}
	}
	return false
}

// findSignature returns the signature of the request. It refuses two signatures, in the
// same header or in both, because the sender must not choose which one is checked.
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

// signature is the signature that a request claims to have.
type signature struct {
	scheme *scheme
	sum    [sha256.Size]byte // only the first scheme.size bytes are used
}

// decode reads the signature from the value of its header.
func (s *scheme) decode(value string) (signature, *refusal) {
	claimed := signature{scheme: s}
	var digits [2 * sha256.Size]byte // on the stack; a conversion to []byte would be on the heap
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

// verify checks the request, reads its body, and proves that one of the secrets signed it.
// It stops reading at the deadline.
func (v *verifier) verify(w http.ResponseWriter, r *http.Request, deadline time.Time) (signedRequest, *refusal) {
	claimed, refused := v.admit(r)
	var body []byte
	var keys []map[*scheme]*macPool
	if refused == nil {
		// Before the body is read, so that a change of the secrets during a slow body does
		// not concern it.
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

// closeConnection makes net/http close an HTTP/1 connection after the answer, so that a
// refused sender does not keep it open.
func closeConnection(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header()["Connection"] = []string{"close"}
	}
}

func (v *verifier) tooLarge() *refusal {
	return newRefusal(http.StatusRequestEntityTooLarge, reasonTooLarge, "body is larger than %d bytes", v.maxSize)
}

// macPool has HMAC states with the key of one secret. Setting the key costs as much as
// hashing a small body.
type macPool struct{ pool sync.Pool }

type keyedMAC struct {
	hash.Hash
	sum [sha256.Size]byte // memory for the result
}

func newMACPool(newHash func() hash.Hash, secret []byte) *macPool {
	return &macPool{sync.Pool{New: func() any { return &keyedMAC{Hash: hmac.New(newHash, secret)} }}}
}

// signed reports, in constant time, whether the claimed signature is that of the body.
func (p *macPool) signed(body []byte, claimed signature) bool {
	mac := p.pool.Get().(*keyedMAC)
	defer p.pool.Put(mac)
	mac.Reset()
	mac.Write(body)
	return hmac.Equal(mac.Sum(mac.sum[:0]), claimed.sum[:claimed.scheme.size])
}

// header returns the value of the scheme's header for the body.
func (p *macPool) header(s *scheme, body []byte) string {
	mac := p.pool.Get().(*keyedMAC)
	defer p.pool.Put(mac)
	mac.Reset()
	mac.Write(body)
	return s.prefix + hex.EncodeToString(mac.Sum(mac.sum[:0]))
}

// newKeys returns the keys of the secrets, in the same order.
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
