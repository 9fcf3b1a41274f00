package intercomwebhook

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/textproto"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

// prepared makes a request look as it does inside of Caddy.
func prepared(r *http.Request) *http.Request {
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, &caddyhttp.Server{})
}

func sign(s *signature.Scheme, secret, body string) string {
	return signature.NewKey(secret).Header(s, []byte(body))
}

type ranges []netip.Prefix

func (r ranges) GetIPRanges(*http.Request) []netip.Prefix { return r }

func from(prefixes ...string) ranges {
	var r ranges
	for _, prefix := range prefixes {
		r = append(r, netip.MustParsePrefix(prefix))
	}
	return r
}

// keysOf is where a verifier has its keys from if the secrets never change.
func keysOf(secrets ...string) func() []*signature.Key {
	var keys []*signature.Key
	for _, secret := range secrets {
		keys = append(keys, signature.NewKey(secret))
	}
	return func() []*signature.Key { return keys }
}

func testVerifier() *verifier {
	return &verifier{
		sources:     []caddyhttp.IPRangeSource{from("203.0.113.0/24"), from("192.0.2.1/32", "2001:db8::/32")},
		keys:        keysOf("new", "old"),
		maxSize:     100,
		appRequests: true,
	}
}

func TestVerify(t *testing.T) {
	const body = `{"topic":"ping"}`
	hub := func(value string) http.Header { return http.Header{"X-Hub-Signature": {value}} }
	good := hub(sign(signature.Hub, "new", body))

	for name, tc := range map[string]struct {
		method  string // default: POST
		from    string // default: 203.0.113.9
		header  http.Header
		body    io.Reader // default: body
		length  int64     // default: as the body has it
		appsOff bool
		tls     *tls.ConnectionState

		reason string
		status int
		text   string // part of the error
		scheme *signature.Scheme
		secret int
	}{
		"ok/signed with the first secret":         {header: good, scheme: signature.Hub},
		"ok/signed with the second":               {header: hub(sign(signature.Hub, "old", body)), scheme: signature.Hub, secret: 1},
		"ok/upper-case digits":                    {header: hub("sha1=" + strings.ToUpper(sign(signature.Hub, "new", body)[5:])), scheme: signature.Hub},
		"ok/app request":                          {header: http.Header{"X-Body-Signature": {sign(signature.Body, "new", body)}}, scheme: signature.Body},
		"ok/from the second source":               {from: "192.0.2.1", header: good, scheme: signature.Hub},
		"ok/from an IPv6 address":                 {from: "2001:db8::7", header: good, scheme: signature.Hub},
		"ok/from an IPv4 address written as IPv6": {from: "::ffff:203.0.113.9", header: good, scheme: signature.Hub},
		"ok/Content-Encoding that is none":        {header: http.Header{"X-Hub-Signature": good["X-Hub-Signature"], "Content-Encoding": {"Identity"}}, scheme: signature.Hub},
		"ok/over TLS":                             {header: good, tls: &tls.ConnectionState{HandshakeComplete: true}, scheme: signature.Hub},
		"ok/body of unknown length":               {header: good, length: -1, scheme: signature.Hub},
		"ok/body of the largest size":             {header: hub(sign(signature.Hub, "new", strings.Repeat("x", 100))), body: strings.NewReader(strings.Repeat("x", 100)), length: 100, scheme: signature.Hub},

		"fail/GET":                              {method: http.MethodGet, header: good, reason: "method", status: 405},
		"fail/PUT":                              {method: http.MethodPut, header: good, reason: "method", status: 405},
		"fail/another address":                  {from: "198.51.100.1", header: good, reason: "source", status: 403},
		"fail/no address":                       {from: "-", header: good, reason: "source", status: 403},
		"fail/the address before the signature": {from: "198.51.100.1", reason: "source", status: 403},
		"fail/early data":                       {header: good, tls: new(tls.ConnectionState), reason: "early_data", status: 425},
		"fail/early data before the address":    {from: "198.51.100.1", tls: new(tls.ConnectionState), reason: "early_data", status: 425},
		"fail/another method before early data": {method: http.MethodGet, tls: new(tls.ConnectionState), reason: "method", status: 405},
		"fail/trailer malformed":                {header: good, body: iotest.ErrReader(textproto.ProtocolError("malformed MIME header line: ping new old")), length: -1, reason: "body", status: 400},
		"fail/no signature":                     {reason: "signature_missing", status: 401},
		"fail/app request where there are none": {header: http.Header{"X-Body-Signature": {sign(signature.Body, "new", body)}}, appsOff: true, reason: "signature_missing", status: 401},
		"fail/two signatures in one header":     {header: http.Header{"X-Hub-Signature": {sign(signature.Hub, "new", body), sign(signature.Hub, "new", body)}}, reason: "signature_malformed", status: 401},
		"fail/two signatures in two headers":    {header: http.Header{"X-Hub-Signature": good["X-Hub-Signature"], "X-Body-Signature": {sign(signature.Body, "new", body)}}, reason: "signature_malformed", status: 401},
		"fail/two headers where apps are off":   {header: http.Header{"X-Hub-Signature": good["X-Hub-Signature"], "X-Body-Signature": {"x"}}, appsOff: true, reason: "signature_malformed", status: 401},
		"fail/two signatures, comma-joined":     {header: hub(good.Get("X-Hub-Signature") + ", " + good.Get("X-Hub-Signature")), reason: "signature_malformed", status: 401},
		"fail/empty signature":                  {header: hub(""), reason: "signature_malformed", status: 401},
		"fail/no prefix":                        {header: hub(good.Get("X-Hub-Signature")[5:]), reason: "signature_malformed", status: 401},
		"fail/another prefix":                   {header: hub("sha256=" + sign(signature.Body, "new", body)), reason: "signature_malformed", status: 401},
		"fail/SHA-256 under the SHA-1 prefix":   {header: hub("sha1=" + sign(signature.Body, "new", body)), reason: "signature_malformed", status: 401},
		"fail/no hex digits":                    {header: hub("sha1=" + strings.Repeat("g", 40)), reason: "signature_malformed", status: 401},
		"fail/a digit too few":                  {header: hub(good.Get("X-Hub-Signature")[:44]), reason: "signature_malformed", status: 401},
		"fail/a prefix on an app signature":     {header: http.Header{"X-Body-Signature": {"sha256=" + sign(signature.Body, "new", body)}}, reason: "signature_malformed", status: 401},
		"fail/SHA-1 in the app header":          {header: http.Header{"X-Body-Signature": {sign(signature.Hub, "new", body)[5:]}}, reason: "signature_malformed", status: 401},
		"fail/declared too large":               {header: good, length: 101, reason: "too_large", status: 413},
		"fail/compressed":                       {header: http.Header{"X-Hub-Signature": good["X-Hub-Signature"], "Content-Encoding": {"gzip"}}, reason: "body", status: 400, text: "Content-Encoding"},
		"fail/compressed, in a second header":   {header: http.Header{"X-Hub-Signature": good["X-Hub-Signature"], "Content-Encoding": {"identity", "br"}}, reason: "body", status: 400, text: "Content-Encoding"},
		"fail/larger than a limit before ours":  {header: good, body: http.MaxBytesReader(nil, io.NopCloser(strings.NewReader(body)), 7), reason: "too_large", status: 413, text: "larger than 7 bytes"},
		"fail/sent too large":                   {header: good, body: strings.NewReader(strings.Repeat("x", 101)), length: -1, reason: "too_large", status: 413, text: "larger than 100 bytes"},
		"fail/cut short":                        {header: good, body: io.MultiReader(strings.NewReader(body[:5]), iotest.ErrReader(io.ErrUnexpectedEOF)), length: 16, reason: "body", status: 400},
		"fail/signed with another secret":       {header: hub(sign(signature.Hub, "guess", body)), reason: "signature_mismatch", status: 401},
		"fail/signed with an empty secret":      {header: hub(sign(signature.Hub, "", body)), reason: "signature_mismatch", status: 401},
		"fail/another body":                     {header: hub(sign(signature.Hub, "new", body+" ")), reason: "signature_mismatch", status: 401},
		"fail/a signature of zeros":             {header: hub("sha1=" + strings.Repeat("0", 40)), reason: "signature_mismatch", status: 401},
	} {
		t.Run(name, func(t *testing.T) {
			method, source, content := tc.method, tc.from, tc.body
			if method == "" {
				method = http.MethodPost
			}
			if source == "" {
				source = "203.0.113.9"
			}
			if content == nil {
				content = strings.NewReader(body)
			}
			r := httptest.NewRequest(method, "/", io.NopCloser(content))
			r.ContentLength = tc.length
			if tc.length == 0 {
				r.ContentLength = int64(len(body))
			}
			r.RemoteAddr = "[" + source + "]:443"
			r.TLS = tc.tls
			if tc.header != nil {
				r.Header = tc.header.Clone()
			}
			v := testVerifier()
			v.appRequests = !tc.appsOff

			signed, refused := v.verify(httptest.NewRecorder(), prepared(r), time.Now().Add(time.Second))
			if tc.reason != "" {
				if refused == nil || refused.reason != tc.reason || refused.status != tc.status || !strings.Contains(refused.Error(), tc.text) {
					t.Fatalf("got %+v; want reason %s, status %d, %q", refused, tc.reason, tc.status, tc.text)
				}
				for _, private := range []string{"new", "old", "ping", good.Get("X-Hub-Signature")[5:20]} {
					if regexp.MustCompile(`\b` + private).MatchString(refused.Error()) {
						t.Errorf("error %q gives away %q", refused, private)
					}
				}
				return
			}
			if refused != nil {
				t.Fatal(refused.reason, refused)
			}
			if signed.scheme != tc.scheme || signed.secret != tc.secret {
				t.Errorf("got scheme %s, secret %d", signed.scheme.Header, signed.secret)
			}
		})
	}
}

type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

func TestNothingIsReadFromStrangers(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodPatch} {
		r := httptest.NewRequest(method, "/", unreadable{t})
		r.RemoteAddr = "198.51.100.1:1"
		r.Header.Set("X-Hub-Signature", sign(signature.Hub, "new", ""))
		if _, refused := testVerifier().verify(httptest.NewRecorder(), prepared(r), time.Time{}); refused == nil {
			t.Error("admitted")
		}
	}
}

// onRead is a body that does something when it is read.
type onRead func()

func (do onRead) Read([]byte) (int, error) {
	do()
	return 0, io.EOF
}

func TestRequestKeepsTheSecretsThatItBeganWith(t *testing.T) {
	v := testVerifier()
	v.keys = keysOf("hush1")
	r := httptest.NewRequest(http.MethodPost, "/", onRead(func() { v.keys = keysOf("hush2") }))
	r.RemoteAddr = "203.0.113.9:1"
	r.Header.Set("X-Hub-Signature", sign(signature.Hub, "hush1", ""))
	if _, refused := v.verify(httptest.NewRecorder(), prepared(r), time.Time{}); refused != nil {
		t.Errorf("refused: %v", refused)
	}
}

// Strangers must not be able to make the gateway work.
func TestFileIsNotCheckedBeforeTheSenderIsAdmitted(t *testing.T) {
	v := testVerifier()
	v.keys = func() []*signature.Key {
		t.Error("the secrets were asked for")
		return nil
	}
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.RemoteAddr = "198.51.100.1:1"
	r.Header.Set("X-Hub-Signature", sign(signature.Hub, "new", ""))
	if _, refused := v.verify(httptest.NewRecorder(), prepared(r), time.Time{}); refused == nil {
		t.Error("admitted")
	}
}
