package intercomwebhook

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestNoSchemeIsAcceptedAsAnother makes requests of the three schemes, each signed with each secret
// under each header, and holds the verifier against rules that are written once more here.
func TestNoSchemeIsAcceptedAsAnother(t *testing.T) {
	schemes := []struct {
		header, prefix string
		hash           func() hash.Hash
		secrets        []string
	}{
		{"X-Hub-Signature", "sha1=", sha1.New, []string{"client a", "client b"}},
		{"X-Body-Signature", "", sha256.New, []string{"client a", "client b"}},
		{"X-Fin-Agent-Api-Webhook-Signature", "sha256=", sha256.New, []string{"fin a", "fin b"}},
	}
	secrets := []string{"client a", "client b", "fin a", "fin b", "", "another"}
	const seed = 18
	random := rand.New(rand.NewPCG(seed, seed)) // so that a failure comes again
	pick := func(n int) int { return random.IntN(n) }
	w := deadlineWriter{httptest.NewRecorder()}
	plain := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
	caddyhttp.SetVar(plain.Context(), caddyhttp.ClientIPVarKey, "127.0.0.1")
	accepted := 0
	for n := range crossings {
		v := &verifier{sources: []caddyhttp.IPRangeSource{from("127.0.0.0/8")}, keys: keysOf("client a", "client b"), maxSize: 1 << 10, appRequests: pick(4) > 0}
		fin := pick(4) > 0
		if fin {
			v.finKeys = keysOf("fin a", "fin b")
		}
		body := `{"event_name":"` + strings.Repeat("x", pick(40)) + `"}`
		sent, signedAs, secret := schemes[pick(3)], schemes[pick(3)], secrets[pick(len(secrets))]
		prefix := sent.prefix
		if pick(8) == 0 {
			prefix = schemes[pick(3)].prefix
		}
		mac := hmac.New(signedAs.hash, []byte(secret))
		mac.Write([]byte(body))
		r := plain.WithContext(plain.Context())
		r.Header = http.Header{sent.header: {prefix + hex.EncodeToString(mac.Sum(nil))}}
		alone := true
		if pick(8) == 0 {
			other := schemes[pick(3)].header
			r.Header[other], alone = append(r.Header[other], r.Header[sent.header][0]), false
		}
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))

		got, refused := v.verify(w, r, time.Time{})
		if refused == nil {
			got.memory.Release()
		}
		place := slices.Index(sent.secrets, secret)
		enabled := sent.header == "X-Hub-Signature" || sent.header == "X-Body-Signature" && v.appRequests || sent.header == schemes[2].header && fin
		fits := mac.Size() == sent.hash().Size() // the same HMAC, whatever scheme it was made for
		want := alone && enabled && fits && prefix == sent.prefix && place >= 0
		if want != (refused == nil) || want && (got.scheme.Header != sent.header || got.secret != place) {
			t.Fatalf("request %d, %q in %s: accepted %v as %+v, want %v", n, secret, r.Header, refused == nil, got.scheme, want)
		}
		if want {
			accepted++
		}
	}
	if accepted < crossings/100 {
		t.Errorf("only %d of %d were accepted, so nothing was tried", accepted, crossings)
	}
}
