package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// foreign is what senders and backends write in these tests, and must be in no text of
// ours: errors of net/http and reverse_proxy quote it.
const foreign = "private words"

// wantNothingForeign asserts that neither this module's lines in the log, nor those in
// which Caddy logs this module's errors, hold what others wrote. There must be some.
func wantNothingForeign(t *testing.T, g *gateway) {
	t.Helper()
	lines := g.logged(func(e entry) bool {
		return e.ours() && e.text("level") != "info" || strings.HasPrefix(e.text("logger"), "http.intercom_webhook") ||
			strings.HasPrefix(e.text("logger"), "http.log.error")
	})
	if len(lines) == 0 {
		t.Error("nothing is logged, so nothing was tested")
	}
	for _, line := range lines {
		delete(line, "request")
		if strings.Contains(fmt.Sprint(line), foreign) {
			t.Errorf("the log quotes: %v", line)
		}
	}
}

func TestRefusalsDoNotQuoteTheSender(t *testing.T) {
	good := "Host: gateway\n" + hubHeader + ": " + hubSignature([]byte("body"), secret) + "\n"
	for name, request := range map[string]string{
		"malformed trailer":   good + "Transfer-Encoding: chunked\n\n4\nbody\n0\n" + foreign + "\n\n",
		"malformed chunk":     good + "Transfer-Encoding: chunked\n\n" + foreign + "\nbody\n0\n\n",
		"malformed extension": good + "Transfer-Encoding: chunked\n\n4 " + foreign + "\nbody\n0\n\n",
		"signature":           "Host: gateway\n" + hubHeader + ": " + foreign + "\nContent-Length: 0\n\n",
		"body":                "Host: gateway\n" + hubHeader + ": " + hubSignature([]byte(foreign), secret) + "\nContent-Length: 13\n\n" + foreign,
		"topic":               "Host: gateway\n" + hubHeader + ": " + hubSignature([]byte(`{"topic":"`+foreign+`"}`), secret) + "\nContent-Length: 25\n\n" + `{"topic":"` + foreign + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, setup{
				webhook: "timeout 1s\nroute * { respond 200 }",
				behind:  "handle_errors { respond \"refused: {http.error.message}\" }",
			})
			conn := g.dial()
			write(t, conn, "POST / HTTP/1.1\n"+request)
			answer := read(t, conn)
			if answer.status < 400 || !strings.HasPrefix(answer.body, "refused: ") || strings.Contains(answer.body, foreign) {
				t.Errorf("answered %d %q, want an error that does not quote", answer.status, answer.body)
			}
			wantNothingForeign(t, g)
		})
	}
}

// answersToQuote are answers of backends that net/http does not take, and says so.
var answersToQuote = map[string]string{
	"transfer encoding":  "HTTP/1.1 200 OK\nTransfer-Encoding: " + foreign + "\n\n",
	"content length":     "HTTP/1.1 200 OK\nContent-Length: " + foreign + "\n\n",
	"two lengths":        "HTTP/1.1 200 OK\nContent-Length: 4\nContent-Length: " + foreign + "\n\nbody",
	"status line":        foreign + "\n\n",
	"status":             "HTTP/1.1 " + foreign + "\n\n",
	"version":            foreign + " 200 OK\n\n",
	"header":             "HTTP/1.1 200 OK\n" + foreign + "\n\n",
	"trailer":            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: Transfer-Encoding, " + foreign + "\n\n0\n\n",
	"chunk":              "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n" + foreign + "\n\n",
	"upgrade":            "HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: " + foreign + "\n\n",
	"not HTTP, no break": foreign,
}

func TestFailuresDoNotQuoteTheBackend(t *testing.T) {
	for name, says := range answersToQuote {
		t.Run(name, func(t *testing.T) {
			g := start(t, setup{webhook: "timeout 2s\nroute * to " + saying(t, says)})
			g.expect(502, good)
			wantNothingForeign(t, g)
		})
	}
}

// Nor do errors of other handlers, which may quote the notification.
func TestFailuresDoNotQuoteHandlers(t *testing.T) {
	words := good.with("X-Words", foreign)
	for name, directives := range map[string]string{
		"error":     "error \"{http.request.header.X-Words}\" 500",
		"dialing":   "reverse_proxy {http.request.header.X-Words}:9000",
		"no file":   "root /nowhere\nrewrite /private%20words\nfile_server",
		"panic":     "panicking",
		"a matcher": "@odd expression `int({http.request.header.X-Words}) == 1`\nrespond @odd 200",
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, setup{webhook: "route * {\n" + directives + "\n}"})
			g.expect(502, words)
			wantNothingForeign(t, g)
		})
	}
}

// What the queue keeps of a failed attempt is on the disk, and shown in the web UI.
func TestQueueDoesNotQuoteTheBackend(t *testing.T) {
	var routes strings.Builder
	var addresses []string
	for _, says := range answersToQuote {
		addresses = append(addresses, saying(t, says))
	}
	for i, address := range addresses {
		fmt.Fprintf(&routes, "route x.n%d as n%[1]d to %s\n", i, address)
	}
	g := newGateway(t)
	file := filepath.Join(g.dir, "queue.db")
	if err := g.load(setup{webhook: routes.String() + "queue {\npath " + file + "\n}"}); err != nil {
		t.Fatal(err)
	}
	for i := range addresses {
		g.expect(200, signed(notification(fmt.Sprintf("x.n%d", i), newID())))
	}
	eventually(t, "each has failed", func() bool {
		lanes := make(map[string]bool)
		for _, line := range g.logged(func(e entry) bool { return e.text("msg") == "notification was not delivered" }) {
			lanes[line.text("lane")] = true
		}
		return len(lanes) == len(addresses)
	})
	wantNothingForeign(t, g)
	eventually(t, "the errors are stored", func() bool {
		return bytes.Contains(readAll(t, file, file+"-wal"), []byte("is not valid HTTP"))
	})
	if bytes.Contains(readAll(t, file, file+"-wal"), []byte(foreign)) {
		t.Error("the queue's file quotes a backend")
	}
}

func readAll(t *testing.T, files ...string) []byte {
	t.Helper()
	var all []byte
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, content...)
	}
	return all
}

// ----- panics -----

// wantPanicTold asserts that the log has a line of this module with the stack of a
// panic, and nothing that the panic quotes.
func wantPanicTold(t *testing.T, g *gateway) {
	t.Helper()
	var lines []entry
	eventually(t, "the panic is logged", func() bool {
		lines = g.logged(func(e entry) bool { return e.ours() && e.text("level") == "error" })
		return len(lines) > 0
	})
	if line := lines[0]; line.text("panic") != "string" || !strings.Contains(line.text("stack"), "(*panicking).ServeHTTP") ||
		line.text("topic") != topic {
		t.Errorf("the log has %v, want a line with the panic's stack", lines)
	}
	log, err := os.ReadFile(g.logFile())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(log, []byte("found by")) {
		t.Error("the log has the panic's text, which quotes the notification")
	}
}

func TestPanicOfARouteIsAnswered(t *testing.T) {
	g := start(t, setup{webhook: "route * as talk { panicking }"})
	conn := g.dial()
	for range 2 { // the connection outlives it
		write(t, conn, head(hubHeader+": "+hubSignature(body, secret)+"\n", body))
		writeBytes(t, conn, body)
		if answer := read(t, conn); answer.status != 502 || answer.body != "" {
			t.Fatalf("answered %d %q, want 502 and nothing", answer.status, answer.body)
		}
	}
	wantPanicTold(t, g)
	lines := g.warnings("not delivered")
	if len(lines) != 2 || lines[0].text("error") != "a handler of the route panicked" {
		t.Errorf("the log has %v, want a warning for each notification", lines)
	}
}

// Where there is no shield, nothing can be answered once an answer has begun.
func TestPanicWithoutAShieldIsAnswered(t *testing.T) {
	for name, c := range map[string]struct {
		setup
		send     message
		answered bool
	}{
		"next handler":            {setup{behind: "panicking"}, good, true},
		"next handler, answering": {setup{behind: "panicking answering"}, good, false},
		"app request":             {setup{webhook: "app_requests { panicking }"}, signedApp(body), true},
		"app request, answering":  {setup{webhook: "app_requests { panicking answering }"}, signedApp(body), false},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, c.setup)
			before := g.scrape()
			answer, err := g.try(c.send)
			if c.answered && (err != nil || answer.status != http.StatusBadGateway) {
				t.Errorf("answered %d, %v; want 502", answer.status, err)
			}
			if !c.answered && err == nil {
				t.Errorf("answered %d, as if that were the whole answer", answer.status)
			}
			var lines []entry
			eventually(t, "the panic is logged", func() bool {
				lines = g.logged(func(e entry) bool { return e.ours() && e.text("level") == "error" })
				return len(lines) > 0
			})
			if !strings.Contains(lines[0].text("stack"), "(*panicking).ServeHTTP") {
				t.Errorf("the log has %v, want the panic's stack", lines)
			}
			if c.webhook == "" {
				grown := fmt.Sprint(g.scrape().since(before).of("notifications_total"))
				if !strings.Contains(grown, `outcome="failed"`) {
					t.Errorf("counted %s, want a failure", grown)
				}
			}
		})
	}
}

func TestPanicOfAQueuedRouteIsAFailedAttempt(t *testing.T) {
	g := newGateway(t)
	if err := g.load(setup{webhook: "route * as talk { panicking }\nqueue {\npath " + filepath.Join(g.dir, "queue.db") + "\n}"}); err != nil {
		t.Fatal(err)
	}
	before := g.scrape()
	g.expect(200, signed(notification(topic, newID())))
	wantPanicTold(t, g)
	eventually(t, "the attempt is counted", func() bool {
		grown := g.scrape().since(before)
		return grown[`queue_attempts_total{lane="talk",result="failed"}`] >= 1 && grown[`backend_responses_total{code="error",lane="talk"}`] >= 1
	})
	lines := g.logged(func(e entry) bool { return e.text("msg") == "notification was not delivered" })
	if len(lines) == 0 || lines[0].text("error") != "a handler of the route panicked" {
		t.Errorf("the log has %v, want a failed attempt", lines)
	}
}
