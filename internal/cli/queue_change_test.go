package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestQueueChangeAsks(t *testing.T) {
	a := newFakeAdmin(t)
	a.addJobs(3)
	a.jobs[1] = `{"id":2,"topic":"a\u001bb","lane":"support","state":"cancelled"}`
	preview := `
3 jobs to retry
JOBS  TOPIC            LANE     STATE
2     contact.created  crm      discarded
1     a\x1bb           support  cancelled
`[1:]

	wantError(t, a.queue(t, "retry"), 2, "nothing is selected: give ids or filters")
	wantError(t, a.queue(t, "retry", "--dead"), 2, "there is no terminal to ask on: give --yes to retry without a question, or --dry-run")
	wantText(t, "dry run", a.queue(t, "retry", "--dead", "--dry-run").out, preview)
	for _, asked := range a.asked() {
		if strings.HasPrefix(asked, "POST") && !strings.Contains(asked, "dry_run=true") {
			t.Errorf("changed something: %s", asked)
		}
	}

	onTerminal(t)
	r := a.queueFrom(t, strings.NewReader("y\n"), "retry", "--since", "2h", "--rate", "2.5", "--to", "crm")
	wantText(t, "yes", r.out, preview+"retried 3 jobs\n")
	if !strings.HasPrefix(r.notes, "Retry 3 jobs to lane crm? [y/N] \r\x1b[Kretried 0 of 3 (0%)\r\x1b[Kretried 3 of 3 (100%)\r\x1b[K") {
		t.Errorf("yes: notes %q", r.notes)
	}
	if got, want := a.asked(), []string{
		"GET lanes",
		"POST jobs/retry?dry_run=true&since=2h&state=discarded&state=cancelled",
		"GET jobs?limit=1000&since=2h&state=discarded&state=cancelled",
		"GET jobs?cursor=2&limit=1000&since=2h&state=discarded&state=cancelled",
		"POST jobs/retry?rate=2.5&since=2h&state=discarded&state=cancelled&to=crm",
	}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	for _, answer := range []string{"n\n", "\n", "", "yep\n"} {
		r := a.queueFrom(t, strings.NewReader(answer), "retry", "--dead")
		wantError(t, r, 1, "nothing was changed")
	}
}

func TestQueueChangeRequests(t *testing.T) {
	a := newFakeAdmin(t)
	a.addJobs(1)
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"retry":             {[]string{"retry", "--lane", "crm"}, []string{"GET lanes", "POST jobs/retry?lane=crm&state=discarded&state=cancelled"}},
		"resend":            {[]string{"resend", "--topic", "contact.*"}, []string{"POST jobs/resend?state=completed&topic=contact.%2A"}},
		"drop":              {[]string{"drop", "--dead"}, []string{"POST jobs/drop?state=discarded&state=cancelled"}},
		"drop other states": {[]string{"drop", "--state", "retryable"}, []string{"POST jobs/drop?state=retryable"}},
		"erase":             {[]string{"erase", "--workspace", "tulip4", "--queue", "intercom"}, []string{"POST jobs/erase?queue=intercom&workspace=tulip4"}},
		"ids": {[]string{"retry", "notif_1", "17"}, []string{
			"POST jobs/retry?notification=notif_1&state=retryable&state=discarded&state=cancelled",
			"POST jobs/retry?id=17&state=retryable&state=discarded&state=cancelled",
		}},
		"a cursor":      {[]string{"drop", "--dead", "--cursor", "c7-9"}, []string{"POST jobs/drop?cursor=c7-9&state=discarded&state=cancelled"}},
		"an id by flag": {[]string{"resend", "--id", "1,2"}, []string{"POST jobs/resend?id=1&id=2&state=completed"}},
	} {
		t.Run(name, func(t *testing.T) {
			a.asked()
			if r := a.queue(t, append(test.args, "--yes")...); r.err != nil {
				t.Error(r.err)
			}
			if got := a.asked(); !slices.Equal(got, test.want) {
				t.Errorf("asked %q, want %q", got, test.want)
			}
		})
	}
}

func TestQueueChangeWrongUse(t *testing.T) {
	a := newFakeAdmin(t)
	for want, args := range map[string][]string{
		"nothing is selected":                    {"retry", "--yes"},
		"nothing is selected: ":                  {"erase", "--yes", "--queue", "intercom"},
		"ids are given as arguments and with ":   {"retry", "1", "--id", "2", "--yes"},
		"--cursor is for a selection by filters": {"retry", "1", "--cursor", "c1-2", "--yes"},
		"did you mean crm?":                      {"retry", "--dead", "--to", "crn", "--yes"},
		"--to is empty":                          {"retry", "--dead", "--to", "", "--yes"},
		"--id is empty: leave it out":            {"drop", "--dead", "--id", "", "--yes"},
		"--state is empty: leave it out":         {"drop", "--lane", "crm", "--state", "", "--yes"},
		"--state is empty":                       {"drop", "--dead", "--state", "", "--yes"},
		"--cursor is empty":                      {"drop", "--dead", "--cursor", "", "--yes"},
		"an argument is empty":                   {"drop", "1", "", "--yes"},
		"rate -1 must not be negative":           {"retry", "--dead", "--rate", "-1", "--yes"},
		"unknown flag: --to":                     {"drop", "--dead", "--to", "crm", "--yes"},
	} {
		wantError(t, a.queue(t, args...), 2, want)
	}
	for _, asked := range a.asked() {
		if strings.HasPrefix(asked, "POST") {
			t.Errorf("changed something: %s", asked)
		}
	}
}

func TestQueueChangeReports(t *testing.T) {
	a := newFakeAdmin(t)
	a.answers["POST jobs/erase"] = []string{`{"done":1,"total":4}`, `{"done":2,"total":4,"skipped":2,"note":"replicas keep\u001b it"}`}
	r := a.queue(t, "erase", "--workspace", "w", "--yes")
	wantText(t, "output", r.out, "erased 2 jobs, skipped 2: running now, or gone\nreplicas keep\\x1b it\n")
	wantText(t, "notes", r.notes, "")
	wantText(t, "lines", a.queue(t, "erase", "--workspace", "w", "--yes", "--json").out, strings.Join(a.answers["POST jobs/erase"], "\n")+"\n")
	a.answers["POST jobs/erase"] = []string{`{"done":1,"total":2,"skipped":1,"running":1,"note":"replicas keep it"}`}
	r = a.queue(t, "erase", "--workspace", "w", "--yes")
	wantText(t, "output of an incomplete erasure", r.out, "erased 1 job, skipped 1: running now, or gone\nreplicas keep it\n")
	wantError(t, r, 1, "not erased, as they are still being delivered: 1 job: run the command again")
	wantText(t, "lines of a dry run", a.queue(t, "drop", "--dead", "--dry-run", "--json").out, `{"done":0,"total":0}`+"\n")

	for name, test := range map[string]struct {
		lines []string
		want  string
	}{
		"an error on the way": {[]string{`{"done":1,"total":4}`, `{"error":"the disk is full","cursor":"c7-9","done":3,"total":4}`}, "3 of 4 jobs are erased, then: the disk is full (to go on: --cursor c7-9)"},
		"cut":                 {[]string{`{"done":1,"total":4}`, "cut"}, "1 of 4 jobs are erased, then: the answer of the Caddy at "},
		"cut at once":         {[]string{"cut"}, "ended early"},
	} {
		t.Run(name, func(t *testing.T) {
			a.answers["POST jobs/erase"] = test.lines
			wantError(t, a.queue(t, "erase", "--workspace", "w", "--yes"), 1, test.want)
		})
	}
}

func TestQueueChangeOfNothing(t *testing.T) {
	a := newFakeAdmin(t)
	wantText(t, "dry run", a.queue(t, "retry", "--dead", "--dry-run").out, "there is nothing to retry: no job fits\n")
	r := a.queue(t, "drop", "--topic", "contact.crated", "--dry-run")
	if !strings.HasPrefix(r.out, "there is nothing to drop: the topic contact.crated is not known; the nearest are contact.created") {
		t.Errorf("got %q", r.out)
	}
	a.answers["POST jobs/erase"] = []string{`{"done":0,"total":0,"skipped":0,"note":"the file no longer has them"}`}
	wantText(t, "nothing to erase", a.queue(t, "erase", "--workspace", "w", "--yes").out, "there is nothing to erase: no job fits\n")
	wantText(t, "the end of an erasure", a.queue(t, "erase", "--workspace", "w", "--yes", "--cursor", "c7-9").out, "erased 0 jobs\nthe file no longer has them\n")
	for _, flag := range []string{"--yes", "--dry-run"} {
		wantError(t, a.queue(t, "resend", "notif_1", flag), 1, "notif_1: there is no such job in a state that is selected (completed): see")
		wantError(t, a.queue(t, "erase", "notif_1", flag), 1, "notif_1: there is no such job in any state")
	}
}

func TestQueueChangeGoesOnAfterAnUnknownID(t *testing.T) {
	known := newFakeAdmin(t)
	known.addJobs(1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := r.URL.Query().Get("id"); id == "2" || id == "4" {
			fmt.Fprintln(w, `{"done":0,"total":0,"skipped":0}`)
			return
		}
		known.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	a := &fakeAdmin{address: server.Listener.Addr().String()}
	r := a.queue(t, "drop", "1", "2", "3", "4", "--yes")
	wantText(t, "output", r.out, "dropped 2 jobs\n")
	wantError(t, r, 1, "2: there is no such job")
	wantError(t, r, 1, "4: there is no such job")
}

func TestQueueChangeOfUnknownID(t *testing.T) {
	a := newFakeAdmin(t)
	a.jobs = []string{`{"id":1,"notification":"notif_14567890"}`}
	a.answers["POST jobs/drop"] = []string{`{"done":0,"total":0,"skipped":0}`}
	for _, flag := range []string{"--yes", "--dry-run"} {
		wantError(t, a.queue(t, "drop", "notif_14567891", flag), 1, "queue show notif_14567891'; did you mean notif_14567890?")
	}
	if r := a.queue(t, "drop", "notif_14567890", "--yes"); r.code != 1 || strings.Contains(r.err.Error(), "did you mean") {
		t.Errorf("one in another state: exit code %d, error %v", r.code, r.err)
	}
}

func TestQueuePreviewOfMany(t *testing.T) {
	a := newFakeAdmin(t)
	for i := range 30 {
		a.jobs = append(a.jobs, `{"id":1,"topic":"topic.`+strings.Repeat("x", i+1)+`","lane":"crm","state":"discarded"}`)
	}
	a.answers["POST jobs/drop"] = []string{`{"done":0,"total":100000}`}
	r := a.queue(t, "drop", "--dead", "--dry-run")
	lines := strings.Split(r.out, "\n")
	if lines[0] != "100,000 jobs to drop, of the newest 30 these" || len(lines) != 1+1+20+1+1+1 ||
		strings.Join(strings.Fields(lines[22]), " ") != "… 10 more groups" || lines[23] != "This cannot be undone." {
		t.Errorf("got:\n%s", r.out)
	}
}

func TestConfirmCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in, out := io.Pipe()
	defer out.Close()
	cancel()
	if ok, err := confirm(ctx, in, io.Discard, "Go on?"); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("got %t, error %v", ok, err)
	}
}

func TestProgressEstimates(t *testing.T) {
	onTerminal(t)
	var out strings.Builder
	p := newProgress(&out, "retried")
	p.start = time.Now().Add(-time.Minute)
	p.show(1000, 4000)
	wantText(t, "line", out.String(), "\r\x1b[Kretried 1,000 of 4,000 (25%), about 3m0s left")
}

func TestQueueChangeInterrupted(t *testing.T) {
	a := newFakeAdmin(t)
	a.answers["POST jobs/retry"] = []string{`{"done":2,"total":9}`, "hang"}
	a.answers["GET jobs"] = []string{`{"id":1}`, "hang"}
	for want, args := range map[string][]string{
		"stopped: at least 2 of 9 jobs are retried, the others are as they were": {"retry", "--dead", "--yes", "--json"},
		"interrupted": {"list", "--json"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		root := a.command(args...)
		root.SetOut(writerFunc(func(line []byte) (int, error) {
			cancel()
			return len(line), nil
		}))
		if err := root.ExecuteContext(ctx); err == nil || err.Error() != want || exitCode(err) != 1 {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
