package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestBodyThatIsTooLargeIsRefused(t *testing.T) {
	b := newBackend(t, nil)
	g := start(t, setup{webhook: "timeout 1m\nmax_size 2KiB\nroute * to " + b.address})
	large := signed(bytes.Repeat([]byte("x"), 2<<10+1))
	huge := signed(bytes.Repeat([]byte("x"), 1<<20))
	// each on a connection of its own; what becomes of one is another test's concern
	g.client.Transport.(*http.Transport).DisableKeepAlives = true
	for name, m := range map[string]message{
		"declared":             large,
		"chunked":              {body: large.body, header: large.header, chunked: true},
		"huge and chunked":     {body: huge.body, header: huge.header, chunked: true},
		"chunked and unsigned": {body: large.body, header: good.header, chunked: true},
	} {
		t.Run(name, func(*testing.T) {
			g.expectTooLarge(m)
		})
	}
	t.Run("endless", func(t *testing.T) {
		conn := g.dial()
		write(t, conn, "POST / HTTP/1.1\nHost: gateway\n"+hubHeader+": "+hubSignature(body, secret)+"\nTransfer-Encoding: chunked\n\n")
		writeBytes(t, conn, bytes.Repeat([]byte("400\r\n"+strings.Repeat("x", 1<<10)+"\r\n"), 3))
		if answer := read(t, conn); answer.status != 413 {
			t.Errorf("status %d, want 413", answer.status)
		}
	})
	b.wantCount(t, 0)
}

// The largest body there may be arrives whole, and one byte more is too much.
func TestBodyOfMaxSizeArrivesWhole(t *testing.T) {
	b := newBackend(t, nil)
	g := start(t, setup{webhook: "route * to " + b.address})
	text := bytes.Repeat([]byte("long "), 4<<20)
	exact := bytes.Replace(body, []byte("ça va"), text[:4<<20-len(body)+len("ça va")], 1)
	if len(exact) != 4<<20 {
		t.Fatalf("built %d bytes", len(exact))
	}
	g.expect(200, signed(exact))
	g.expect(200, message{body: exact, header: signed(exact).header, chunked: true})
	for i, got := range b.all() {
		if !bytes.Equal(got.body, exact) || got.length != 4<<20 {
			t.Errorf("body %d arrived with %d bytes and length %d", i, len(got.body), got.length)
		}
	}
	over := append([]byte(" "), exact...)
	g.expectTooLarge(signed(over))
	b.wantCount(t, 2)
}

func TestBodyThatNeverEndsIsGivenUp(t *testing.T) {
	for name, framing := range map[string]string{
		"declared":       "Content-Length: 1000\n\nhalf",
		"chunked":        "Transfer-Encoding: chunked\n\n4\nhalf\n",
		"not even begun": "Content-Length: 1000\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, nil)
			g := start(t, setup{webhook: "timeout 300ms\nroute * to " + b.address})
			conn := g.dial()
			begin := time.Now()
			write(t, conn, "POST / HTTP/1.1\nHost: gateway\n"+hubHeader+": "+hubSignature(body, secret)+"\n"+framing)
			if answer := read(t, conn); answer.status != 400 {
				t.Errorf("status %d, want 400", answer.status)
			}
			if waited := time.Since(begin); waited > 4*time.Second {
				t.Errorf("the answer came after %s, want about 300ms", waited)
			}
			b.wantCount(t, 0)
		})
	}
}

// Where a body was refused before its end, the rest of it is still on its way. Were
// the connection used on, that rest would be read as the next request: whoever
// shares a connection behind a proxy could slip in requests in another's name.
func TestRestOfARefusedBodyIsNoRequest(t *testing.T) {
	const smuggled = "HEAD /smuggled HTTP/1.1\r\nHost: gateway\r\n\r\n"
	chunk := func(data string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(data), data) }
	pad := func(size int) string { return strings.Repeat("x", size) }
	for name, c := range map[string]struct {
		framing, body, rest string
		status              int
	}{
		// what net/http gives up at is 256 KiB more than what it was asked to read
		"chunked over max_size by more than is drained": {"Transfer-Encoding: chunked", chunk(pad(2<<10+1+256<<10) + smuggled + pad(1<<10)), "", 413},
		"chunked over max_size":                         {"Transfer-Encoding: chunked", chunk(pad(4 << 10)), smuggled, 413},
		"declared over max_size":                        {"Content-Length: 4096", pad(2<<10) + smuggled + pad(2<<10-len(smuggled)), "", 413},
		"declared, and slower than timeout":             {"Content-Length: 4000", "", smuggled, 400},
		"chunked, and slower than timeout":              {"Transfer-Encoding: chunked", "4\r\nhalf\r\n", smuggled, 400},
	} {
		t.Run(name, func(t *testing.T) {
			limits := "timeout 1m\nmax_size 2KiB"
			if c.status == 400 {
				limits = "timeout 300ms\nmax_size 8KiB"
			}
			g := start(t, setup{webhook: limits + "\nroute * { respond 200 }"})
			conn := g.dial()
			answers := bufio.NewReader(conn)
			write(t, conn, "POST / HTTP/1.1\nHost: gateway\n"+hubHeader+": "+hubSignature(body, secret)+"\n")
			// an error is that the gateway has hung up, as it should
			_, _ = io.WriteString(conn, c.framing+"\r\n\r\n"+c.body)
			if response, err := http.ReadResponse(answers, nil); err == nil && response.StatusCode != c.status {
				t.Errorf("status %d, want %d", response.StatusCode, c.status)
			}
			_, _ = io.WriteString(conn, c.rest)
			if next, err := http.ReadResponse(answers, nil); err == nil {
				t.Errorf("the rest of the body was taken for a request, and answered %d", next.StatusCode)
			}
		})
	}
}

// The time that a sender takes for its body must not be held against the next
// request on the same connection.
func TestReadDeadlineEndsWithTheBody(t *testing.T) {
	g := start(t, setup{webhook: "timeout 300ms\nroute * { respond 200 }"})
	conn := g.dial()
	for range 2 {
		write(t, conn, head(hubHeader+": "+hubSignature(body, secret)+"\n", body))
		writeBytes(t, conn, body)
		if answer := read(t, conn); answer.status != 200 {
			t.Fatalf("status %d, want 200", answer.status)
		}
		time.Sleep(400 * time.Millisecond) // time has to pass: more than timeout
	}
}

func TestBodyThatIsCutOffReachesNobody(t *testing.T) {
	b := newBackend(t, nil)
	g := start(t, setup{webhook: "route * to " + b.address})
	before := g.scrape()
	conn := g.dial()
	write(t, conn, head(hubHeader+": "+hubSignature(body, secret)+"\n", body))
	writeBytes(t, conn, body[:len(body)-1])
	conn.Close()
	eventually(t, "the refusal", func() bool {
		return g.scrape().since(before)[`refused_total{reason="body"}`] == 1
	})
	b.wantCount(t, 0)
}

func TestEnvelopesThatAreRefused(t *testing.T) {
	b := newBackend(t, nil)
	g := start(t, setup{webhook: "route * to " + b.address})
	topicOf := func(text string) string { return `{"id":"notif_1","topic":` + text + `}` }
	for name, envelope := range map[string]string{
		"topic with a line break":           topicOf(`"conversation.user\nX-Evil: 1"`),
		"topic with an escaped line break":  topicOf(`"conversation\u000d\u000aX-Evil: 1"`),
		"topic with a raw line break":       topicOf("\"conversation\n\""),
		"topic with a leading dot":          topicOf(`".conversation"`),
		"topic with a trailing dot":         topicOf(`"conversation."`),
		"topic with a double dot":           topicOf(`"conversation..user"`),
		"topic of a dot":                    topicOf(`"."`),
		"topic of a star":                   topicOf(`"*"`),
		"topic with a colon":                topicOf(`"Conversation:user"`),
		"topic with a space":                topicOf(`"conversation user"`),
		"topic with a slash":                topicOf(`"conversation/user"`),
		"topic with a placeholder":          topicOf(`"{env.HOME}"`),
		"topic of other letters":            topicOf("\"\u0441onversation.user\""), // begins with a Cyrillic letter
		"topic with a NUL":                  topicOf(`"ping\u0000"`),
		"topic with half a surrogate":       topicOf(`"ping\ud800"`),
		"topic with invalid UTF-8":          topicOf("\"ping\xff\""),
		"topic of 10 KB":                    topicOf(`"` + strings.Repeat("a", 10<<10) + `"`),
		"topic of 10 KB of segments":        topicOf(`"a` + strings.Repeat(".a", 5<<10) + `"`),
		"empty topic":                       topicOf(`""`),
		"topic that is a number":            topicOf(`7`),
		"topic that is null":                topicOf(`null`),
		"topic that is true":                topicOf(`true`),
		"topic that is a list":              topicOf(`["ping"]`),
		"topic that is an object":           topicOf(`{"topic":"ping"}`),
		"topic inside of data alone":        `{"data":{"topic":"ping"},"id":"notif_1"}`,
		"topic in another case":             `{"Topic":"ping","TOPIC":"ping"}`,
		"topic in another case, too":        `{"topic":"ping","Topic":"conversation.user.replied"}`,
		"topic in another case in front":    `{"TOPIC":"conversation.user.replied","topic":"ping"}`,
		"topic in another case, escaped":    `{"topic":"ping","\u0054opic":"conversation.user.replied"}`,
		"id in another case":                `{"topic":"ping","id":"notif_1","ID":"notif_2"}`,
		"app_id in another case":            `{"topic":"ping","App_Id":"other"}`,
		"created_at in another case":        `{"topic":"ping","CREATED_AT":null}`,
		"delivery_attempts with a long s":   `{"topic":"ping","delivery_attemptſ":1}`,
		"long s, escaped":                   `{"topic":"ping","delivery_attempt\u017F":1}`,
		"topic twice":                       `{"topic":"ping","id":"notif_1","topic":"conversation.user.replied"}`,
		"same topic twice":                  `{"topic":"ping","topic":"ping"}`,
		"topic twice, once escaped":         `{"topic":"ping","top\u0069c":"conversation.user.replied"}`,
		"no topic":                          `{"id":"notif_1"}`,
		"empty object":                      `{}`,
		"null":                              `null`,
		"string":                            `"ping"`,
		"list":                              `[{"topic":"ping"}]`,
		"nothing":                           ``,
		"white space":                       " \n",
		"two documents":                     `{"topic":"ping"}{"topic":"ping"}`,
		"something behind the document":     `{"topic":"ping"} x`,
		"document cut short":                `{"topic":"ping"`,
		"single quotes":                     `{'topic':'ping'}`,
		"comment":                           `{"topic":"ping"/* */}`,
		"comma at the end":                  `{"topic":"ping",}`,
		"NaN":                               `{"topic":"ping","created_at":NaN}`,
		"number with a leading zero":        `{"topic":"ping","created_at":017}`,
		"raw control character in a string": "{\"topic\":\"ping\",\"data\":\"a\tb\"}",
		"invalid escape":                    `{"topic":"ping","data":"\x"}`,
		"byte order mark":                   "\xef\xbb\xbf" + `{"topic":"ping"}`,
		"UTF-16":                            "{\x00\"\x00t\x00o\x00p\x00i\x00c\x00\"\x00:\x00\"\x00p\x00\"\x00}\x00",
		"gzip":                              "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff",
		"100,000 lists in each other":       `{"topic":"ping","data":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`,
		"100,000 objects in each other":     `{"topic":"ping","data":` + strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000) + `}`,
		"4 MiB of opening brackets":         strings.Repeat("[", 4<<20),
	} {
		t.Run(name, func(t *testing.T) {
			before := g.scrape()
			answer := g.expect(400, signed([]byte(envelope)))
			if answer.body != "" || answer.header.Get("X-Evil") != "" {
				t.Errorf("answer %q with header %v", answer.body, answer.header)
			}
			if got := g.scrape().since(before)[`refused_total{reason="envelope"}`]; got != 1 {
				t.Errorf("counted %v refusals because of the envelope, want 1", got)
			}
		})
	}
	b.wantCount(t, 0)
	g.expect(200, good) // it is still well
	b.wantCount(t, 1)
}

func TestEnvelopesThatAreAccepted(t *testing.T) {
	const id = "notif_11111111-2222-3333-4444-555555555555"
	for name, c := range map[string]struct{ body, topic, id string }{
		"as documented":               {`{"topic":"ticket.created","id":"` + id + `","data":{}}`, "ticket.created", id},
		"as on the wire":              {string(notification("ticket.created", id)), "ticket.created", id},
		"pretty-printed":              {"\r\n{\n\t\"id\" : \"" + id + "\" ,\n\t\"topic\"\t:\r\n\"ticket.created\"\n}\n\n", "ticket.created", id},
		"escaped key":                 {`{"top\u0069c":"ticket.created","\u0069\u0064":"` + id + `"}`, "ticket.created", id},
		"escaped topic":               {`{"topic":"ticket\u002ecreate\u0064","id":"` + id + `"}`, "ticket.created", id},
		"look-alikes in data":         {`{"data":{"item":{"topic":"a","id":"b","app_id":"c"},"topic":"d"},"links":[{"topic":"e"}],"topic":"ticket.created","id":"` + id + `","more":{"topic":"f"}}`, "ticket.created", id},
		"a document in a string":      {`{"data":"{\"topic\":\"a\",\"id\":\"b\"}","topic":"ticket.created","id":"` + id + `"}`, "ticket.created", id},
		"twice the same key in data":  {`{"data":{"topic":"a","topic":"b"},"topic":"ticket.created","id":"` + id + `"}`, "ticket.created", id},
		"keys that only look like it": {`{"topics":"a","topic ":"b","top\u0131c":"c","xid":"d","appid":"e","App-Id":"f","Type":"g","topic":"ticket.created","id":"` + id + `"}`, "ticket.created", id},
		"invalid UTF-8 in data":       {"{\"data\":\"\xff\xfe\xc0\x80\xed\xa0\x80\",\"topic\":\"ticket.created\",\"id\":\"" + id + "\"}", "ticket.created", id},
		"an unpaired surrogate":       {`{"data":"\ud83d","topic":"ticket.created","id":"` + id + `"}`, "ticket.created", id},
		"a NUL in data":               {`{"data":"\u0000","topic":"ticket.created","id":"` + id + `"}`, "ticket.created", id},
		"numbers of any size":         {`{"created_at":1e400,"delivery_attempts":99999999999999999999,"topic":"ticket.created","id":"` + id + `"}`, "ticket.created", id},
		"fields of other types":       {`{"created_at":"soon","delivery_attempts":null,"app_id":7,"id":{"a":1},"topic":"ticket.created"}`, "ticket.created", ""},
		"an unknown topic":            {`{"topic":"quite_new.in_2031.x9"}`, "quite_new.in_2031.x9", ""},
		"a topic of other naming":     {`{"topic":"Conversation-Part.userReplied"}`, "Conversation-Part.userReplied", ""},
		"an id with a line break":     {`{"topic":"ticket.created","id":"a\r\nX-Evil: 1"}`, "ticket.created", ""},
		"an id of 10 KB":              {`{"topic":"ticket.created","id":"` + strings.Repeat("a", 10<<10) + `"}`, "ticket.created", ""},
		"an id of other letters":      {`{"topic":"ticket.created","id":"日本"}`, "ticket.created", ""},
		"an empty id":                 {`{"topic":"ticket.created","id":""}`, "ticket.created", ""},
		"data that is nested":         {`{"topic":"ticket.created","id":"` + id + `","data":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`, "ticket.created", id},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, nil)
			g := start(t, setup{webhook: "route * to " + b.address})
			g.expect(200, signed([]byte(c.body)))
			got := b.only(t)
			if string(got.body) != c.body {
				t.Errorf("the backend got %q, want it as it was sent", got.body)
			}
			if got.header.Get("X-Intercom-Topic") != c.topic || got.header.Get("X-Intercom-Notification-Id") != c.id || got.header.Get("X-Evil") != "" {
				t.Errorf("tagged %v, want topic %q and id %q", intercomHeaders(got.header), c.topic, c.id)
			}
		})
	}
}

func TestOtherVersionsOfHTTP(t *testing.T) {
	t.Run("HTTP/1.0", func(t *testing.T) {
		b := newBackend(t, nil)
		g := start(t, setup{webhook: "route * to " + b.address})
		conn := g.dial()
		write(t, conn, fmt.Sprintf("POST / HTTP/1.0\n%s: %s\nContent-Length: %d\n\n", hubHeader, hubSignature(body, secret), len(body)))
		writeBytes(t, conn, body)
		if answer := read(t, conn); answer.status != 200 {
			t.Errorf("status %d, want 200", answer.status)
		}
		if got := b.only(t); !bytes.Equal(got.body, body) {
			t.Errorf("the backend got %q", got.body)
		}
	})

	cleartext := new(http.Protocols)
	cleartext.SetUnencryptedHTTP2(true)
	encrypted := new(http.Protocols)
	encrypted.SetHTTP2(true)
	certificate, trusted := newCertificate(t)
	for name, c := range map[string]struct {
		scheme    string
		transport *http.Transport
		options   setup
	}{
		"HTTP/2 in the clear": {"http", &http.Transport{Protocols: cleartext}, setup{servers: "protocols h1 h2c"}},
		"HTTP/2 over TLS": {
			"https", &http.Transport{Protocols: encrypted, TLSClientConfig: &tls.Config{ServerName: "localhost", RootCAs: trusted}},
			setup{behind: certificate, options: "auto_https disable_redirects", servers: "protocols h1 h2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, nil)
			g := newGateway(t)
			c.options.webhook = "timeout 500ms\nroute conversation.* to " + b.address + "\nroute * to " + newBackend(t, hang).address
			c.options.address = c.scheme + "://localhost:" + g.port
			if err := g.load(c.options); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.transport.CloseIdleConnections)
			client := &http.Client{Transport: c.transport, Timeout: patience}
			send := func(content io.Reader, header http.Header) int {
				t.Helper()
				r, err := http.NewRequest("POST", c.scheme+"://127.0.0.1:"+g.port+"/", content)
				if err != nil {
					t.Fatal(err)
				}
				r.Host = "localhost"
				maps.Copy(r.Header, header)
				response, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				if response.ProtoMajor != 2 {
					t.Errorf("the answer came by %s", response.Proto)
				}
				return response.StatusCode
			}

			for what, content := range map[string]io.Reader{
				"of declared length": bytes.NewReader(body),
				"of unknown length":  struct{ io.Reader }{bytes.NewReader(body)},
			} {
				if status := send(content, good.header); status != 200 {
					t.Errorf("body %s: status %d, want 200", what, status)
				}
			}
			if status := send(bytes.NewReader(body), good.with("X-Intercom-Topic", "spoofed").header); status != 200 {
				t.Errorf("status %d, want 200", status)
			}
			for _, got := range b.all() {
				if !bytes.Equal(got.body, body) || got.length != int64(len(body)) || got.header.Get("X-Intercom-Topic") != topic {
					t.Errorf("the backend got %q of length %d with %v", got.body, got.length, intercomHeaders(got.header))
				}
			}
			b.wantCount(t, 3)

			if status := send(bytes.NewReader(body), nil); status != 401 {
				t.Errorf("without signature: status %d, want 401", status)
			}
			slow := signed(notification("ticket.created", "notif_1"))
			if status := send(bytes.NewReader(slow.body), slow.header); status != 504 {
				t.Errorf("slow backend: status %d, want 504", status)
			}
			if status := send(&endless{}, good.header); status != 400 {
				t.Errorf("body that never ends: status %d, want 400", status)
			}
		})
	}
}

// endless is a body that begins and never goes on.
type endless struct{ begun bool }

func (e *endless) Read(p []byte) (int, error) {
	if !e.begun {
		e.begun = true
		return copy(p, "half"), nil
	}
	time.Sleep(time.Second) // longer than timeout
	return 0, errors.New("given up")
}

// Intercom going away is no reason to hold on to a backend.
func TestBackendIsReleasedWhenTheSenderGoesAway(t *testing.T) {
	gone := make(chan struct{})
	b := newBackend(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			close(gone)
		case <-time.After(patience):
		}
	})
	g := start(t, setup{webhook: "timeout 1m\nroute * to " + b.address})
	conn := g.dial()
	write(t, conn, head(hubHeader+": "+hubSignature(body, secret)+"\n", body))
	writeBytes(t, conn, body)
	eventually(t, "the backend being asked", func() bool { return len(b.all()) == 1 })
	conn.Close()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the backend is still busy")
	}
}
