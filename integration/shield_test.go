package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// What Intercom may see, and nothing else.
func TestShieldAgainstAnswersThatAreNone(t *testing.T) {
	const (
		failed    = 502
		success   = 200
		switching = "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\nframes"
	)
	upgrade := good.with("Connection", "Upgrade").with("Upgrade", "websocket")
	for _, c := range []struct {
		name, says string
		send       message
		status     int
		code       string // "" where it depends on what reverse_proxy makes of the upgrade
	}{
		{"100 Continue, then 200", "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 0\n\n", good, success, "200"},
		{"102 and 103, then 200", "HTTP/1.1 102 Processing\n\nHTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 200 OK\nContent-Length: 0\n\n", good, success, "200"},
		{"103, then 410", "HTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 410 Gone\nContent-Length: 0\n\n", good, failed, "410"},
		{"103, then nothing", "HTTP/1.1 103 Early Hints\nLink: </a>\n\n", good, failed, "error"},
		{"199, then 200", "HTTP/1.1 199 Odd\n\nHTTP/1.1 200 OK\nContent-Length: 0\n\n", good, success, "200"},
		{"an upgrade that nobody asked for", switching, good, failed, "error"},
		{"an upgrade that the request asked for", switching, upgrade, failed, ""},
		{"an upgrade to nothing", "HTTP/1.1 101 Switching Protocols\n\n", good, failed, "error"},
		{"an upgrade to another protocol than asked for", strings.Replace(switching, "websocket", "h2c", 1), upgrade, failed, "error"},
		{"nothing at all", "", good, failed, "error"},
		{"half a status line", "HTTP/1.1 20", good, failed, "error"},
		{"half a header", "HTTP/1.1 200 OK\nContent-Le", good, failed, "error"},
		{"half a body", "HTTP/1.1 200 OK\nContent-Length: 100\n\nhalf", good, failed, "error"},
		{"half a chunked body", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\n", good, failed, "error"},
		{"half the body of an error", "HTTP/1.1 410 Gone\nContent-Length: 100\n\nhalf", good, failed, "error"},
		{"no HTTP", "SSH-2.0-OpenSSH_9.9\n", good, failed, "error"},
		{"zeros", strings.Repeat("\x00", 100), good, failed, "error"},
		{"a status of four digits", "HTTP/1.1 2000 OK\nContent-Length: 0\n\n", good, failed, "error"},
		{"a status of 000", "HTTP/1.1 000 OK\nContent-Length: 0\n\n", good, failed, "error"},
		{"a status of 099", "HTTP/1.1 099 OK\nContent-Length: 0\n\n", good, failed, "error"},
		{"a status of 999", "HTTP/1.1 999 Blocked\nContent-Length: 0\n\n", good, failed, "other"},
		{"200 with a body that ends with the connection", "HTTP/1.0 200 OK\n\nall of it", good, success, "200"},
		{"200 with a trailer", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-Late\n\n0\nX-Late: 1\n\n", good, success, "200"},
		{"429 with Retry-After", "HTTP/1.1 429 Slow down\nRetry-After: 7200\nContent-Length: 0\n\n", good, 503, "429"},
		{"304 without a body", "HTTP/1.1 304 Not Modified\n\n", good, failed, "304"},
		{"204 with what looks like a body", "HTTP/1.1 204 No Content\nContent-Length: 4\n\nbody", good, success, "204"},
		{"a redirect to the gateway", "HTTP/1.1 307 Again\nLocation: /\nContent-Length: 0\n\n", good, failed, "307"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := start(t, setup{webhook: "timeout 2s\nroute * as talk to " + saying(t, c.says)})
			before := g.scrape()
			answer := g.expect(c.status, c.send)
			wantBare(t, answer)
			if c.code == "" {
				return
			}
			want := fmt.Sprint(series{fmt.Sprintf(`backend_responses_total{code=%q,lane="talk"}`, c.code): 1})
			if got := fmt.Sprint(g.scrape().since(before).of("backend_responses_total")); got != want {
				t.Errorf("counted %s, want %s", got, want)
			}
		})
	}
}

// wantBare asserts that nothing of the backend's answer came through but the status.
func wantBare(t *testing.T, answer reply) {
	t.Helper()
	for name, values := range answer.header {
		switch name {
		case "Content-Length", "Date", "Server":
		default:
			t.Errorf("the answer has %s: %q", name, values)
		}
	}
	if answer.body != "" {
		t.Errorf("the answer says %q, want nothing", answer.body)
	}
}

// No upgrade may be hijacked past the shield: a connection is an HTTP connection
// before and after.
func TestConnectionOutlivesAnUpgrade(t *testing.T) {
	b := newRawBackend(t, func(conn net.Conn, _ int, _ []byte) {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn)
	})
	g := start(t, setup{webhook: "route conversation.* to " + b})
	conn := g.dial()
	for range 2 {
		write(t, conn, head("Connection: Upgrade\nUpgrade: websocket\n"+hubHeader+": "+hubSignature(body, secret)+"\n", body))
		writeBytes(t, conn, body)
		if answer := read(t, conn); answer.status != 502 {
			t.Fatalf("status %d, want 502", answer.status)
		}
	}
}

func TestShieldHidesTheBackendsHeaders(t *testing.T) {
	b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"Set-Cookie", "Location", "Retry-After", "X-Powered-By", "Content-Type", "Content-Encoding", "Strict-Transport-Security", "Via", "Alt-Svc"} {
			w.Header().Set(name, "backend")
		}
		_, _ = io.WriteString(w, "thanks")
	})
	g := start(t, setup{webhook: "route * to " + b.address})
	wantBare(t, g.expect(200, good))
}

func TestShieldAgainstDirectivesOfABlock(t *testing.T) {
	for name, c := range map[string]struct {
		directives string
		status     int
		code       string
	}{
		"abort":                    {"abort", 502, "error"},
		"error 410":                {"error 410", 502, "error"},
		"error 200":                {"error 200", 502, "error"},
		"error without a status":   {"error nonsense", 502, "error"},
		"respond 410":              {"respond 410", 502, "410"},
		"respond 429":              {"respond 429", 503, "429"},
		"respond 503":              {"respond 503", 503, "503"},
		"respond with a body":      {"respond \"much text\" 201", 200, "201"},
		"respond and close":        {"respond bye 200 {\nclose\n}", 200, "200"},
		"redir":                    {"redir https://elsewhere.example", 502, "302"},
		"file_server without file": {"file_server {\nroot /var/empty\n}", 502, "error"},
		"encode":                   {"encode\nrespond \"much text\" 200", 200, "200"},
		"header":                   {"header +Set-Cookie a=1\nrespond 200", 200, "200"},
		"handle":                   {"handle /other { abort }\nhandle { respond 204 }", 200, "204"},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, setup{webhook: "route * as talk {\n" + c.directives + "\n}"})
			before := g.scrape()
			wantBare(t, g.expect(c.status, good.with("Accept-Encoding", "gzip")))
			counted := fmt.Sprint(series{fmt.Sprintf(`backend_responses_total{code=%q,lane="talk"}`, c.code): 1})
			if got := fmt.Sprint(g.scrape().since(before).of("backend_responses_total")); got != counted {
				t.Errorf("counted %s, want %s", got, counted)
			}
		})
	}
}

func TestSlowBackendIsGivenUpInTime(t *testing.T) {
	for name, slow := range map[string]http.HandlerFunc{
		"before its header": hang,
		"after its header": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		},
		"in the middle of its body": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		},
		"after an interim answer": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			hang(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, slow)
			g := start(t, setup{webhook: "timeout 300ms\nroute * as talk to " + b.address})
			before := g.scrape()
			answer := g.expect(504, good.to("/slow"))
			if answer.body != "" {
				t.Errorf("the answer says %q, want nothing", answer.body)
			}
			b.wantCount(t, 1) // no retry of what is too slow
			g.access("/slow")
			grown := g.scrape().since(before)
			if grown["answer_seconds_count"] != 1 || grown["answer_seconds_sum"] < 0.3 || grown[`answer_seconds_bucket{le="2.5"}`] != 1 {
				t.Errorf("observed %v, want one answer after 0.3 s", grown.of("answer_seconds_sum"))
			}
			if got := grown.of("notifications_total"); len(got) != 1 || !strings.Contains(fmt.Sprint(got), `outcome="timeout"`) {
				t.Errorf("counted %v, want one timeout", got)
			}
		})
	}
}

// A handler that does not heed its context keeps the connection busy, but not
// Intercom waiting.
func TestStubbornHandlerIsAnsweredForInTime(t *testing.T) {
	stubbornUntil = make(chan struct{})
	g := start(t, setup{webhook: "timeout 300ms\nroute * { stubborn }"})
	before := g.scrape()
	conn := g.dial()
	write(t, conn, head(hubHeader+": "+hubSignature(body, secret)+"\n", body))
	writeBytes(t, conn, body)

	answer := read(t, conn) // the handler is still at it
	if answer.status != 504 || !answer.closes {
		t.Errorf("status %d, closes the connection: %t; want 504 and that", answer.status, answer.closes)
	}
	close(stubbornUntil)
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d more bytes and %v, want the connection to be closed", n, err)
	}
	g.access("/hook?a=1")
	grown := g.scrape().since(before).of("notifications_total")
	if len(grown) != 1 || !strings.Contains(fmt.Sprint(grown), `outcome="timeout"`) {
		t.Errorf("counted %v, want one timeout", grown)
	}
}
