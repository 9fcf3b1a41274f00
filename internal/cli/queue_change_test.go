package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestQueueChangeAsks(t *testing.T) {
	a := newFakeAdmin(t)
	a.addDead(3)
	wantError(t, a.queue(t, "retry"), 2, "nothing is selected: give ids or filters")
	wantError(t, a.queue(t, "retry", "--state", "dead"), 2, "there is no terminal to ask on: give --yes to retry without a question, or --dry-run")
	wantText(t, "dry run", a.queue(t, "retry", "--state", "dead", "--dry-run").out, "3 deliveries to retry\n")
	for _, asked := range a.asked() {
		if strings.HasPrefix(asked, "POST") && !strings.Contains(asked, "dry_run=true") {
			t.Errorf("changed something: %s", asked)
		}
	}

	onTerminal(t)
	r := a.queueFrom(t, strings.NewReader("y\n"), "retry", "--since", "2h", "--rate", "2.5", "--to", "crm")
	wantText(t, "yes", r.out, "3 deliveries to retry\nsent 3 deliveries to lane crm\n")
	if !strings.HasPrefix(r.notes, "Retry 3 deliveries to lane crm? [y/N] \r\x1b[Ksent 0 of 3 (0%)\r\x1b[Ksent 3 of 3 (100%)\r\x1b[K") {
		t.Errorf("yes: notes %q", r.notes)
	}
	if got, want := a.asked(), []string{
		"POST deliveries/retry?dry_run=true&since=2h",
		"POST deliveries/retry?rate=2.5&since=2h&to=crm",
	}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	for _, answer := range []string{"n\n", "\n", "", "yep\n"} {
		r := a.queueFrom(t, strings.NewReader(answer), "drop", "--state", "dead")
		wantError(t, r, 1, "nothing was changed")
		wantText(t, "warning", r.out, "3 deliveries to drop\nThis cannot be undone.\n")
	}
	r = a.queueFrom(t, strings.NewReader("n\n"), "erase", "--workspace", "w", "--vacuum")
	if !strings.Contains(r.out, "Until it is done, no notification can be stored: Intercom gets 503") || !strings.Contains(r.out, "depends on the size") {
		t.Errorf("--vacuum asks with %q", r.out)
	}
}

func TestQueueChangeRequests(t *testing.T) {
	a := newFakeAdmin(t)
	a.addDead(1)
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"retry":             {[]string{"retry", "--lane", "crm"}, []string{"POST deliveries/retry?lane=crm"}},
		"resend":            {[]string{"resend", "--topic", "contact.*"}, []string{"POST deliveries/resend?topic=contact.%2A"}},
		"drop":              {[]string{"drop", "--reason", "age"}, []string{"POST deliveries/drop?reason=age"}},
		"drop other states": {[]string{"drop", "--state", "retrying"}, []string{"POST deliveries/drop?state=retrying"}},
		"erase":             {[]string{"erase", "--workspace", "tulip4", "--endpoint", "intercom"}, []string{"POST deliveries/erase?endpoint=intercom&workspace=tulip4"}},
		"erase all of it":   {[]string{"erase", "--workspace", "tulip4", "--vacuum"}, []string{"POST deliveries/erase?whole=true&workspace=tulip4"}},
		"ids in one request": {[]string{"retry", "notif_1000", "1000"}, []string{
			"GET deliveries?limit=1000&notification=notif_1000&notification=1000",
			"POST deliveries/retry?notification=notif_1000&notification=1000",
		}},
		"ids of which some may be changed": {[]string{"erase", "notif_1", "--cursor", "c7-9"}, []string{"POST deliveries/erase?cursor=c7-9&notification=notif_1"}},
		"a cursor":                         {[]string{"drop", "--state", "dead", "--cursor", "c7-9"}, []string{"POST deliveries/drop?cursor=c7-9&state=dead"}},
		"an id by flag": {[]string{"resend", "--notification", "notif_1000"}, []string{
			"GET deliveries?limit=1000&notification=notif_1000", "POST deliveries/resend?notification=notif_1000",
		}},
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
		"nothing is selected":            {"retry", "--yes"},
		"nothing is selected: ":          {"erase", "--yes", "--endpoint", "intercom"},
		"--to is empty":                  {"retry", "--state", "dead", "--to", "", "--yes"},
		"--notification is empty: leave": {"drop", "--state", "dead", "--notification", "", "--yes"},
		"--state is empty: leave it out": {"drop", "--lane", "crm", "--state", "", "--yes"},
		"--cursor is empty":              {"drop", "--state", "dead", "--cursor", "", "--yes"},
		"an argument is empty":           {"drop", "1", "", "--yes"},
		"rate -1 must not be negative":   {"retry", "--state", "dead", "--rate", "-1", "--yes"},
		"unknown flag: --to":             {"drop", "--state", "dead", "--to", "crm", "--yes"},
		"unknown flag: --vacuum":         {"drop", "--state", "dead", "--vacuum", "--yes"},
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
	a.answers["POST deliveries/erase"] = []string{`{"done":1,"total":4}`, `{"done":2,"total":4,"skipped":2,"note":"replicas keep\u001b it"}`}
	r := a.queue(t, "erase", "--workspace", "w", "--yes")
	wantText(t, "output", r.out, "erased 2 deliveries, skipped 2: changed meanwhile\nreplicas keep\\x1b it\n")
	wantText(t, "notes", r.notes, "")
	a.answers["POST deliveries/retry"] = []string{`{"done":0,"total":1,"skipped":1}`}
	wantText(t, "output", a.queue(t, "retry", "--state", "waiting", "--yes").out, "retried 0 deliveries, skipped 1: changed meanwhile, or waiting already\n")
	wantText(t, "lines", a.queue(t, "erase", "--workspace", "w", "--yes", "--json").out, strings.Join(a.answers["POST deliveries/erase"], "\n")+"\n")
	wantText(t, "lines of a dry run", a.queue(t, "drop", "--state", "dead", "--dry-run", "--json").out, `{"done":0,"total":0}`+"\n")

	for name, test := range map[string]struct {
		lines []string
		want  string
	}{
		"an error on the way": {[]string{`{"done":1,"total":4}`, `{"error":"the disk is full","cursor":"c7-9","done":3,"total":4}`}, "3 of 4 deliveries are erased, then: the disk is full (to go on: --cursor c7-9)"},
		"cut":                 {[]string{`{"done":1,"total":4}`, "cut"}, "1 of 4 deliveries are erased, then: the answer of the Caddy at "},
		"cut at once":         {[]string{"cut"}, "ended early"},
	} {
		t.Run(name, func(t *testing.T) {
			a.answers["POST deliveries/erase"] = test.lines
			wantError(t, a.queue(t, "erase", "--workspace", "w", "--yes"), 1, test.want)
		})
	}
}

func TestQueueChangeOfNothing(t *testing.T) {
	a := newFakeAdmin(t)
	wantText(t, "dry run", a.queue(t, "retry", "--state", "dead", "--dry-run").out, "there is nothing to retry: no delivery fits\n")
	r := a.queue(t, "drop", "--topic", "contact.crated", "--dry-run")
	if !strings.HasPrefix(r.out, `there is nothing to drop: topic "contact.crated" is not known: the nearest is contact.created`) {
		t.Errorf("got %q", r.out)
	}
	a.answers["POST deliveries/erase"] = []string{`{"done":0,"total":0,"skipped":0,"note":"the file no longer has them"}`}
	wantText(t, "nothing to erase", a.queue(t, "erase", "--workspace", "w", "--yes").out, "there is nothing to erase: no delivery fits\n")
	wantText(t, "the end of an erasure", a.queue(t, "erase", "--workspace", "w", "--yes", "--cursor", "c7-9").out, "erased 0 deliveries\nthe file no longer has them\n")
	for _, flag := range []string{"--yes", "--dry-run"} {
		if r := a.queue(t, "erase", "notif_1", flag); r.code != 1 || r.err.Error() != "notif_1: there is no such notification" {
			t.Errorf("an unknown id: exit code %d, error %v", r.code, r.err)
		}
	}
	a.addDead(1)
	a.answers["POST deliveries/resend"] = []string{`{"done":0,"total":0}`}
	for _, flag := range []string{"--yes", "--dry-run"} {
		wantError(t, a.queue(t, "resend", "notif_1000", flag), 1, "there is nothing to resend: no delivery fits; see 'caddy intercom-webhook queue show'")
	}
}

// An id that is misspelled does not keep the others from being changed, and is not passed over.
func TestQueueChangeGoesOnAfterAnUnknownID(t *testing.T) {
	a := newFakeAdmin(t)
	a.addDead(2)
	r := a.queue(t, "drop", "1000", "2", "notif_999", "notif_4", "--yes")
	wantText(t, "output", r.out, "dropped 2 deliveries\n")
	wantError(t, r, 1, "2: there is no such notification")
	wantError(t, r, 1, "notif_4: there is no such notification")
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
	a.answers["POST deliveries/retry"] = []string{`{"done":2,"total":9}`, "hang"}
	a.answers["GET deliveries"] = []string{`{"id":1}`, "hang"}
	for want, args := range map[string][]string{
		"stopped: at least 2 of 9 deliveries are retried, the others are as they were": {"retry", "--state", "dead", "--yes", "--json"},
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

// Caddy's admin endpoint refuses requests whose head is larger than 64 KiB.
func TestManyIDsAreOneRequest(t *testing.T) {
	a := newFakeAdmin(t)
	a.addDead(3)
	args := []string{"erase", "--yes", "notif_1000"}
	for n := range 4999 {
		args = append(args, fmt.Sprintf("notif_7abb5892-6a59-4e22-8d36-%012d", n))
	}
	r := a.queue(t, args...)
	wantText(t, "summary", r.out, "erased 3 deliveries\n")
	posts := 0
	for _, request := range a.asked() {
		if strings.HasPrefix(request, "POST deliveries/erase?") && strings.Count(request, "notification=notif_") == 5000 {
			posts++
		}
	}
	if posts != 1 {
		t.Errorf("%d requests erase all of them, want one", posts)
	}
}
