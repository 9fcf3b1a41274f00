package intercomwebhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	requestbody "github.com/caddy-intercom/caddy-intercom-webhook/internal/body"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

// BenchmarkVerifyAndTag measures what a notification costs before it is routed,
// beside the bare HMAC of the same bytes, which is the least that anybody must pay.
func BenchmarkVerifyAndTag(b *testing.B) {
	// a heap like that of a running Caddy, or the collector would never rest
	heap := make([]byte, 32<<20)
	defer runtime.KeepAlive(heap)

	for _, size := range []int{2 << 10, 13 << 10} {
		body := benchNotification(b, size)
		const secret = "secret"
		b.Run(fmt.Sprintf("hmac/%dKiB", size>>10), func(b *testing.B) {
			key := []byte(secret)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				mac := hmac.New(sha1.New, key)
				mac.Write(body)
				mac.Sum(nil)
			}
		})
		b.Run(fmt.Sprintf("notification/%dKiB", size>>10), func(b *testing.B) {
			v := &verifier{
				sources: []caddyhttp.IPRangeSource{from("127.0.0.0/8")},
				keys:    keysOf(secret),
				maxSize: defaultMaxSize,
			}
			var w http.ResponseWriter = deadlineWriter{httptest.NewRecorder()}
			reader := bytes.NewReader(body)
			requestBody := io.NopCloser(reader)
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			r.RemoteAddr = "127.0.0.1:1"
			r.Header.Set("X-Hub-Signature", sign(signature.Hub, secret, string(body)))
			r = prepared(r)
			repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			// the access log's fields would pile up on the one request
			r = r.WithContext(context.WithValue(r.Context(), caddyhttp.ExtraLogFieldsCtxKey, nil))
			bare := *repl
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				*repl = bare // each request of Caddy's comes with one of its own
				reader.Reset(body)
				t := newTag(r)
				r.Body = requestBody
				r.ContentLength = int64(len(body))
				signed, refused := v.verify(w, r, time.Time{})
				if refused != nil {
					b.Fatal(refused)
				}
				signed.memory.Release()
				requestbody.Restore(r, signed.body)
				parsed, _, err := envelope.Parse(signed.body, nil)
				if err != nil {
					b.Fatal(err)
				}
				t.setNotification(r.Header, parsed)
			}
		})
	}
}

type deadlineWriter struct{ http.ResponseWriter }

func (deadlineWriter) SetReadDeadline(time.Time) error { return nil }

// benchNotification makes a notification of at least size bytes out of the samples
// of a ticket and its parts, so that it has the mix of tokens that real ones have.
func benchNotification(b *testing.B, size int) []byte {
	n, err := intercom.NewNotification("ticket.created")
	if err != nil {
		b.Fatal(err)
	}
	var ticket map[string]json.RawMessage
	if err := json.Unmarshal(n.Data.Item, &ticket); err != nil {
		b.Fatal(err)
	}
	item := make(map[string]json.RawMessage)
	for round := 0; ; round++ {
		for _, name := range slices.Sorted(maps.Keys(ticket)) {
			item[fmt.Sprintf("%s_%d", name, round)] = ticket[name]
			if n.Data.Item, err = json.Marshal(item); err != nil {
				b.Fatal(err)
			}
			body, err := n.Encode()
			if err != nil {
				b.Fatal(err)
			}
			if len(body) >= size {
				return body
			}
		}
	}
}

// BenchmarkFields measures what three conditions add to reading the envelope.
func BenchmarkFields(b *testing.B) {
	var plan fields.Plan
	for _, text := range []string{"data.item.state_0=closed", "data.item.ticket_parts_0.ticket_parts.*.author.type!=bot", "data.item.ticket_attributes_0._default_title_"} {
		if err := plan.Require(text); err != nil {
			b.Fatal(err)
		}
	}
	for _, size := range []int{4 << 10, 17 << 10} {
		body := benchNotification(b, size)
		key := signature.NewKey("secret")
		claimed, err := signature.Hub.Decode(sign(signature.Hub, "secret", string(body)))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("hmac/%dKiB", size>>10), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !key.Signed(body, claimed) {
					b.Fatal("not signed")
				}
			}
		})
		for name, plan := range map[string]*fields.Plan{"none": nil, "three": &plan} {
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, _, err := envelope.Parse(body, plan); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
