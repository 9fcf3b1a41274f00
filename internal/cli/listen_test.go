package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// streamed is a notification as the stream tells of it. The body has a signature by
// testSendSecret.
func streamed(t *testing.T, id, body string) string {
	t.Helper()
	line, err := json.Marshal(map[string]any{
		"at": "2026-11-25T10:11:12.5Z", "kind": "notification", "topic": "conversation.user.created",
		"workspace": "tulip4", "id": id, "outcome": "queued", "lane": "support", "status": 200, "seconds": 0.0021,
		"request": map[string]any{
			"method": "POST", "header": http.Header{
				"X-Hub-Signature": {hubOf(body, testSendSecret)}, "Content-Length": {"9999"}, "User-Agent": {"intercom"}, "X-Two": {"a", "b"},
			}, "body": body,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(line)
}

// syncBuffer is a buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// listening is a listen command that runs.
type listening struct {
	out, notices syncBuffer
	interrupt    context.CancelFunc
	ended        chan error
}

// newListening begins to listen to a Caddy that sends one part of its stream on each connection
// and keeps the last one open.
func newListening(t *testing.T, parts []string, args ...string) *listening {
	t.Helper()
	connections := make(chan string, len(parts))
	for _, part := range parts {
		connections <- part
	}
	caddy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		part, more := "", false
		select {
		case part = <-connections:
			more = len(connections) > 0
		default:
		}
		if part == "gone" { // from now on
			connections <- part
			http.Error(w, "no Caddy is here", http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		io.WriteString(w, part)
		_ = http.NewResponseController(w).Flush()
		if !more {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(caddy.Close)
	l := &listening{ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	l.interrupt = cancel
	t.Cleanup(cancel)
	cmd := newListenCommand()
	cmd.SetContext(ctx)
	cmd.SetOut(&l.out)
	cmd.SetErr(&l.notices)
	if err := cmd.ParseFlags(append(args, "--address", caddy.Listener.Addr().String())); err != nil {
		t.Fatal(err)
	}
	go func() { l.ended <- runListen(cmd.Context(), newRun(cmd), nil) }()
	return l
}

// waitFor waits until the output has some text.
func (l *listening) waitFor(t *testing.T, text string) string {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if out := l.out.String(); strings.Contains(out, text) {
			return out
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %q; got:\n%s\nnotices:\n%s", text, l.out.String(), l.notices.String())
		}
	}
}

// end ends the command as Ctrl-C does.
func (l *listening) end(t *testing.T) {
	t.Helper()
	l.interrupt()
	select {
	case err := <-l.ended:
		if err != nil {
			t.Errorf("error %v after an interrupt", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("does not end")
	}
}

func TestListenPrints(t *testing.T) {
	t.Cleanup(func(local *time.Location) func() { return func() { time.Local = local } }(time.Local))
	time.Local = time.UTC
	parts := []string{
		streamed(t, "notif_1", "{\"a\":\"\u009b1m\u202e\"}") + "\n{\"dropped\":3}\n", // CSI, and right-to-left
		streamed(t, "notif_2\n", `no JSON`) + "\n",
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"lines": {nil, `
2026-11-25T10:11:12.500Z  conversation.user.created         tulip4      notif_1                                 queued (support), 200 in 2.1ms
-- 3 missed: they came faster than this could take them
2026-11-25T10:11:12.500Z  conversation.user.created         tulip4      notif_2\n                               queued (support), 200 in 2.1ms
`},
		"bodies": {[]string{"--body"}, `
2026-11-25T10:11:12.500Z  conversation.user.created         tulip4      notif_1                                 queued (support), 200 in 2.1ms
{
  "a": "\u009b1m\u202e"
}
-- 3 missed: they came faster than this could take them
2026-11-25T10:11:12.500Z  conversation.user.created         tulip4      notif_2\n                               queued (support), 200 in 2.1ms
no JSON
`},
		"JSON": {[]string{"--json"}, `
{"at":"2026-11-25T10:11:12.5Z","id":"notif_1","kind":"notification","lane":"support","outcome":"queued","seconds":0.0021,"status":200,"topic":"conversation.user.created","workspace":"tulip4"}
{"dropped":3}
{"at":"2026-11-25T10:11:12.5Z","id":"notif_2\n","kind":"notification","lane":"support","outcome":"queued","seconds":0.0021,"status":200,"topic":"conversation.user.created","workspace":"tulip4"}
`},
	} {
		t.Run(name, func(t *testing.T) {
			l := newListening(t, parts, tc.args...)
			l.waitFor(t, "notif_2")
			l.end(t)
			if got := l.out.String(); got != tc.want[1:] {
				t.Errorf("got:\n%s\nwant:%s", got, tc.want)
			}
			if notices := l.notices.String(); strings.Count(notices, "listening to the Caddy at 127.0.0.1") != 2 || strings.Count(notices, "the stream has ended") != 1 {
				t.Errorf("notices:\n%s", notices)
			}
		})
	}
}

func TestListenPrintsJSONWithTheBody(t *testing.T) {
	line := streamed(t, "notif_1", "{\"a\":\"\u009b\"}")
	l := newListening(t, []string{line + "\n"}, "--json", "--body")
	l.waitFor(t, "\n")
	l.end(t)
	var got, want any
	if err := json.Unmarshal([]byte(l.out.String()), &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(line), &want); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || strings.Contains(l.out.String(), "\u009b") {
		t.Errorf("got %s", l.out.String())
	}
}

func TestListenForwards(t *testing.T) {
	target := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Intercom-Notification-Id") == "bad" {
			w.WriteHeader(http.StatusTeapot)
			io.WriteString(w, "no \x1b[31mtea")
		}
	})
	bodies := []string{" {\"a\": \"ü\\u00fc <&> \u2028\"}\n", "{}"}
	stream := streamed(t, "good", bodies[0]) + "\n" + streamed(t, "bad", bodies[1]) + "\n"
	l := newListening(t, []string{stream}, "--forward-to", target.URL+"/hook?a=b")
	l.waitFor(t, "-> 418 I'm a teapot in ")
	out := l.waitFor(t, "-> 200 OK in ")
	l.end(t)
	if !strings.Contains(out, `: no \x1b[31mtea  bad`) {
		t.Errorf("got:\n%s", out)
	}
	target.mu.Lock()
	defer target.mu.Unlock()
	if len(target.requests) != len(bodies) {
		t.Fatalf("%d requests", len(target.requests))
	}
	for _, got := range target.requests {
		want := map[string]string{
			"X-Intercom-Topic": "conversation.user.created", "X-Intercom-App-Id": "tulip4", "User-Agent": "intercom", "X-Two": "a",
		}
		for name, value := range want {
			if got.Header.Get(name) != value {
				t.Errorf("%s: %q, want %q", name, got.Header.Get(name), value)
			}
		}
		if !got.signedBy(testSendSecret) || got.Method != http.MethodPost || got.URL.String() != "/hook?a=b" {
			t.Errorf("%s %s, signed: %v, %q", got.Method, got.URL, got.signedBy(testSendSecret), got.body)
		}
	}
}

func TestListenForwardsJSON(t *testing.T) {
	target := newEndpoint(t, nil)
	l := newListening(t, []string{streamed(t, "good", "{}") + "\n"}, "--json", "--forward-to", target.URL)
	out := l.waitFor(t, "\n")
	l.end(t)
	var got struct {
		ID        string
		Request   any
		Forwarded struct{ Status int }
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.ID != "good" || got.Request != nil || got.Forwarded.Status != 200 {
		t.Errorf("error %v, got %s", err, out)
	}
}

// A target that hangs must not keep the rest from being shown for ever.
func TestListenGivesAHangingTargetUp(t *testing.T) {
	target := newEndpoint(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	var stream strings.Builder
	for i := range 3 * maxForwards {
		stream.WriteString(streamed(t, fmt.Sprintf("notif_%02d", i), "{}") + "\n")
	}
	l := newListening(t, []string{stream.String()}, "--forward-to", target.URL, "--timeout", "50ms")
	out := l.waitFor(t, fmt.Sprintf("  notif_%02d  ", 3*maxForwards-1))
	if !strings.Contains(out, "-> not delivered: sending: no answer within 50ms") {
		t.Errorf("got:\n%s", out)
	}
	l.end(t)
}

func TestListenEndsWhileATargetHangs(t *testing.T) {
	let := make(chan struct{})
	defer close(let)
	target := newEndpoint(t, func(http.ResponseWriter, *http.Request) { <-let })
	l := newListening(t, []string{streamed(t, "a", "{}") + "\n"}, "--forward-to", target.URL, "--timeout", "1h")
	l.waitFor(t, "queued")
	l.end(t)
}

func TestListenUsage(t *testing.T) {
	unavailable := httptest.NewServer(answering(http.StatusServiceUnavailable, `{"error":"too many streams"}`))
	defer unavailable.Close()
	website := httptest.NewServer(answering(http.StatusOK, "<html>"))
	defer website.Close()
	for name, tc := range map[string]struct {
		args  []string
		usage bool
		want  string
	}{
		"a malformed pattern":    {[]string{"--topic", "a*"}, true, `--topic: topic pattern "a*": a * must be a whole segment`},
		"an empty workspace":     {[]string{"--workspace", ""}, true, "--workspace is empty"},
		"no URL":                 {[]string{"--forward-to", "localhost:3000"}, true, "must start with http:// or https://"},
		"an empty URL":           {[]string{"--forward-to", ""}, true, "must start with http:// or https://"},
		"no time":                {[]string{"--forward-to", "http://localhost", "--timeout", "0s"}, true, "--timeout 0s must be longer than 0"},
		"nobody there":           {[]string{"--address", "127.0.0.1:1"}, false, "no Caddy answers at 127.0.0.1:1"},
		"a Caddy that refuses":   {[]string{"--address", unavailable.Listener.Addr().String()}, false, "too many streams"},
		"another kind of server": {[]string{"--address", website.Listener.Addr().String()}, false, "is no stream of notifications"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := newListenCommand()
			cmd.SetContext(t.Context())
			cmd.SetErr(io.Discard)
			if err := cmd.ParseFlags(tc.args); err != nil {
				t.Fatal(err)
			}
			err := runListen(cmd.Context(), newRun(cmd), nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.As(err, new(usageError)) != tc.usage {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func TestListenNamesTheNearestTopic(t *testing.T) {
	l := newListening(t, []string{"{\"dropped\":1}\n"}, "--topic", "conversations.*")
	l.waitFor(t, "1 missed")
	l.end(t)
	if want := `--topic: topic pattern "conversations.*" fits no known topic: the nearest is conversation.*`; !strings.Contains(l.notices.String(), want) {
		t.Errorf("notices:\n%s", l.notices.String())
	}
}

func TestListenCompletesTopics(t *testing.T) {
	complete, there := newListenCommand().GetFlagCompletionFunc("topic")
	if !there {
		t.Fatal("no completion")
	}
	if topics, _ := complete(nil, nil, ""); len(topics) == 0 || topics[0] == "" {
		t.Errorf("completed %q", topics)
	}
}

func FuzzListenedLineIsSafeToPrint(f *testing.F) {
	f.Add("a", "b", "c", []byte(`{"a":1}`))
	f.Add("\x1b[2J", "\u009b", "\U000e0001\n", []byte("\xff\x07"))
	f.Fuzz(func(t *testing.T, topic, workspace, id string, body []byte) {
		line, err := json.Marshal(map[string]any{"topic": topic, "workspace": workspace, "id": id, "request": map[string]any{"body_base64": body}})
		if err != nil {
			return
		}
		for _, as := range []struct{ json, body bool }{{false, true}, {true, true}, {true, false}} {
			n := &listened{line: line}
			if err := json.Unmarshal(line, n); err != nil {
				return
			}
			text := n.text(as.json, as.body)
			for _, r := range text {
				if r != '\n' && unprintable(r) {
					t.Fatalf("printed %q", text)
				}
			}
			if as.json && strings.Count(text, "\n") != 1 {
				t.Fatalf("printed %q", text)
			}
		}
	})
}
