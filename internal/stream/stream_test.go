package stream

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
)

func event(topic, workspace string) *Event {
	return &Event{Event: adminapi.Event{Topic: topic, Workspace: workspace}}
}

// subscribed opens a stream of b for a test.
func subscribed(t *testing.T, b *Broadcaster, s *Stream) *Stream {
	t.Helper()
	s.wake = make(chan struct{}, 1)
	if err := b.Subscribe(s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Unsubscribe(s) })
	return s
}

// drain returns the topics of what waits, and "-n" for n that were lost.
func drain(s *Stream) (got []string) {
	for entry, ok := s.next(); ok; entry, ok = s.next() {
		if entry.event == nil {
			line, _ := json.Marshal(entry.line())
			got = append(got, string(line))
		} else {
			got = append(got, entry.event.Topic)
		}
	}
	return got
}

func TestStreamFilters(t *testing.T) {
	for name, tc := range map[string]struct {
		stream *Stream
		want   string
	}{
		"all":                               {&Stream{}, "conversation.user.created contact.created ping"},
		"a topic":                           {&Stream{topics: []string{"ping"}}, "ping"},
		"a pattern":                         {&Stream{topics: []string{"conversation.*"}}, "conversation.user.created"},
		"several patterns":                  {&Stream{topics: []string{"conversation.*", "contact.*"}}, "conversation.user.created contact.created"},
		"a workspace":                       {&Stream{workspaces: []string{"b"}}, "contact.created"},
		"several workspaces":                {&Stream{workspaces: []string{"b", "a"}}, "conversation.user.created contact.created ping"},
		"both":                              {&Stream{topics: []string{"ping"}, workspaces: []string{"b"}}, ""},
		"requests, which were not captured": {&Stream{requests: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var b Broadcaster
			s := subscribed(t, &b, tc.stream)
			b.Publish(event("conversation.user.created", "a"))
			b.Publish(event("contact.created", "b"))
			b.Publish(event("ping", "a"))
			if got := strings.Join(drain(s), " "); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestStreamLosesWhatASlowReaderHasNoRoomFor(t *testing.T) {
	large := &Request{body: make([]byte, maxBytes/4)}
	for name, tc := range map[string]struct {
		stream *Stream
		sent   *Event
		room   int
	}{
		"by lines":                         {&Stream{}, event("a", ""), maxLines},
		"by bytes":                         {&Stream{requests: true}, &Event{Event: event("a", "").Event, Request: large}, 3},
		"by lines, if it wants no request": {&Stream{}, &Event{Event: event("a", "").Event, Request: large}, maxLines},
	} {
		t.Run(name, func(t *testing.T) {
			var b Broadcaster
			s := subscribed(t, &b, tc.stream)
			for range tc.room + 7 {
				b.Publish(tc.sent)
			}
			if entry, ok := s.next(); !ok || entry.event == nil {
				t.Fatalf("got %+v, %v", entry, ok)
			}
			last := *tc.sent
			last.Topic = "last"
			b.Publish(&last)
			got := drain(s)
			if want := tc.room + 1; len(got) != want || got[want-2] != `{"dropped":7}` || got[want-1] != "last" {
				t.Errorf("got %d entries, the last of them %q", len(got), got[max(0, len(got)-3):])
			}
			if s.bytes != 0 {
				t.Errorf("%d bytes of what is read are still counted", s.bytes)
			}

			for range tc.room + 5 {
				b.Publish(tc.sent)
			}
			if got := drain(s); len(got) != tc.room+1 || got[tc.room] != `{"dropped":5}` {
				t.Errorf("got %d entries, the last of them %q", len(got), got[len(got)-1])
			}
		})
	}
}

// A reader behind a tunnel that has stopped would wait for ever.
func TestAStreamGivesSignsOfLife(t *testing.T) {
	s, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.alive != 15*time.Second {
		t.Errorf("a sign of life each %s", s.alive)
	}
	s.alive = time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = s.Serve(r.Context(), w) }))
	defer server.Close()
	response, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	signs := make([]byte, 3)
	if _, err := io.ReadFull(response.Body, signs); err != nil || string(signs) != "\n\n\n" {
		t.Errorf("%q came (%v)", signs, err)
	}
	s.offer(event("a.b", "w"))
	var line struct{ Topic string }
	if err := json.NewDecoder(response.Body).Decode(&line); err != nil || line.Topic != "a.b" {
		t.Errorf("then came %+v (%v)", line, err)
	}
}

func TestStreamsAreLimited(t *testing.T) {
	var b Broadcaster
	for range maxStreams {
		subscribed(t, &b, new(Stream))
	}
	one := new(Stream)
	if err := b.Subscribe(one); !errors.Is(err, errTooManyStreams) {
		t.Errorf("error %v", err)
	}
	b.Unsubscribe(b.streams[0])
	subscribed(t, &b, one)
}

func TestCaptureOnlyWhatIsWanted(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/a?b=c", nil)
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: "192.0.2.7"}))
	r.Header.Set("X-Hub-Signature", "sha1=1")
	var b Broadcaster
	if b.Capture(r, envelope.Envelope{Topic: "a"}, nil, time.Now()) != nil {
		t.Error("captured without a stream")
	}
	subscribed(t, &b, new(Stream))
	subscribed(t, &b, &Stream{requests: true, topics: []string{"a"}, workspaces: []string{"w"}})
	for _, other := range []envelope.Envelope{{Topic: "b", AppID: "w"}, {Topic: "a", AppID: "v"}} {
		if b.Capture(r, other, nil, time.Now()) != nil {
			t.Errorf("captured %+v", other)
		}
	}
	body := []byte(`{"topic":"a"}`)
	got := b.Capture(r, envelope.Envelope{Topic: "a", AppID: "w"}, body, time.Unix(1, 0))
	if got == nil || &got.body[0] != &body[0] {
		t.Fatalf("captured %+v, or a copy of the body", got)
	}
	r.Header.Set("X-Hub-Signature", "changed")
	want := `{"method":"POST","uri":"/a?b=c","proto":"HTTP/1.1","host":"example.com","remote_addr":"192.0.2.1:1234","client_ip":"192.0.2.7",` +
		`"received_at":"1970-01-01T00:00:01Z","header":{"X-Hub-Signature":["sha1=1"]},"body":"{\"topic\":\"a\"}"}`
	if line, err := json.Marshal((&Event{Request: got}).line().Request); err != nil || string(line) != want {
		t.Errorf("error %v, got:\n%s\nwant:\n%s", err, line, want)
	}
}

func TestABodyThatIsNoTextIsBase64(t *testing.T) {
	for body, want := range map[string]string{
		"\xff":        `"body_base64":"/w=="}`,
		"":            `"body":""}`,
		"ü\x00\u2028": `"body":"ü\u0000\u2028"}`,
	} {
		line, err := json.Marshal((&Event{Request: &Request{body: []byte(body)}}).line().Request)
		if err != nil || !strings.HasSuffix(string(line), want) {
			t.Errorf("%q: error %v, got %s", body, err, line)
		}
	}
}

func BenchmarkStream(b *testing.B) {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	for _, name := range []string{"name", "value", "other", "X-Hub-Signature"} {
		r.Header.Set(name, "a value of a header")
	}
	body := make([]byte, 4<<10)
	now := time.Now()
	for name, streams := range map[string][]*Stream{
		"nobody listens":               nil,
		"one":                          {{}},
		"one with requests":            {{requests: true}},
		"one who reads nothing, of 16": append(make([]*Stream, 0, maxStreams), newStreams(maxStreams)...),
	} {
		b.Run(name, func(b *testing.B) {
			var all Broadcaster
			for _, s := range streams {
				if err := all.Subscribe(s); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				request := all.Capture(r, envelope.Envelope{Topic: "ping"}, body, now)
				if all.Listened() {
					all.Publish(&Event{Event: event("ping", "").Event, Request: request})
				}
			}
		})
	}
}

func newStreams(n int) []*Stream {
	streams := make([]*Stream, n)
	for i := range streams {
		streams[i] = new(Stream)
	}
	return streams
}
