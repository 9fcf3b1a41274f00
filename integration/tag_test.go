package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// spoofed are headers by which a sender could pass itself off as this gateway.
const spoofed = `X-Intercom-Topic: spoofed
x-intercom-topic: spoofed
X-INTERCOM-APP-ID: spoofed
x-InTeRcOm-Notification-ID: spoofed
X-Intercom-Attempt: 7
x-intercom-anything-else: spoofed
X_Intercom_Topic: spoofed
X-Intercom.Topic: spoofed
`

// head is the part of a request in front of its body.
func head(header string, body []byte) string {
	return "POST /hook?a=1 HTTP/1.1\nHost: intercom.example\n" + header +
		"Content-Length: " + strconv.Itoa(len(body)) + "\n\n"
}

// intercomHeaders returns those headers that a backend could take for the tag.
func intercomHeaders(header http.Header) map[string]string {
	found := make(map[string]string)
	for name, values := range header {
		if alike := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name)); strings.HasPrefix(alike, "x-intercom-") {
			found[name] = strings.Join(values, ", ")
		}
	}
	return found
}

func TestTagIsTheGatewaysAlone(t *testing.T) {
	const id = "notif_11111111-2222-3333-4444-555555555555"
	withID := map[string]string{"X-Intercom-Topic": topic, "X-Intercom-App-Id": "tulip4", "X-Intercom-Notification-Id": id}
	withoutID := map[string]string{"X-Intercom-Topic": "ping", "X-Intercom-App-Id": "tulip4"}
	const expectingAliases = "expected_underscore_headers X_Intercom_Topic\nexpected_dot_headers X-Intercom.Topic"

	cases := []struct {
		name, header string
		setup
		body []byte
		want map[string]string
	}{
		{"a notification is tagged", "", setup{}, body, withID},
		{"spoofed headers of a notification are replaced or deleted", spoofed, setup{}, body, withID},
		{"their aliases in CGI are deleted even where they are expected", spoofed, setup{servers: expectingAliases}, body, withID},
		{"a null id sets no header", "", setup{}, ping, withoutID},
		{"a null id leaves no spoofed header", spoofed, setup{}, ping, withoutID},
		{"a tag named as a hop-by-hop header arrives", "Connection: X-Intercom-Topic, X-Intercom-App-Id, X-Intercom-Notification-Id\n", setup{}, body, withID},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t, nil)
			c.webhook = "route ping conversation.* to " + b.address
			g := start(t, c.setup)

			conn := g.dial()
			write(t, conn, head(c.header+hubHeader+": "+hubSignature(c.body, secret)+"\n", c.body))
			writeBytes(t, conn, c.body)
			if answer := read(t, conn); answer.status != 200 {
				t.Fatalf("status %d, want 200", answer.status)
			}
			if got := intercomHeaders(b.only(t).header); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("the backend got %v, want %v", got, c.want)
			}
		})
	}

	t.Run("an app request has no tag and keeps no spoofed one", func(t *testing.T) {
		b := newBackend(t, nil)
		g := start(t, setup{webhook: "app_requests { reverse_proxy " + b.address + " }", servers: expectingAliases})
		app := []byte(`{"workspace_id":"tulip4","topic":"conversation.user.replied","id":"notif_9"}`)
		conn := g.dial()
		write(t, conn, head(spoofed+bodyHeader+": "+bodySignature(app, secret)+"\n", app))
		writeBytes(t, conn, app)
		if answer := read(t, conn); answer.status != 200 {
			t.Fatalf("status %d, want 200", answer.status)
		}
		if got := intercomHeaders(b.only(t).header); len(got) != 0 {
			t.Errorf("the backend got %v, want none", got)
		}
	})

	t.Run("what handle_errors answers a refusal with sees no spoofed header", func(t *testing.T) {
		g := start(t, setup{behind: "handle_errors { respond \"[{header.X-Intercom-Topic}{http.intercom_webhook.topic}]\" }"})
		conn := g.dial()
		write(t, conn, head(spoofed+hubHeader+": "+hubSignature(body, "another")+"\n", body))
		writeBytes(t, conn, body)
		if answer := read(t, conn); answer.body != "[]" {
			t.Errorf("answer %q, want []", answer.body)
		}
	})
}

// A backend must be able to verify the signature again, whichever way the body
// came in.
func TestRequestArrivesAsItWas(t *testing.T) {
	odd := slices.Concat([]byte("\n\t {\"data\": \"\xff\xfe \u2028 \\ud800 <&>\",\r\n \"topic\" :\"conversation.user.replied\"} "), []byte("\n"))
	header := "User-Agent: intercom-parrot-service-client/1.0\nAccept: application/json\nContent-Type: application/json; charset=\"UTF-8\"\n" +
		"Accept-Encoding: gzip\nX-Twice: one\nX-Twice: two\nX-Empty:\nAuthorization: Basic eDp5\nCookie: a=b\nX-Hub-Signature: " + hubSignature(odd, secret) + "\n"
	chunked := fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n5\r\n%s\r\n%x;extension=1\r\n%s\r\n0\r\n", odd[:5], len(odd)-5, odd[5:])

	wires := map[string]string{
		"with Content-Length":   fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(odd), odd),
		"chunked":               chunked + "\r\n",
		"chunked with trailers": "Trailer: X-Intercom-Topic, X-Check\r\n" + chunked + "X-Intercom-Topic: spoofed\r\nX-Check: 1\r\n\r\n",
	}
	// where reverse_proxy buffers the body, it restores it by itself
	ways := map[string]setup{
		"to a backend":          {webhook: "route * to BACKEND"},
		"to a block":            {webhook: "route * {\nreverse_proxy BACKEND\n}"},
		"to the next directive": {behind: "reverse_proxy BACKEND"},
	}
	for _, name := range slices.Sorted(maps.Keys(wires)) {
		for way, s := range ways {
			wire := wires[name]
			t.Run(name+" "+way, func(t *testing.T) {
				b := newBackend(t, nil)
				s.webhook = strings.ReplaceAll(s.webhook, "BACKEND", b.address)
				s.behind = strings.ReplaceAll(s.behind, "BACKEND", b.address)
				g := start(t, s)
				conn := g.dial()
				write(t, conn, "POST /hook/a%2Fb?c=d&c=e HTTP/1.1\nHost: intercom.example\n"+header)
				writeBytes(t, conn, []byte(wire))
				if answer := read(t, conn); answer.status != 200 {
					t.Fatalf("status %d, want 200", answer.status)
				}

				got := b.only(t)
				if !bytes.Equal(got.body, odd) {
					t.Errorf("the backend got the body %q, want %q", got.body, odd)
				}
				if got.length != int64(len(odd)) || len(got.transferEncoding) != 0 || len(got.trailer) != 0 {
					t.Errorf("the body came with length %d, transfer encoding %v, trailers %v; want length %d alone",
						got.length, got.transferEncoding, got.trailer, len(odd))
				}
				if got.method != "POST" || got.uri != "/hook/a%2Fb?c=d&c=e" || got.host != "intercom.example" {
					t.Errorf("the backend got %s %s for %s", got.method, got.uri, got.host)
				}
				sent, err := http.ReadRequest(bufio.NewReader(strings.NewReader("POST / HTTP/1.1\nHost: intercom.example\n" + header + "\n")))
				if err != nil {
					t.Fatal(err)
				}
				for name, values := range sent.Header {
					if !slices.Equal(got.header[name], values) {
						t.Errorf("%s arrived as %q, want %q", name, got.header[name], values)
					}
				}
			})
		}
	}
}

const showAll = `respond "{http.intercom_webhook.kind}|{http.intercom_webhook.topic}|{http.intercom_webhook.app_id}|{http.intercom_webhook.id}|` +
	`{http.intercom_webhook.created_at}|{http.intercom_webhook.delivery_attempts}|{http.intercom_webhook.reason}"`

func TestPlaceholders(t *testing.T) {
	const id = "notif_11111111-2222-3333-4444-555555555555"
	g := start(t, setup{
		webhook: "app_requests {\n" + showAll + "\n}",
		behind: "log_append seen_topic {http.intercom_webhook.topic}\n" +
			"header >X-Seen-Id {http.intercom_webhook.id}\n" + // > because header comes before intercom_webhook
			"route {\nheader X-Seen-Topic {http.intercom_webhook.topic}\n}\n" +
			showAll + "\nhandle_errors {\n" + showAll + "\n}",
	})
	for _, c := range []struct {
		name string
		send message
		want string
	}{
		{"notification", good, "notification|conversation.user.replied|tulip4|" + id + "|1780000001|1|"},
		{"ping", signed([]byte(`{"topic":"contact.created","id":null}`)), "notification|contact.created|||0|0|"},
		{"app request", signedApp([]byte(`{"topic":"x"}`)), "app_request||||||"},
		{"refusal", message{body: body}, "||||||signature_missing"},
		{"signed refusal", signed([]byte(`{"id":"notif_1"}`)), "||||||envelope"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if answer := g.send(c.send); answer.body != c.want {
				t.Errorf("placeholders are %q, want %q", answer.body, c.want)
			}
		})
	}

	answer := g.expect(200, good.to("/logged"))
	if got := answer.header.Get("X-Seen-Id"); got != id {
		t.Errorf("header directive set %q, want the id", got)
	}
	if got := answer.header.Get("X-Seen-Topic"); got != topic {
		t.Errorf("header directive in a route set %q, want the topic", got)
	}
	if got := g.access("/logged").text("seen_topic"); got != topic {
		t.Errorf("log_append logged %q, want the topic", got)
	}
}

func TestAccessLogHasTheTag(t *testing.T) {
	g := start(t, setup{webhook: "route conversation.* as talk { respond 202 }\napp_requests { respond 200 }"})
	g.expect(200, good.to("/notification"))
	g.expect(200, signedApp([]byte(`{}`)).to("/app"))
	g.expect(401, message{body: body}.to("/refused"))

	for uri, want := range map[string]string{
		"/notification": "map[app_id:tulip4 backend_status:202 created_at:1.780000001e+09 delivery_attempts:1 " +
			"id:notif_11111111-2222-3333-4444-555555555555 kind:notification lane:talk topic:conversation.user.replied]",
		"/app":     "map[kind:app_request]",
		"/refused": "map[reason:signature_missing]",
	} {
		if got := fmt.Sprint(map[string]any(g.access(uri).tag())); got != want {
			t.Errorf("access log of %s has %s, want %s", uri, got, want)
		}
	}
}

func TestMatcherBehindTheMiddleware(t *testing.T) {
	g := start(t, setup{behind: `@talk intercom_topic conversation.* ticket.created
		@rest intercom_topic *
		handle @talk { respond talk }
		handle @rest { respond rest }
		handle { respond none }`, webhook: "app_requests { respond app }"})
	for name, want := range map[string]string{
		"conversation.user.replied":     "talk",
		"ticket.created":                "talk",
		"ticket.closed":                 "rest",
		"conversation_part.tag.created": "rest",
		"invented":                      "rest",
		"ping":                          "rest",
	} {
		if answer := g.expect(200, signed(notification(name, "notif_1"))); answer.body != want {
			t.Errorf("%s went to %q, want %q", name, answer.body, want)
		}
	}
}

func TestMatcherFitsNothingInFrontOfTheMiddleware(t *testing.T) {
	g := start(t, setup{
		options: "order respond before intercom_webhook",
		behind:  "@all intercom_topic *\nrespond @all early 299",
		webhook: "route * { error 500 }",
	})
	g.expect(502, good.with("X-Intercom-Topic", topic))
}
