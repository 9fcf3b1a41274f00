package intercomwebhook

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/body"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
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
	keys    func() []*signature.Key // the current keys, by place of the secret
	finKeys func() []*signature.Key // those of the scheme signature.Fin; nil refuses it
	maxSize int64

	// appRequests enables the scheme signature.Body.
	appRequests bool
}

// signedRequest is the result of a successful verification.
type signedRequest struct {
	scheme *signature.Scheme
	secret int // place of the secret that matched
	body   []byte
	memory *body.Reservation // of the body
}

// admit makes all checks that do not need the body, the cheapest first. It returns the
// signature that the body must match.
func (v *verifier) admit(r *http.Request) (signature.Claimed, *refusal) {
	if r.Method != http.MethodPost {
		return signature.Claimed{}, newRefusal(http.StatusMethodNotAllowed, reasonMethod, "method is not POST")
	}
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		// This is 0-RTT of QUIC: the source address may be forged until the handshake is
		// complete.
		return signature.Claimed{}, newRefusal(http.StatusTooEarly, reasonEarlyData, "request came before the TLS handshake was complete")
	}
	if err := v.checkSource(r); err != nil {
		return signature.Claimed{}, newRefusal(http.StatusForbidden, reasonSource, "%w", err)
	}
	claimed, refused := v.findSignature(r.Header)
	if refused != nil {
		return signature.Claimed{}, refused
	}
	if encoded(r.Header) {
		return signature.Claimed{}, newRefusal(http.StatusBadRequest, reasonBody,
			"body has a Content-Encoding, and Intercom sends none: whatever is in front must pass the body on as it came")
	}
	if r.ContentLength > v.maxSize {
		return signature.Claimed{}, tooLarge(v.maxSize)
	}
	return claimed, nil
}

// checkSource returns an error unless a source has the client's address, as Caddy found it with
// trusted_proxies. It fails closed: a missing or invalid address is not allowed.
func (v *verifier) checkSource(r *http.Request) error {
	client, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	addr, err := netip.ParseAddr(client)
	if err != nil {
		return errSource
	}
	addr = addr.Unmap() // ::ffff:192.0.2.1 becomes 192.0.2.1, and so do ranges
	for _, source := range v.sources {
		for _, prefix := range source.GetIPRanges(r) {
			if unmap(prefix).Contains(addr) {
				return checkForwarded(r, client)
			}
		}
	}
	return errSource
}

// encoded reports whether the header says that the body is compressed or encoded.
func encoded(header http.Header) bool {
	return slices.ContainsFunc(header["Content-Encoding"], func(coding string) bool {
		return coding != "" && !strings.EqualFold(coding, "identity")
	})
}

// findSignature returns the signature of the request. It refuses two signatures, in the
// same header or in several, because the sender must not choose which one is checked.
func (v *verifier) findSignature(header http.Header) (signature.Claimed, *refusal) {
	hubs, bodies, fins := header[signature.Hub.Header], header[signature.Body.Header], header[signature.Fin.Header]
	switch {
	case len(hubs)+len(bodies)+len(fins) > 1:
		return signature.Claimed{}, newRefusal(http.StatusUnauthorized, reasonSignatureMalformed, "more than one signature header")
	case len(hubs) == 1:
		return decode(signature.Hub, hubs[0])
	case len(bodies) == 1 && v.appRequests:
		return decode(signature.Body, bodies[0])
	case len(bodies) == 1:
		return signature.Claimed{}, newRefusal(http.StatusUnauthorized, reasonSignatureMissing,
			"%s without %s, and app requests are not enabled", signature.Body.Header, signature.Hub.Header)
	case len(fins) == 1 && v.finKeys != nil:
		return decode(signature.Fin, fins[0])
	case len(fins) == 1:
		return signature.Claimed{}, newRefusal(http.StatusUnauthorized, reasonSignatureMissing,
			"%s without %s, and there is no fin_secret", signature.Fin.Header, signature.Hub.Header)
	default:
		return signature.Claimed{}, newRefusal(http.StatusUnauthorized, reasonSignatureMissing, "no signature header")
	}
}

func decode(scheme *signature.Scheme, value string) (signature.Claimed, *refusal) {
	claimed, err := scheme.Decode(value)
	if err != nil {
		return claimed, newRefusal(http.StatusUnauthorized, reasonSignatureMalformed, "%w", err)
	}
	return claimed, nil
}

// verify checks the request, reads its body, and proves that one of the secrets signed it.
// It stops reading at the deadline.
func (v *verifier) verify(w http.ResponseWriter, r *http.Request, deadline time.Time) (signedRequest, *refusal) {
	claimed, refused := v.admit(r)
	if refused != nil {
		// Whoever expects a 100 (Continue) sends nothing before it has the answer.
		if r.Header.Get("Expect") == "" && v.checkSource(r) == nil {
			body.Discard(w, r, deadline)
		} else {
			body.Abandon(w, r)
		}
		return signedRequest{}, refused
	}
	// Before the body is read, so that a change of the secrets during a slow body does
	// not concern it.
	keysOf := v.keys
	if claimed.Scheme == signature.Fin {
		keysOf = v.finKeys
	}
	keys := keysOf()
	content, memory, err := body.Read(w, r, v.maxSize, deadline)
	if err != nil {
		body.Discard(w, r, deadline)
		return signedRequest{}, refusalOf(err)
	}
	for i, key := range keys {
		if key.Signed(content, claimed) {
			return signedRequest{scheme: claimed.Scheme, secret: i, body: content, memory: memory}, nil
		}
	}
	memory.Release()
	return signedRequest{}, newRefusal(http.StatusUnauthorized, reasonSignatureMismatch, "signature matches no secret")
}

// refusalOf returns the refusal of a request whose body could not be read. The limit that a body
// exceeds may be that of another handler, such as request_body.
func refusalOf(err error) *refusal {
	large, isTooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case isTooLarge:
		return tooLarge(large.Limit)
	case errors.Is(err, body.ErrNoMemory):
		return newRefusal(http.StatusServiceUnavailable, reasonMemory, "%w", err)
	default:
		return newRefusal(http.StatusBadRequest, reasonBody, "%w", err)
	}
}

func tooLarge(limit int64) *refusal {
	return newRefusal(http.StatusRequestEntityTooLarge, reasonTooLarge, "body is larger than %d bytes", limit)
}
