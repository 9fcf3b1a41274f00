package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestQueueShow(t *testing.T) {
	inUTC(t)
	a := newFakeAdmin(t)
	a.answers["GET jobs/notif_1"] = []string{
		`{"id":17,"notification":"notif_1","topic":"contact.created","workspace":"tulip4","lane":"crm","queue":"intercom","state":"retryable",` +
			`"attempt":2,"max_attempts":20,"stored_at":"2026-11-25T08:00:00Z","next_attempt_at":"2026-11-25T08:00:30Z","reason":"x","attempts":[` +
			`{"attempt":1,"at":"2026-11-25T08:00:01Z","instance":"host-1","upstream":"10.0.0.1:9000","status":502,"seconds":0.0123,"error":"backend answered 502","answer":"<b>\u001b[31m\n"},` +
			`{"attempt":2,"at":"2026-11-25T08:00:02Z","instance":"host-1","upstream":"10.0.0.1:9000","seconds":4.5,"error":"timeout"},` +
			`{"error":"the stored record of this attempt cannot be decoded"}],` +
			`"request":{"method":"POST","uri":"/intercom","proto":"HTTP/1.1","host":"hooks.example.com","remote_addr":"34.197.76.213:443",` +
			`"received_at":"2026-11-25T08:00:00Z","header":{"X-B":["1\u0007","2"],"X-A":["3"]},"body":"{\"topic\":\"contact.created\",\"a\":\"\u009b\"}"}}`,
		`{"id":18,"topic":"contact.created","lane":"copy-x","queue":"intercom","to":"crm","state":"discarded","attempt":1,"max_attempts":1,"reason":"no\nroute",` +
			`"attempts":[],"request":{"method":"POST","body_base64":"AP8="}}`,
	}
	wantText(t, "report", a.queue(t, "show", "notif_1", "--headers", "--body").out, `
notification  notif_1
topic         contact.created
workspace     tulip4
job           17
queue         intercom
lane          crm
state         retryable, attempt 2 of 20
stored        2026-11-25 08:00:00
next attempt  2026-11-25 08:00:30
request       POST /intercom, host hooks.example.com, HTTP/1.1, from 34.197.76.213:443, 36 bytes

attempt 1, 2026-11-25 08:00:01, by host-1
  502 Bad Gateway from 10.0.0.1:9000 in 12.3ms
  error: backend answered 502
  answer: <b>\x1b[31m\n

attempt 2, 2026-11-25 08:00:02, by host-1
  no answer from 10.0.0.1:9000 in 4.5s
  error: timeout

attempt 0, at an unknown time
  error: the stored record of this attempt cannot be decoded

headers
  X-A: 3
  X-B: 1\a
  X-B: 2

body
{
  "topic": "contact.created",
  "a": "\u009b"
}

notification  (without id)
topic         contact.created
job           18
queue         intercom
lane          copy-x
sent to       crm
state         discarded, attempt 1 of 1
reason        no\nroute
request       POST , host , , from , 2 bytes

headers

body
\x00\xff
`[1:])
	if r := a.queue(t, "show", "notif_1"); strings.Contains(r.out, "X-A") || strings.Contains(r.out, `"topic"`) {
		t.Errorf("headers or body without being asked for:\n%s", r.out)
	}
	wantText(t, "lines", a.queue(t, "show", "notif_1", "--json").out, strings.Join(a.answers["GET jobs/notif_1"], "\n")+"\n")
}

func TestQueueShowUnknown(t *testing.T) {
	a := newFakeAdmin(t)
	for i := range 3 {
		a.jobs = append(a.jobs, fmt.Sprintf(`{"id":%d,"notification":"notif_%d4567890"}`, i, i))
	}
	wantError(t, a.queue(t, "show", "notif_24567891"), 1, "there is no such job; did you mean notif_24567890?")
	wantError(t, a.queue(t, "show", "notif_1"), 1, "there is no such job; did you mean notif_14567890?")
	wantError(t, a.queue(t, "show", ""), 2, "an argument is empty")
	if r := a.queue(t, "show", "a/../b?c"); r.code != 1 || strings.Contains(r.err.Error(), "did you mean") {
		t.Errorf("exit code %d, error %v", r.code, r.err)
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
