package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// answerCase is one case of a row of DESIGN's "Who gets what answer".
type answerCase struct {
	name string
	setup
	answer http.HandlerFunc // of the backend
	send   message          // or, if it takes more than an HTTP client sends:
	raw    func(t *testing.T, conn net.Conn)

	status  int
	allow   string // the header of the answer
	reason  string // of the refusal
	outcome string // of the notification
	code    string // label of backend_responses_total
	backend int    // status in the access log
}

const topic = "conversation.user.replied"

var (
	body = notification(topic, "notif_11111111-2222-3333-4444-555555555555")
	good = signed(body)
)

func TestEveryRowOfTheAnswerTable(t *testing.T) {
	// the backend's address is put in for BACKEND
	const routed = "timeout 300ms\nmax_size 2KiB\nroute conversation.* as talk to BACKEND"
	routes := setup{webhook: routed}
	strangers := setup{webhook: routed, allow: "static 192.0.2.1"}
	queued := setup{webhook: routed + "\nqueue fake"}
	apps := setup{webhook: routed + "\napp_requests { respond 203 }"}
	large := bytes.Repeat([]byte("x"), 2<<10+1)
	hub := hubSignature(body, secret)

	cases := []answerCase{
		{name: "HEAD", setup: routes, send: message{method: "HEAD"}, status: 200},
		{name: "HEAD from a source that is not allowed", setup: strangers, send: message{method: "HEAD"}, status: 200},
		{name: "HEAD with nonsense for a signature", setup: routes, send: message{method: "HEAD"}.with(hubHeader, "nonsense"), status: 200},

		{name: "source not allowed", setup: strangers, send: good, status: 403, reason: "source"},
		{name: "source not allowed comes before all that concerns the signature", setup: strangers, send: message{body: large}, status: 403, reason: "source"},

		{name: "signature missing", setup: routes, send: message{body: body}, status: 401, reason: "signature_missing"},
		{name: "signature repeated", setup: routes, send: good.with(hubHeader, hub, hub), status: 401, reason: "signature_malformed"},
		{name: "signature of each scheme", setup: apps, send: good.with(bodyHeader, bodySignature(body, secret)), status: 401, reason: "signature_malformed"},
		{name: "signature of each scheme, one not enabled", setup: routes, send: good.with(bodyHeader, bodySignature(body, secret)), status: 401, reason: "signature_malformed"},
		{name: "no scheme enabled for the signature", setup: routes, send: signedApp(body), status: 401, reason: "signature_missing"},
		{name: "signature header empty", setup: routes, send: good.with(hubHeader, ""), status: 401, reason: "signature_malformed"},
		{name: "signature without its prefix", setup: routes, send: good.with(hubHeader, hub[len("sha1="):]), status: 401, reason: "signature_malformed"},
		{name: "signature with another prefix", setup: routes, send: good.with(hubHeader, "sha256="+bodySignature(body, secret)), status: 401, reason: "signature_malformed"},
		{name: "signature a digit short", setup: routes, send: good.with(hubHeader, hub[:len(hub)-1]), status: 401, reason: "signature_malformed"},
		{name: "signature a digit long", setup: routes, send: good.with(hubHeader, hub+"0"), status: 401, reason: "signature_malformed"},
		{name: "signature not hex", setup: routes, send: good.with(hubHeader, hub[:len(hub)-1]+"g"), status: 401, reason: "signature_malformed"},
		{name: "signatures joined by a comma", setup: routes, send: good.with(hubHeader, hub+", "+hub), status: 401, reason: "signature_malformed"},
		{name: "app signature a digit short", setup: apps, send: signedApp(body).with(bodyHeader, bodySignature(body, secret)[1:]), status: 401, reason: "signature_malformed"},
		{name: "app signature with the prefix of the other scheme", setup: apps, send: signedApp(body).with(bodyHeader, hub), status: 401, reason: "signature_malformed"},

		{name: "body over max_size, declared", setup: routes, send: signed(large), status: 413, reason: "too_large"},
		{name: "body over max_size, chunked", setup: routes, send: message{body: large, chunked: true, header: signed(large).header}, status: 413, reason: "too_large"},

		{name: "body cut short", setup: routes, raw: sayAndStop("Content-Length: 1000", "half"), status: 400, reason: "body"},
		{name: "body cut short, chunked", setup: routes, raw: sayAndStop("Transfer-Encoding: chunked", "4\nhalf\n"), status: 400, reason: "body"},
		{name: "body with malformed chunks", setup: routes, raw: sayAndStop("Transfer-Encoding: chunked", "four\nhalf\n"), status: 400, reason: "body"},

		{name: "signed with another secret", setup: routes, send: good.with(hubHeader, hubSignature(body, "another")), status: 401, reason: "signature_mismatch"},
		{name: "signed, then changed in one byte", setup: routes, send: message{body: bytes.Replace(body, []byte("77"), []byte("78"), 1), header: good.header}, status: 401, reason: "signature_mismatch"},
		{name: "signed, then lengthened by a line break", setup: routes, send: message{body: append(bytes.Clone(body), '\n'), header: good.header}, status: 401, reason: "signature_mismatch"},
		{name: "signed but empty", setup: routes, send: message{header: good.header}, status: 401, reason: "signature_mismatch"},
		{name: "app request signed with another secret", setup: apps, send: signedApp(body).with(bodyHeader, bodySignature(body, "another")), status: 401, reason: "signature_mismatch"},

		{name: "signed, but no JSON", setup: routes, send: signed([]byte("topic=ping")), status: 400, reason: "envelope"},
		{name: "signed, but nothing", setup: routes, send: signed(nil), status: 400, reason: "envelope"},
		{name: "signed, but no object", setup: routes, send: signed([]byte(`[{"topic":"ping"}]`)), status: 400, reason: "envelope"},
		{name: "signed, but no topic", setup: routes, send: signed([]byte(`{"id":null}`)), status: 400, reason: "envelope"},
		{name: "signed, but the topic is no string", setup: routes, send: signed([]byte(`{"topic":["ping"]}`)), status: 400, reason: "envelope"},

		{name: "signed, but the topic is there in another case, too", setup: routes, send: signed([]byte(`{"topic":"ping","Topic":"conversation.user.replied"}`)), status: 400, reason: "envelope"},

		{name: "ping", setup: routes, send: signed(ping), status: 200, outcome: "ping"},
		{name: "unrouted", setup: routes, send: signed(notification("ticket.created", "notif_1")), status: 200, outcome: "unrouted"},

		{name: "backend unreachable", setup: setup{webhook: "route * as talk to " + nobody}, send: good, status: 502, outcome: "failed", code: "error"},
		{name: "backend slower than timeout", setup: routes, answer: hang, send: good, status: 504, outcome: "timeout", code: "error"},

		{name: "a handler of the route panics", setup: setup{webhook: "route * as talk { panicking }"}, send: good, status: 502, outcome: "failed", code: "error"},
		{name: "a handler of the route answers, and panics", setup: setup{webhook: "route * as talk { panicking answering }"}, send: good, status: 502, outcome: "failed", code: "error", backend: 200},

		{name: "queue stores", setup: queued, send: good, status: 200, outcome: "queued"},
		{name: "queue cannot store", setup: queued, send: good, status: 503, outcome: "unqueued"},
	}
	for _, method := range []string{"GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "post", "INVENTED"} {
		cases = append(cases, answerCase{
			name: "method " + method, setup: routes, send: message{method: method, header: good.header},
			status: 405, allow: "HEAD, POST", reason: "method",
		})
	}
	for _, status := range []int{200, 201, 202, 204, 205, 206, 299} {
		cases = append(cases, backendCase(routes, status, 200, "delivered"))
	}
	for _, status := range []int{300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 408, 410, 413, 418, 451, 500, 501, 502, 504, 599} {
		cases = append(cases, backendCase(routes, status, 502, "failed"))
	}
	for _, status := range []int{429, 503} {
		cases = append(cases, backendCase(routes, status, 503, "failed"))
	}

	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, fmt.Sprintf("/case-%d", i)) })
	}
}

// backendCase is a backend's answer as Intercom sees it. Redirects lead to the
// gateway itself, so that one which is followed shows.
func backendCase(s setup, status, shielded int, outcome string) answerCase {
	return answerCase{
		name: fmt.Sprintf("backend answers %d", status), setup: s, send: good,
		answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.Header().Set("Retry-After", "120")
			w.Header().Set("Set-Cookie", "backend=1")
			w.WriteHeader(status)
		},
		status: shielded, outcome: outcome, code: fmt.Sprint(status), backend: status,
	}
}

// sayAndStop sends a part of a body and no more, but waits for an answer.
func sayAndStop(framing, part string) func(*testing.T, net.Conn) {
	return func(t *testing.T, conn net.Conn) {
		write(t, conn, "POST /PATH HTTP/1.1\nHost: gateway\n"+hubHeader+": "+hubSignature(body, secret)+"\n"+framing+"\n\n"+part)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
}

func (c answerCase) run(t *testing.T, path string) {
	b := newBackend(t, c.answer)
	c.webhook = strings.ReplaceAll(c.webhook, "BACKEND", b.address)
	resetStore(c.outcome == "unqueued")
	g := start(t, c.setup)
	before := g.scrape()

	var answer reply
	if c.raw != nil {
		path = "/PATH"
		conn := g.dial()
		c.raw(t, conn)
		answer = read(t, conn)
	} else {
		answer = g.send(c.send.to(path))
	}

	if answer.status != c.status {
		t.Errorf("status %d, want %d", answer.status, c.status)
	}
	if answer.body != "" {
		t.Errorf("the answer says %q, want nothing", answer.body)
	}
	if got := answer.header.Get("Allow"); got != c.allow {
		t.Errorf("Allow: %q, want %q", got, c.allow)
	}
	for name := range answer.header {
		switch name {
		case "Content-Length", "Date", "Server", "Allow", "Connection":
		default:
			t.Errorf("the answer has the header %s", name)
		}
	}

	toBackend := 0
	if c.code != "" && c.code != "error" || c.outcome == "timeout" {
		toBackend = 1
	}
	b.wantCount(t, toBackend)
	toStore := 0
	if c.outcome == "queued" {
		toStore = 1
	}
	if got := len(inStore()); got != toStore {
		t.Errorf("the queue stored %d notifications, want %d", got, toStore)
	}

	access := g.access(path) // from here on, all is counted
	if got := access.tag().text("reason"); got != c.reason {
		t.Errorf("access log has reason %q, want %q", got, c.reason)
	}
	if got, _ := access.tag()["backend_status"].(float64); int(got) != c.backend {
		t.Errorf("access log has backend_status %v, want %d", got, c.backend)
	}
	if got, _ := access["status"].(float64); int(got) != c.status {
		t.Errorf("access log has status %v, want %d", got, c.status)
	}

	grown := g.scrape().since(before)
	want := make(series)
	if c.reason != "" {
		want[fmt.Sprintf(`refused_total{reason=%q}`, c.reason)] = 1
	}
	if c.code != "" {
		want[fmt.Sprintf(`backend_responses_total{code=%q,lane="talk"}`, c.code)] = 1
	}
	got := grown.of("refused_total")
	maps.Copy(got, grown.of("backend_responses_total"))
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	outcomes := grown.of("notifications_total")
	if c.outcome == "" && len(outcomes) != 0 {
		t.Errorf("counted %v, though no notification was let in", outcomes)
	}
	if c.outcome != "" {
		if len(outcomes) != 1 || !strings.Contains(fmt.Sprint(outcomes), fmt.Sprintf("outcome=%q", c.outcome)) {
			t.Errorf("counted %v, want one %s", outcomes, c.outcome)
		}
		if got := grown["answer_seconds_count"]; got != 1 {
			t.Errorf("answer_seconds observed %v answers, want 1", got)
		}
	}
}

// A peer on a unix socket has no address that could be parsed.
func TestUnparsableSourceIsRefused(t *testing.T) {
	// not in t.TempDir, whose path can be longer than a socket's may be
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	g := start(t, setup{
		bind: "unix/" + socket, allow: "static 0.0.0.0/0 ::/0",
		webhook: "route * { respond 200 }",
	})
	before := g.scrape()

	conn := dial(t, "unix", socket)
	write(t, conn, fmt.Sprintf("POST / HTTP/1.1\nHost: gateway\n%s: %s\nContent-Length: %d\n\n", hubHeader, hubSignature(body, secret), len(body)))
	writeBytes(t, conn, body)
	if answer := read(t, conn); answer.status != http.StatusForbidden || answer.body != "" {
		t.Errorf("answer %d %q, want 403 and nothing", answer.status, answer.body)
	}
	if grown := g.scrape().since(before); grown[`refused_total{reason="source"}`] != 1 {
		t.Errorf("counted %v, want a refusal because of the source", grown)
	}
}

func TestNothingIsReadFromThoseWhoAreRefusedByTheirHeader(t *testing.T) {
	for name, c := range map[string]struct {
		allow, header string
		status        int
	}{
		"source not allowed":  {"static 192.0.2.1", hubHeader + ": " + hubSignature(body, secret) + "\nContent-Length: 1000", 403},
		"signature malformed": {"", hubHeader + ": sha1=00\nContent-Length: 1000", 401},
		"declared too large":  {"", hubHeader + ": " + hubSignature(body, secret) + "\nContent-Length: 4194305", 413},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, setup{allow: c.allow, webhook: "route * { respond 200 }"})
			conn := g.dial()
			if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
				t.Fatal(err)
			}
			write(t, conn, "POST / HTTP/1.1\nHost: gateway\nExpect: 100-continue\n"+c.header+"\n\n")
			// an invitation to send the body, 100 Continue, would come first
			if answer := read(t, conn); answer.status != c.status {
				t.Errorf("status %d without any body sent, want %d", answer.status, c.status)
			}
		})
	}
}

// A sender that was refused does not keep its connection, not even if it announced a
// body and waits. A HEAD that announces one is treated alike, though it is no refusal.
func TestConnectionOfARefusedSenderEnds(t *testing.T) {
	good := hubHeader + ": " + hubSignature(body, secret)
	wrong := hubHeader + ": sha1=" + strings.Repeat("0", 40)
	for name, c := range map[string]struct {
		request string // up to its body
		body    string
		allow   string
		status  int
	}{
		"method, no body":          {"GET / HTTP/1.1", "", "", 405},
		"method, body declared":    {"PUT / HTTP/1.1\nContent-Length: 1000", "", "", 405},
		"source":                   {"POST / HTTP/1.1\n" + good + "\nContent-Length: 1000", "", "static 192.0.2.1", 403},
		"source, a part of a body": {"POST / HTTP/1.1\n" + good + "\nContent-Length: 1000", "half", "static 192.0.2.1", 403},
		"source, chunked":          {"POST / HTTP/1.1\n" + good + "\nTransfer-Encoding: chunked", "", "static 192.0.2.1", 403},
		"source, 100-continue":     {"POST / HTTP/1.1\n" + good + "\nContent-Length: 1000\nExpect: 100-continue", "", "static 192.0.2.1", 403},
		"source, HTTP/1.0":         {"POST / HTTP/1.0\nConnection: keep-alive\n" + good + "\nContent-Length: 1000", "", "static 192.0.2.1", 403},
		"no signature":             {"POST / HTTP/1.1\nContent-Length: 1000", "", "", 401},
		"no signature, no body":    {"POST / HTTP/1.1\nContent-Length: 0", "", "", 401},
		"no signature, large":      {"POST / HTTP/1.1\nContent-Length: 1000000", "", "", 401},
		"too large":                {"POST / HTTP/1.1\n" + good + "\nContent-Length: 4194305", "", "", 413},
		"too large, 100-continue":  {"POST / HTTP/1.1\n" + good + "\nContent-Length: 4194305\nExpect: 100-continue", "", "", 413},
		"slow body":                {"POST / HTTP/1.1\n" + good + "\nContent-Length: 1000", "half", "", 400},
		"signature does not match": {"POST / HTTP/1.1\n" + wrong + "\nContent-Length: 4", "body", "", 401},
		"no envelope":              {"POST / HTTP/1.1\n" + hubHeader + ": " + hubSignature([]byte("body"), secret) + "\nContent-Length: 4", "body", "", 400},
		"HEAD, body declared":      {"HEAD / HTTP/1.1\nContent-Length: 1000", "", "", 200},
		"HEAD, chunked":            {"HEAD / HTTP/1.1\nTransfer-Encoding: chunked", "", "", 200},
		"HEAD, 100-continue":       {"HEAD / HTTP/1.1\nContent-Length: 1000\nExpect: 100-continue", "", "", 200},
		"HEAD from a stranger":     {"HEAD / HTTP/1.1\nContent-Length: 1000", "", "static 192.0.2.1", 200},
		"HEAD, body of large size": {"HEAD / HTTP/1.1\nContent-Length: 1000000", "", "", 200},
		"HEAD, a part of the body": {"HEAD / HTTP/1.1\nContent-Length: 1000", "half", "", 200},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, setup{allow: c.allow, webhook: "timeout 300ms\nroute * { respond 200 }"})
			conn := g.dial()
			if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil { // Caddy would wait for minutes
				t.Fatal(err)
			}
			write(t, conn, c.request+"\nHost: gateway\n\n")
			writeBytes(t, conn, []byte(c.body))
			answers := bufio.NewReader(conn)
			method, _, _ := strings.Cut(c.request, " ")
			answer, err := http.ReadResponse(answers, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("reading the answer: %v", err)
			}
			if answer.StatusCode != c.status || !answer.Close {
				t.Errorf("answered %d, closes the connection: %t; want %d and that", answer.StatusCode, answer.Close, c.status)
			}
			if _, err := answers.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("behind the answer there is %v, want the end of the connection", err)
			}
		})
	}
}

// What was sent and not read must not take the answer away: a kernel resets a
// connection that is closed with something unread in it.
func TestRefusedSenderOfAWholeBodySeesTheAnswer(t *testing.T) {
	g := start(t, setup{webhook: "route * { respond 200 }"})
	for range 20 {
		conn := g.dial()
		content := bytes.Repeat([]byte("x"), 100_000)
		writeBytes(t, conn, append(fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n", len(content)), content...))
		time.Sleep(5 * time.Millisecond) // time has to pass: a reset would come now, before the answer is read
		answers := bufio.NewReader(conn)
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("reading the answer: %v", err)
		}
		if answer.StatusCode != 401 {
			t.Errorf("answered %d, want 401", answer.StatusCode)
		}
		if _, err := answers.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("behind the answer there is %v, want the end of the connection", err)
		}
	}
}

// Those who were not refused keep theirs.
func TestConnectionOfAGoodSenderIsKept(t *testing.T) {
	g := start(t, setup{webhook: "route * { respond 410 }"})
	conn := g.dial()
	answers := bufio.NewReader(conn)
	for range 2 {
		write(t, conn, "HEAD / HTTP/1.1\nHost: gateway\n\n")
		if answer, err := http.ReadResponse(answers, &http.Request{Method: "HEAD"}); err != nil || answer.Close {
			t.Fatalf("HEAD: %v, %v", answer, err)
		}
		write(t, conn, head(hubHeader+": "+hubSignature(body, secret)+"\n", body))
		writeBytes(t, conn, body)
		if answer, err := http.ReadResponse(answers, nil); err != nil || answer.StatusCode != 502 || answer.Close {
			t.Fatalf("POST: %v, %v", answer, err)
		}
	}
}

func TestHandleErrorsAnswersRefusals(t *testing.T) {
	g := start(t, setup{
		webhook: "route * { respond 200 }",
		behind:  "handle_errors { respond \"sorry: {http.intercom_webhook.reason} {err.status_code}\" 451 }",
	})
	answer := g.expect(451, message{body: body})
	if want := "sorry: signature_missing 401"; answer.body != want {
		t.Errorf("answer %q, want %q", answer.body, want)
	}
}

func TestAppRequestsAreNeverQueued(t *testing.T) {
	resetStore(false)
	g := start(t, setup{webhook: "queue fake\napp_requests { respond `{\"state\":\"OK\"}` 203 }\nroute * { respond 200 }"})
	if answer := g.expect(203, signedApp([]byte(`{"workspace_id":"tulip4"}`))); answer.body != `{"state":"OK"}` {
		t.Errorf("answer %q, want the app's own", answer.body)
	}
	if got := inStore(); len(got) != 0 {
		t.Errorf("the queue stored %d app requests", len(got))
	}
}

// What fits no route is for the queue to keep as a dead letter; a ping is nothing
// to keep.
func TestQueueGetsAllButPings(t *testing.T) {
	resetStore(false)
	g := start(t, setup{webhook: "queue fake\nroute conversation.* { respond 200 }"})
	unrouted := notification("ticket.created", "notif_2")
	g.expect(200, signed(ping))
	g.expect(200, good)
	g.expect(200, signed(unrouted).to("/unrouted?x=1"))

	stored := inStore()
	if len(stored) != 2 || !bytes.Equal(stored[0].body, body) || !bytes.Equal(stored[1].body, unrouted) {
		t.Fatalf("the queue stored %d notifications, want the routed and the unrouted one, whole", len(stored))
	}
	if got := stored[1]; got.uri != "/unrouted?x=1" || got.header.Get(hubHeader) == "" || got.length != int64(len(unrouted)) {
		t.Errorf("the queue got %s of %d bytes with header %v, want the request as it was", got.uri, got.length, got.header)
	}
}

func TestQueueThatCannotStoreIsAnError(t *testing.T) {
	resetStore(true)
	g := start(t, setup{webhook: "queue fake\nroute * { respond 200 }"})
	g.expect(503, good)
	lines := g.logged(func(e entry) bool { return e.ours() && e.text("level") == "error" })
	if len(lines) != 1 || lines[0].text("error") != "disk is full" {
		t.Errorf("the log has errors %v, want the queue's one", lines)
	}
}

// It must not look like a slow backend, even if it stores the notification after all.
func TestQueueThatHangsIsAnsweredForInTime(t *testing.T) {
	resetStore(false)
	hangs := make(chan struct{})
	store.hangs = hangs
	g := start(t, setup{webhook: "timeout 300ms\nqueue fake\nroute * { respond 200 }"})
	before := g.scrape()
	conn := g.dial()
	write(t, conn, head(hubHeader+": "+hubSignature(body, secret)+"\n", body))
	writeBytes(t, conn, body)

	if answer := read(t, conn); answer.status != 503 { // the queue is still at it
		t.Errorf("answered %d, want 503", answer.status)
	}
	close(hangs)
	g.access("/hook?a=1")
	grown := g.scrape().since(before).of("notifications_total")
	if len(grown) != 1 || !strings.Contains(fmt.Sprint(grown), `outcome="unqueued"`) {
		t.Errorf("counted %v, want one unqueued", grown)
	}
	if got := inStore(); len(got) != 1 {
		t.Errorf("the queue stored %d notifications, want the late one", len(got))
	}
}
