package cli

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestQueueList(t *testing.T) {
	inUTC(t)
	a := newFakeAdmin(t)
	a.addDead(5)
	a.deliveries[1] = `{"id":4999,"number":999,"topic":"x\u001b]0;y\u0007","workspace":"","lane":"\u009b","state":"retrying","attempts":1,` +
		`"stored_at":"2026-11-25T07:00:00.5Z","due_at":"2026-11-25T08:30:00Z","error":"line\nof ` + strings.Repeat("ä", 90) + `"}`
	r := a.queue(t, "list", "--limit", "3")
	wantText(t, "table", r.out, `
NUMBER  STORED                TOPIC            WORKSPACE  LANE    STATE            ATTEMPTS  NEXT ATTEMPT          FINISHED              LAST ERROR
1000    2026-11-25T08:00:00Z  contact.created  tulip4     crm     dead (attempts)  20        -                     2026-11-25T09:00:00Z  backend answered 502
999     2026-11-25T07:00:00Z  x\x1b]0;y\a      -          \u009b  retrying         1         2026-11-25T08:30:00Z  -                     line\nof `[1:]+strings.Repeat("ä", 71)+`…
998     2026-11-25T08:00:00Z  contact.created  tulip4     crm     dead (attempts)  20        -                     2026-11-25T09:00:00Z  backend answered 502
`)
	wantText(t, "notes", r.notes, "the newest 3 are listed; for more, see --limit\n")
	if got, want := a.asked(), []string{"GET deliveries?limit=3", "GET deliveries?cursor=2&limit=1"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}

	wantText(t, "notes", a.queue(t, "list", "--limit", "3", "--oldest").notes, "the oldest 3 are listed; for more, see --limit\n")
	if got, want := a.asked()[0], "GET deliveries?limit=3&order=oldest"; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}

	r = a.queue(t, "list", "--limit", "0", "--json")
	wantText(t, "lines", r.out, strings.Join(a.deliveries, "\n")+"\n")
	wantText(t, "notes", r.notes, "")

	a.deliveries = []string{"{\"id\":1,\"error\":\"\u009b1m\"}"}
	wantText(t, "a line for a terminal", a.queue(t, "list", "--json").out, `{"id":1,"error":"\u009b1m"}`+"\n")
}

func TestQueueListFilters(t *testing.T) {
	a := newFakeAdmin(t)
	a.addDead(1)
	r := a.queue(t, "list", "--topic", "contact.*", "--workspace", "tulip4", "--lane", "crm", "--state", "delivered,dead", "--reason", "age",
		"--notification", "notif_1,2", "--notification", "3", "--object", "conversation:123", "--since", "2026-11-24T14:30:00+01:00", "--until", "2h", "--error", "a&b", "--endpoint", "intercom",
		"--status", "5xx,404", "--finished-since", "2026-11-30 07:19:51 UTC", "--finished-until", "1h")
	if r.err != nil {
		t.Fatal(r.err)
	}
	asked := a.asked()
	_, query, _ := strings.Cut(asked[len(asked)-1], "?")
	got, err := url.ParseQuery(query)
	wanted := url.Values{
		"topic": {"contact.*"}, "workspace": {"tulip4"}, "lane": {"crm"}, "state": {"delivered", "dead"}, "reason": {"age"}, "notification": {"notif_1", "2", "3"}, "object": {"conversation:123"},
		"since": {"2026-11-24T14:30:00+01:00"}, "until": {"2h"}, "error": {"a&b"}, "endpoint": {"intercom"}, "limit": {"100"},
		"status": {"5xx", "404"}, "finished_since": {"2026-11-30 07:19:51 UTC"}, "finished_until": {"1h"},
	}
	if err != nil || !maps.EqualFunc(got, wanted, slices.Equal) {
		t.Errorf("asked %v, want %v", got, wanted)
	}
}

func TestQueueWrongFilters(t *testing.T) {
	a := newFakeAdmin(t)
	for want, args := range map[string][]string{
		"--topic is empty: leave it out, or give it a value":             {"--topic", ""},
		"--state is empty: leave it out, or give it a value":             {"--state", ""},
		"--notification is empty: leave it out, or give it a value":      {"--notification", "a,,b"},
		"limit -1 must not be negative":                                  {"--limit", "-1"},
		"unknown flag: --topics: see 'caddy queue list --help'":          {"--topics", "x"},
		"got 1 argument: expecting 'caddy queue list': see 'caddy queue": {"x"},
		"error is refused": {"--error", "refused"}, // by the admin endpoint
	} {
		wantError(t, a.queue(t, append([]string{"list"}, args...)...), 2, want)
	}
}

func TestQueueListNothing(t *testing.T) {
	a := newFakeAdmin(t)
	for topic, note := range map[string]string{
		"contact.created": "no delivery fits",
		"contact.crated":  `topic "contact.crated" is not known: the nearest is contact.created`,
		"conversaton.*":   `topic pattern "conversaton.*" fits no known topic: the nearest is conversation.*`,
	} {
		if r := a.queue(t, "list", "--topic", topic); r.code != 0 || r.out != "" || !strings.HasPrefix(r.notes, note) {
			t.Errorf("%s: got exit code %d, %q, %q, want the note %q", topic, r.code, r.out, r.notes, note)
		}
	}
}

func TestQueueListBrokenAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		lines []string
		want  string
	}{
		"cut":            {[]string{`{"id":1}`, "cut"}, "ended early"},
		"an error":       {[]string{`{"id":1,"error":"of this delivery"}`, `{"error":"the database is \u001b[2Jaway"}`}, `the database is \x1b[2Jaway`},
		"another type":   {[]string{`{"id":"one"}`}, "unknown form"},
		"not an object":  {[]string{`[1]`}, "unknown form"},
		"the same again": {[]string{`{"cursor":"c"}`}, "the same cursor twice"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newFakeAdmin(t)
			a.answers["GET deliveries"] = test.lines
			wantError(t, a.queue(t, "list"), 1, test.want)
		})
	}
}
