package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// told is a line of a stream of notifications.
type told struct {
	Kind, Topic, Workspace, ID, Outcome, Lane string
	Status                                    int
	Seconds                                   float64
	At                                        time.Time
	Dropped                                   int
	Request                                   *struct {
		Method, URI, Host, Proto, Body string
		Header                         http.Header
	}
}

// tellingStream opens a stream of notifications, which ends with the test.
func (g *gateway) tellingStream(query string) *bufio.Scanner {
	g.t.Helper()
	response, err := http.Get("http://" + g.admin + "/intercom_webhook/notifications/stream" + query)
	if err != nil {
		g.t.Fatalf("opening a stream: %v", err)
	}
	g.t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK {
		g.t.Fatalf("opening a stream: %s", response.Status)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 16<<20)
	return lines
}

func nextTold(t *testing.T, lines *bufio.Scanner) (line told) {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("the stream has ended: %v", lines.Err())
	}
	if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
		t.Fatalf("%q: %v", lines.Text(), err)
	}
	return line
}

func TestStreamTellsWhatCameOfEachNotification(t *testing.T) {
	good, bad := answering(t, http.StatusOK), answering(t, http.StatusTeapot)
	routes := "route conversation.* as talk to " + good.address + "\nroute contact.* to " + bad.address +
		"\napp_requests { respond 203 }\n"
	for name, tc := range map[string]struct {
		setup setup
		full  bool
		want  string // outcome, lane and status of each topic
	}{
		"with routes": {setup{webhook: routes}, false,
			"conversation.user.replied: delivered talk 200, contact.user.created: failed contact 502, ticket.created: unrouted  200, ping: ping  200"},
		"with a queue": {setup{webhook: routes + "queue fake"}, false,
			"conversation.user.replied: queued talk 200, contact.user.created: queued contact 200, ticket.created: queued  200, ping: ping  200"},
		"with a queue that is full": {setup{webhook: routes + "queue fake"}, true,
			"conversation.user.replied: unqueued talk 503, contact.user.created: unqueued contact 503, ticket.created: unqueued  503, ping: ping  200"},
		"as a middleware": {setup{behind: "@contact header X-Intercom-Topic contact.*\nrespond @contact 410\nrespond 202", webhook: "app_requests { respond 203 }"}, false,
			"conversation.user.replied: delivered  202, contact.user.created: failed  410, ticket.created: delivered  202, ping: delivered  202"},
	} {
		t.Run(name, func(t *testing.T) {
			resetStore(tc.full)
			tc.setup.admin = true
			g := start(t, tc.setup)
			all, some := g.tellingStream(""), g.tellingStream("?request=true&topic=contact.*&topic=none&workspace=tulip4")
			none := g.tellingStream("?workspace=other")
			g.send(message{body: ping, header: http.Header{hubHeader: {hubSignature(ping, "wrong")}}})
			g.send(signedApp([]byte(`{"workspace_id":"tulip4"}`)))
			bodies := [][]byte{notification(topic, "n1"), notification("contact.user.created", "n2"), notification("ticket.created", "n3"), ping}
			for _, body := range bodies {
				g.send(signed(body).to("/hook?a=b").with("X-Intercom-Topic", "forged"))
			}
			var got []string
			for i := range bodies {
				line := nextTold(t, all)
				got = append(got, fmt.Sprintf("%s: %s %s %d", line.Topic, line.Outcome, line.Lane, line.Status))
				if id := []string{"n1", "n2", "n3", ""}[i]; line.Kind != "notification" || line.Workspace != "tulip4" || line.ID != id ||
					line.Seconds <= 0 || time.Since(line.At) > time.Minute || line.Request != nil {
					t.Errorf("got %+v", line)
				}
			}
			if joined := strings.Join(got, ", "); joined != tc.want {
				t.Errorf("got:\n%s\nwant:\n%s", joined, tc.want)
			}
			line := nextTold(t, some)
			if r := line.Request; line.ID != "n2" || r == nil || r.Body != string(bodies[1]) || r.Header.Get(hubHeader) != hubSignature(bodies[1], secret) ||
				r.Method != http.MethodPost || r.URI != "/hook?a=b" || r.Header.Get("X-Intercom-Topic") != "" || r.Host != "127.0.0.1:"+g.port {
				t.Errorf("got %+v with %+v", line, r)
			}
			if err := g.run([]byte("{\"admin\":{\"disabled\":true,\"config\":{\"persist\":false}}}")); err != nil {
				t.Fatal(err)
			}
			for name, lines := range map[string]*bufio.Scanner{"all": all, "some": some, "none": none} {
				if lines.Scan() || lines.Err() != nil {
					t.Errorf("%s goes on after a reload with %q, %v", name, lines.Text(), lines.Err())
				}
			}
		})
	}
}

// Who reads nothing loses notifications, and is told how many. Nobody else notices.
func TestStreamOfASlowReader(t *testing.T) {
	g := start(t, setup{admin: true, webhook: "route * { respond 200 }"})
	slow, fast := g.tellingStream("?request=true"), g.tellingStream("")
	const n = 800 // of 100 KB: more than a stream and the sockets on the way have room for
	var slowest time.Duration
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range n {
			body := bytes.Replace(notification(topic, fmt.Sprint(i)), []byte("{"), fmt.Appendf(nil, "{%q:%q,", "padding", strings.Repeat("x", 100_000)), 1)
			began := time.Now()
			g.expect(http.StatusOK, signed(body))
			slowest = max(slowest, time.Since(began))
		}
	})
	for i := range n {
		if line := nextTold(t, fast); line.ID != fmt.Sprint(i) {
			t.Fatalf("got %s as number %d", line.ID, i)
		}
	}
	sending.Wait()
	t.Logf("the slowest answer took %s", slowest)
	g.expect(http.StatusOK, signed(notification(topic, "last")))
	seen, dropped := 0, 0
	for {
		line := nextTold(t, slow)
		if dropped += line.Dropped; line.Dropped > 0 {
			continue
		}
		if line.ID == "last" {
			break
		}
		seen++
	}
	if dropped == 0 || seen == 0 || seen+dropped != n {
		t.Errorf("%d seen and %d dropped of %d", seen, dropped, n)
	}
}

// listen follows Caddy over a reload, a restart, and a config that fails, and what it sends on
// is what Intercom has signed.
func TestListen(t *testing.T) {
	target := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Intercom-Topic") == "contact.user.created" {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	p, b := newProcess(t), newTally(t, 0)
	p.start(p.queued("route * to "+b.address, ""))
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	var out, notices lockedBuffer
	cmd := exec.Command(path, "intercom-webhook", "listen", "--address", p.admin, "--forward-to", "http://"+target.address+"/hook")
	cmd.Env = append(os.Environ(), "HOME="+p.dir)
	cmd.Stdout, cmd.Stderr = &out, &notices
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("listen printed:\n%s\nand:\n%s", out.String(), notices.String())
		}
	})
	// What comes before listen is connected again is not sent on, so this tries again.
	posted := make(map[string]bool)
	wantSentOn := func(topic string) {
		t.Helper()
		within(t, longPatience, "listen is connected, and sends on", func() bool {
			id := p.post(topic)
			posted[id] = true
			for range 20 {
				if slices.ContainsFunc(target.all(), func(r received) bool { return r.header.Get("X-Intercom-Notification-Id") == id }) {
					return true
				}
				time.Sleep(50 * time.Millisecond)
			}
			return false
		})
	}
	wantSentOn(topic)
	p.reload(p.queued("route * to "+b.address, "workers 3"))
	wantSentOn("contact.user.created")
	if answer, err := http.Post("http://"+p.admin+"/load", "application/json", strings.NewReader(`{"admin":{"listen":"`+p.admin+`"},"apps":{"http":{"servers":{"a":{"listen":["256.0.0.1:1"]}}}}}`)); err != nil {
		t.Fatal(err)
	} else if answer.Body.Close(); answer.StatusCode != http.StatusBadRequest {
		t.Fatalf("a broken config loads: %s", answer.Status)
	}
	wantSentOn(topic)
	p.kill()
	p.start(p.queued("route * to "+b.address, ""))
	wantSentOn(topic)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("listen ended with %v", err)
		}
	case <-time.After(longPatience):
		t.Fatal("listen does not end")
	}
	for _, r := range target.all() {
		if r.uri != "/hook" || r.header.Get(hubHeader) != hubSignature(r.body, secret) || !posted[r.header.Get("X-Intercom-Notification-Id")] {
			t.Errorf("got %s %v %s", r.uri, r.header, r.body)
		}
	}
	if text := out.String(); !strings.Contains(text, "queued (default), 200 in ") || !strings.Contains(text, "-> 418 I'm a teapot in ") || !strings.Contains(text, "-> 200 OK in ") {
		t.Errorf("listen printed:\n%s", text)
	}
}

// The admin endpoint that a reload replaces ends its streams at once. Caddy would wait 10 s for
// them, and then log an error.
func TestReloadDoesNotWaitForStreams(t *testing.T) {
	p := newProcess(t)
	p.start(p.queued("route * { respond 200 }", ""))
	lines := p.tellingStream("")
	p.reload(p.queued("route * { respond 201 }", ""))
	if lines.Scan() {
		t.Errorf("got %q", lines.Text())
	}
	within(t, longPatience, "the former admin endpoint is stopped", func() bool {
		return len(p.logged(func(e entry) bool { return e.text("msg") == "stopped previous server" })) > 0
	})
	p.tellingStream("?request=true")
	p.stop()
	if failed := p.logged(func(e entry) bool { return strings.Contains(e.text("msg"), "stopping current admin endpoint") }); len(failed) > 0 {
		t.Errorf("logged %v", failed)
	}
}
