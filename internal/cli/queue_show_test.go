package cli

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

func TestQueueShow(t *testing.T) {
	inUTC(t)
	a := newFakeAdmin(t)
	a.answers["GET notifications/notif_1"] = []string{
		`{"id":17,"notification":"notif_1","number":7,"topic":"contact.created","workspace":"tulip4","lane":"crm","endpoint":"intercom","state":"retrying",` +
			`"attempts":2,"stored_at":"2026-11-25T08:00:00Z","due_at":"2026-11-25T08:00:30Z","error":"time\nout","history":[` +
			`{"at":"2026-11-25T08:00:01Z","instance":"host-1","upstream":"10.0.0.1:9000","status":502,"seconds":0.0123,"error":"backend answered 502","answer":"<b>\u001b[31m\n"},` +
			`{"at":"2026-11-25T08:00:02Z","instance":"host-1","upstream":"10.0.0.1:9000","seconds":4.5,"error":"timeout","answer_base64":"AP8="}],` +
			`"request":{"method":"POST","uri":"/intercom","proto":"HTTP/1.1","host":"hooks.example.com","remote_addr":"34.197.76.213:443",` +
			`"received_at":"2026-11-25T08:00:00Z","header":{"X-B":["1\u0007","2"],"X-A":["3"]},"body":"{\"topic\":\"contact.created\",\"a\":\"\u009b\"}"}}`,
		`{"id":18,"notification":"notif_1","number":7,"topic":"contact.created","workspace":"tulip4","lane":"copy-x","endpoint":"intercom","state":"delivered","attempts":1,` +
			`"stored_at":"2026-11-25T08:00:00Z","finished_at":"2026-11-25T08:00:01Z","upstream":"10.0.0.2:9000","status":200,"seconds":0.002,"history":[],` +
			`"request":{"method":"POST","header":{"X-B":["1\u0007","2"],"X-A":["3"]},"body":"{\"topic\":\"contact.created\",\"a\":\"\u009b\"}"}}`,
	}
	a.answers["GET notifications/8"] = []string{
		`{"id":19,"number":8,"topic":"contact.created","lane":"x","endpoint":"intercom","state":"dead","reason":"unrouted","attempts":1,"error":"no\nroute",` +
			`"history":[],"request":{"method":"POST","body_base64":"AP8="}}`,
	}
	wantText(t, "report", a.queue(t, "show", "notif_1", "--headers", "--body").out, `
notification  notif_1
number        7
topic         contact.created
workspace     tulip4
endpoint      intercom
stored        2026-11-25T08:00:00Z
request       POST /intercom, host hooks.example.com, HTTP/1.1, from 34.197.76.213:443, 36 bytes

lane          crm
state         retrying, 2 attempts
next attempt  2026-11-25T08:00:30Z
last error    time\nout

failed attempt, 2026-11-25T08:00:01Z, by host-1
  502 Bad Gateway from 10.0.0.1:9000 in 12.3ms
  error: backend answered 502
  answer: <b>\x1b[31m\n

failed attempt, 2026-11-25T08:00:02Z, by host-1
  no answer from 10.0.0.1:9000 in 4.5s
  error: timeout
  answer: \x00\xff

lane      copy-x
state     delivered, 1 attempt
finished  2026-11-25T08:00:01Z
answer    200 OK from 10.0.0.2:9000 in 2ms

headers
  X-A: 3
  X-B: 1\a
  X-B: 2

body
{
  "topic": "contact.created",
  "a": "\u009b"
}
`[1:])
	wantText(t, "report of one without an id", a.queue(t, "show", "8", "--body").out, `
notification  (without id)
number        8
topic         contact.created
endpoint      intercom
request       POST , host , , from , 2 bytes

lane        x
state       dead (unrouted), 1 attempt
last error  no\nroute

body
\x00\xff
`[1:])
	if r := a.queue(t, "show", "notif_1"); strings.Contains(r.out, "X-A") || strings.Contains(r.out, `"topic"`) {
		t.Errorf("headers or body without being asked for:\n%s", r.out)
	}
	wantText(t, "lines", a.queue(t, "show", "notif_1", "--json").out, strings.Join(a.answers["GET notifications/notif_1"], "\n")+"\n")
	a.queue(t, "show", "a/../b?c", "--endpoint", "intercom")
	if asked := a.asked(); asked[len(asked)-1] != "GET notifications/a/../b?c?endpoint=intercom" {
		t.Errorf("asked %q", asked)
	}
	wantError(t, a.queue(t, "show", "notif_2"), 1, "there is no such notification")
	wantError(t, a.queue(t, "show", ""), 2, "an argument is empty")
}

// Indenting multiplies the size of what is nested deeply by its depth.
func TestDeepJSONTakesBoundedMemory(t *testing.T) {
	deep := []byte(strings.Repeat("[", 9000) + strings.Repeat("1,", 9000) + "1" + strings.Repeat("]", 9000))
	for name, do := range map[string]func(){
		"show --body": func() {
			if got := prettyBody(deep); len(got) > len(deep)+4000 || !strings.HasPrefix(got, "[\n  [\n") {
				t.Errorf("%d bytes became %d", len(deep), len(got))
			}
		},
		"verify": func() { judge(deep, "sha1="+strings.Repeat("0", 40), []*signature.Key{signature.NewKey("k")}) },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do()
		runtime.ReadMemStats(&after)
		if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 64 {
			t.Errorf("%s of %d bytes took %d MiB", name, len(deep), mib)
		}
	}
}

func FuzzEscape(f *testing.F) {
	for _, seed := range []string{"plain", "\x1b[2J", "\x9b", "\xff\xfe", "ä\u009b\u202e", "\ufffd"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range escape(text) {
			if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 || r == '\u202e' {
				t.Errorf("%q becomes %q", text, escape(text))
			}
		}
		if json.Valid([]byte(text)) && strings.Count(prettyBody([]byte(text)), "\x1b") > 0 {
			t.Errorf("%q as a body has control characters", text)
		}
	})
}
