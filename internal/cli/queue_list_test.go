package cli

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestQueueList(t *testing.T) {
	inUTC(t)
	a := newFakeAdmin(t)
	a.addJobs(5)
	a.jobs[1] = `{"id":999,"topic":"x\u001b]0;y\u0007","workspace":"","lane":"\u009b","state":"retryable","attempt":1,"max_attempts":20,` +
		`"stored_at":"2026-11-25T07:00:00.5Z","reason":"line\nof ` + strings.Repeat("ä", 90) + `"}`
	r := a.queue(t, "list", "--limit", "3")
	wantText(t, "table", r.out, `
ID    STORED               TOPIC            WORKSPACE  LANE    STATE      ATTEMPT  REASON
1000  2026-11-25 08:00:00  contact.created  tulip4     crm     discarded  20/20    backend answered 502
999   2026-11-25 07:00:00  x\x1b]0;y\a      -          \u009b  retryable  1/20     line\nof `[1:]+strings.Repeat("ä", 71)+`…
998   2026-11-25 08:00:00  contact.created  tulip4     crm     discarded  20/20    backend answered 502
`)
	wantText(t, "notes", r.notes, "the newest 3 are listed; for more, see --limit\n")
	if got, want := a.asked(), []string{"GET jobs?limit=3", "GET jobs?cursor=2&limit=1"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}

	r = a.queue(t, "list", "--limit", "0", "--json")
	wantText(t, "lines", r.out, strings.Join(a.jobs, "\n")+"\n")
	wantText(t, "notes", r.notes, "")

	a.jobs = []string{"{\"id\":1,\"reason\":\"\u009b1m\"}"}
	wantText(t, "a line for a terminal", a.queue(t, "list", "--json").out, `{"id":1,"reason":"\u009b1m"}`+"\n")
}

func TestQueueListFilters(t *testing.T) {
	a := newFakeAdmin(t)
	a.addJobs(1)
	day := time.Date(2026, 11, 24, 14, 30, 0, 0, time.Local).Format(time.RFC3339)
	r := a.queue(t, "list", "--topic", "contact.*", "--workspace", "tulip4", "--lane", "crm", "--state", "completed,running",
		"--notification", "notif_1", "--id", "1,2", "--id", "3", "--since", "2026-11-24 14:30", "--until", "2h", "--error", "a&b", "--queue", "intercom")
	if r.err != nil {
		t.Fatal(r.err)
	}
	asked := a.asked()
	_, query, _ := strings.Cut(asked[len(asked)-1], "?")
	got, err := url.ParseQuery(query)
	wanted := url.Values{
		"topic": {"contact.*"}, "workspace": {"tulip4"}, "lane": {"crm"}, "state": {"completed", "running"}, "notification": {"notif_1"},
		"id": {"1", "2", "3"}, "since": {day}, "until": {"2h"}, "error": {"a&b"}, "queue": {"intercom"}, "limit": {"100"},
	}
	if err != nil || !maps.EqualFunc(got, wanted, slices.Equal) {
		t.Errorf("asked %v, want %v", got, wanted)
	}

	a.queue(t, "list", "--dead")
	if got, want := a.asked(), []string{"GET jobs?limit=100&state=discarded&state=cancelled"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func TestQueueWrongFilters(t *testing.T) {
	a := newFakeAdmin(t)
	for want, args := range map[string][]string{
		`state "discard": there is no such state; the states are available, running, retryable, completed, discarded and cancelled; did you mean discarded?`: {"--state", "discard"},
		"--dead is short for --state discarded,cancelled: give one of them":                                                                                  {"--dead", "--state", "running"},
		`lane "crn": there is no such lane; the lanes are crm and support; did you mean crm?`:                                                                {"--lane", "crn"},
		"--topic is empty: leave it out, or give it a value":                                                                                                 {"--topic", ""},
		`topic pattern "a*": a * must be a whole segment, as in conversation.*`:                                                                              {"--topic", "a*"},
		`--since "yesterday" must be a time as in "2026-11-25 14:30" or 2026-11-25T14:30:00Z, or how`:                                                        {"--since", "yesterday"},
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
		"contact.created": "no job fits",
		"contact.crated":  "the topic contact.crated is not known; the nearest are contact.created,",
		"conversaton.*":   "the pattern conversaton.* fits no known topic; the nearest is conversation.*",
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
		"an error":       {[]string{`{"id":1}`, `{"error":"the database is away"}`}, "the database is away"},
		"another type":   {[]string{`{"id":"one"}`}, "unknown form"},
		"not an object":  {[]string{`[1]`}, "unknown form"},
		"the same again": {[]string{`{"cursor":"c"}`}, "the same cursor twice"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newFakeAdmin(t)
			a.answers["GET jobs"] = test.lines
			wantError(t, a.queue(t, "list"), 1, test.want)
		})
	}
}

func TestParseTime(t *testing.T) {
	zone := time.FixedZone("", 2*60*60)
	now := time.Date(2026, 11, 25, 15, 0, 0, 0, zone)
	for text, want := range map[string]string{
		"2h": "2h", "3d": "3d", "0s": "0s",
		"2026-11-24T14:30:00Z": "2026-11-24T14:30:00Z",
		"2026-11-24 14:30:05":  "2026-11-24T14:30:05+02:00",
		"2026-11-24 14:30":     "2026-11-24T14:30:00+02:00",
		"2026-11-24":           "2026-11-24T00:00:00+02:00",
		"14:30":                "2026-11-25T14:30:00+02:00",
		"14:30:05":             "2026-11-25T14:30:05+02:00",
		"-2h":                  "", "": "", "24.11.2026": "", "2": "",
	} {
		if got, err := parseTime("since", text, now); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, error %v, want %q", text, got, err, want)
		}
	}
}
