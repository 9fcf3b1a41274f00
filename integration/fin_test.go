package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"testing"
)

const (
	finHeader = "X-Fin-Agent-Api-Webhook-Signature"
	finSecret = "5e7-of-the-fin-agent-api"
)

// signedFin is an event of the Fin Agent API with a valid signature.
func signedFin(body []byte) message {
	return message{body: body, header: http.Header{finHeader: {"sha256=" + bodySignature(body, finSecret)}}}
}

func TestFinEvents(t *testing.T) { testFinEvents(t, queues) }

// testFinEvents sends events of the Fin Agent API, which go the way of all notifications. No
// signature is taken for that of another scheme.
func testFinEvents(t *testing.T, queues map[string]func(dir string) string) {
	event := []byte(`{"event_name":"fin_replied","conversation_id":"c1","message":{"id":"1","topic":"x.y"},"created_at_ms":"2026-11-30T12:00:00.123Z"}`)
	sum := sha256.Sum256(event)
	id := "fin_" + hex.EncodeToString(sum[:16])
	for name, queue := range queues {
		t.Run(name, func(t *testing.T) {
			fin, all := newBackend(t, nil), newBackend(t, nil)
			s := setup{webhook: "fin_secret " + finSecret + "\nroute fin.* as fin to " + fin.address + "\nroute * for tulip4 as all to " + all.address, behind: "log"}
			again, times := "delivered", 2.0
			g := newGateway(t)
			if queue := queue(g.dir); queue != "" {
				s.webhook += "\n" + queue
				again, times = "duplicate", 1
			}
			if err := g.load(s); err != nil {
				t.Fatal(err)
			}
			before := g.scrape()
			g.expect(http.StatusOK, message{method: http.MethodHead})
			g.expect(http.StatusOK, signedFin(event).to("/fin?a=b"))
			eventually(t, "the event", func() bool { return len(fin.all()) == 1 })
			got := fin.only(t)
			if !bytes.Equal(got.body, event) || got.uri != "/fin?a=b" || !slices.Equal(got.header[finHeader], signedFin(event).header[finHeader]) {
				t.Errorf("the backend got %s %q %q", got.uri, got.body, got.header)
			}
			for name, want := range map[string]string{"X-Intercom-Topic": "fin.fin_replied", "X-Intercom-Notification-Id": id, "X-Intercom-App-Id": ""} {
				if got.header.Get(name) != want {
					t.Errorf("%s: %q, want %q", name, got.header.Get(name), want)
				}
			}
			tag := g.access("/fin?a=b").tag()
			if tag.text("kind") != "fin" || tag.text("topic") != "fin.fin_replied" || tag.text("id") != id || tag["created_at"] != 1796040000.0 {
				t.Errorf("the access log has %v", tag)
			}

			g.expect(http.StatusOK, signedFin(event))
			g.expect(http.StatusOK, signedFin([]byte(`{"test":true}`)))
			g.expect(http.StatusOK, signed(notification("conversation.user.created", newID())))
			eventually(t, "the notification", func() bool { return len(all.all()) == 1 })
			for _, body := range []string{`{"event_name":1}`, `{"event_name":"a","event_name":"b"}`, `{"event_name":"a","Event_name":"b"}`, `[]`, `{"event_name":"a"`} {
				g.expect(http.StatusBadRequest, signedFin([]byte(body)))
			}
			for _, forged := range []http.Header{
				{finHeader: {"sha256=" + bodySignature(event, secret)}},
				{finHeader: {bodySignature(event, finSecret)}},
				{finHeader: {"sha1=" + bodySignature(event, finSecret)}},
				{hubHeader: {hubSignature(event, finSecret)}},
				{bodyHeader: {bodySignature(event, finSecret)}},
				{finHeader: signedFin(event).header[finHeader], hubHeader: {hubSignature(event, secret)}},
				{finHeader: signedFin(event).header[finHeader], bodyHeader: {bodySignature(event, secret)}},
				{finHeader: {signedFin(event).header[finHeader][0], signedFin(event).header[finHeader][0]}},
			} {
				g.expect(http.StatusUnauthorized, message{body: event, header: forged})
			}
			since := g.scrape().since(before)
			for metric, want := range map[string]float64{
				`notifications_total{outcome="` + again + `",topic="fin.fin_replied"}`: times,
				`notifications_total{outcome="ping",topic="ping"}`:                     1,
				`secret_matches_total{secret="fin_1"}`:                                 8,
				`secret_matches_total{secret="1"}`:                                     1,
				`refused_total{reason="envelope"}`:                                     5,
				`refused_total{reason="signature_malformed"}`:                          5,
				`refused_total{reason="signature_missing"}`:                            1,
				`refused_total{reason="signature_mismatch"}`:                           2,
			} {
				if since[metric] != want {
					t.Errorf("%s grew by %v, want %v", metric, since[metric], want)
				}
			}
		})
	}
}
