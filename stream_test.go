package intercomwebhook

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// subscribed opens a stream of b for a test.
func subscribed(t *testing.T, b *broadcaster, s *stream) *stream {
	t.Helper()
	if err := b.subscribe(s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.unsubscribe(s) })
	return s
}

// drain returns the topics of what waits, and "-n" for n that were lost.
func drain(s *stream) (got []string) {
	for entry, ok := s.next(); ok; entry, ok = s.next() {
		if entry.sighting == nil {
			line, _ := json.Marshal(entry.line())
			got = append(got, string(line))
		} else {
			got = append(got, entry.sighting.Topic)
		}
	}
	return got
}

func TestStreamFilters(t *testing.T) {
	for name, tc := range map[string]struct {
		stream *stream
		want   string
	}{
		"all":                               {&stream{}, "conversation.user.created contact.created ping"},
		"a topic":                           {&stream{topics: []string{"ping"}}, "ping"},
		"a pattern":                         {&stream{topics: []string{"conversation.*"}}, "conversation.user.created"},
		"several patterns":                  {&stream{topics: []string{"conversation.*", "contact.*"}}, "conversation.user.created contact.created"},
		"a workspace":                       {&stream{workspaces: []string{"b"}}, "contact.created"},
		"several workspaces":                {&stream{workspaces: []string{"b", "a"}}, "conversation.user.created contact.created ping"},
		"both":                              {&stream{topics: []string{"ping"}, workspaces: []string{"b"}}, ""},
		"requests, which were not captured": {&stream{requests: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var b broadcaster
			s := subscribed(t, &b, tc.stream)
			b.publish(&sighting{Topic: "conversation.user.created", Workspace: "a"})
			b.publish(&sighting{Topic: "contact.created", Workspace: "b"})
			b.publish(&sighting{Topic: "ping", Workspace: "a"})
			if got := strings.Join(drain(s), " "); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestStreamLosesWhatASlowReaderHasNoRoomFor(t *testing.T) {
	large := &seenRequest{body: make([]byte, maxStreamBytes/4)}
	for name, tc := range map[string]struct {
		stream *stream
		sent   sighting
		room   int
	}{
		"by lines":                         {&stream{}, sighting{Topic: "a"}, maxStreamLines},
		"by bytes":                         {&stream{requests: true}, sighting{Topic: "a", Request: large}, 3},
		"by lines, if it wants no request": {&stream{}, sighting{Topic: "a", Request: large}, maxStreamLines},
	} {
		t.Run(name, func(t *testing.T) {
			var b broadcaster
			s := subscribed(t, &b, tc.stream)
			for range tc.room + 7 {
				b.publish(&tc.sent)
			}
			if entry, ok := s.next(); !ok || entry.sighting == nil {
				t.Fatalf("got %+v, %v", entry, ok)
			}
			last := tc.sent
			last.Topic = "last"
			b.publish(&last)
			got := drain(s)
			if want := tc.room + 1; len(got) != want || got[want-2] != `{"dropped":7}` || got[want-1] != "last" {
				t.Errorf("got %d entries, the last of them %q", len(got), got[max(0, len(got)-3):])
			}
			if s.bytes != 0 {
				t.Errorf("%d bytes of what is read are still counted", s.bytes)
			}

			for range tc.room + 5 {
				b.publish(&tc.sent)
			}
			if got := drain(s); len(got) != tc.room+1 || got[tc.room] != `{"dropped":5}` {
				t.Errorf("got %d entries, the last of them %q", len(got), got[len(got)-1])
			}
		})
	}
}

func TestStreamsAreLimited(t *testing.T) {
	var b broadcaster
	for range maxStreams {
		subscribed(t, &b, new(stream))
	}
	one := new(stream)
	if err := b.subscribe(one); !errors.Is(err, errTooManyStreams) {
		t.Errorf("error %v", err)
	}
	b.unsubscribe(b.streams[0])
	subscribed(t, &b, one)
}

func TestCaptureOnlyWhatIsWanted(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/a?b=c", nil)
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: "192.0.2.7"}))
	r.Header.Set("X-Hub-Signature", "sha1=1")
	var b broadcaster
	if b.capture(r, envelope{topic: "a"}, nil, time.Now()) != nil {
		t.Error("captured without a stream")
	}
	subscribed(t, &b, new(stream))
	subscribed(t, &b, &stream{requests: true, topics: []string{"a"}, workspaces: []string{"w"}})
	for _, other := range []envelope{{topic: "b", appID: "w"}, {topic: "a", appID: "v"}} {
		if b.capture(r, other, nil, time.Now()) != nil {
			t.Errorf("captured %+v", other)
		}
	}
	body := []byte(`{"topic":"a"}`)
	got := b.capture(r, envelope{topic: "a", appID: "w"}, body, time.Unix(1, 0))
	if got == nil || &got.body[0] != &body[0] {
		t.Fatalf("captured %+v, or a copy of the body", got)
	}
	r.Header.Set("X-Hub-Signature", "changed")
	want := `{"method":"POST","uri":"/a?b=c","proto":"HTTP/1.1","host":"example.com","remote_addr":"192.0.2.1:1234","client_ip":"192.0.2.7",` +
		`"received_at":"1970-01-01T00:00:01Z","header":{"X-Hub-Signature":["sha1=1"]},"body":"{\"topic\":\"a\"}"}`
	if line, err := json.Marshal(got); err != nil || string(line) != want {
		t.Errorf("error %v, got:\n%s\nwant:\n%s", err, line, want)
	}
}

func TestABodyThatIsNoTextIsBase64(t *testing.T) {
	for body, want := range map[string]string{
		"\xff":        `"body_base64":"/w=="}`,
		"":            `"body":""}`,
		"ü\x00\u2028": `"body":"ü\u0000\u2028"}`,
	} {
		line, err := json.Marshal(&seenRequest{body: []byte(body)})
		if err != nil || !strings.HasSuffix(string(line), want) {
			t.Errorf("%q: error %v, got %s", body, err, line)
		}
	}
}

// What a notification costs more because others could listen.
func TestStreamsCostNothingWithoutListeners(t *testing.T) {
	h := &Handler{logger: zap.NewNop()}
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	body := []byte("{}")
	now := time.Now()
	observed := testing.AllocsPerRun(100, func() {
		tag := tag{envelope: envelope{topic: "ping"}}
		tag.request = notifications.capture(r, tag.envelope, body, now)
		h.observe(&tag, outcomeQueued, http.StatusOK, now, now)
	})
	if observed > 0 {
		t.Errorf("%v allocations", observed)
	}
}

func BenchmarkStream(b *testing.B) {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	for _, name := range []string{"name", "value", "other", "X-Hub-Signature"} {
		r.Header.Set(name, "a value of a header")
	}
	body := make([]byte, 4<<10)
	now := time.Now()
	for name, streams := range map[string][]*stream{
		"nobody listens":               nil,
		"one":                          {{}},
		"one with requests":            {{requests: true}},
		"one who reads nothing, of 16": append(make([]*stream, 0, maxStreams), newStreams(maxStreams)...),
	} {
		b.Run(name, func(b *testing.B) {
			var all broadcaster
			for _, s := range streams {
				if err := all.subscribe(s); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				request := all.capture(r, envelope{topic: "ping"}, body, now)
				if all.listened() {
					all.publish(&sighting{Topic: "ping", Request: request})
				}
			}
		})
	}
}

func newStreams(n int) []*stream {
	streams := make([]*stream, n)
	for i := range streams {
		streams[i] = new(stream)
	}
	return streams
}
