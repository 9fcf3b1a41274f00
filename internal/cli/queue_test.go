package cli

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// fakeAdmin is an admin endpoint with a queue, which keeps the requests that it gets.
type fakeAdmin struct {
	address    string
	lanes      []string            // lines
	deliveries []string            // lines, the newest first
	answers    map[string][]string // lines of the answer by method and path, in place of its own
	noAddress  bool                // the command asks no admin endpoint

	mu       sync.Mutex
	requests []string // method, path and sorted query
}

func newFakeAdmin(t *testing.T) *fakeAdmin {
	t.Helper()
	a := &fakeAdmin{
		lanes: []string{
			`{"endpoint":"intercom","lane":"support","kind":"route","state":"active","workers":16,"deliveries":{"waiting":1200,"delivering":1},"oldest_seconds":3.2}`,
			`{"endpoint":"intercom","lane":"crm","kind":"copy","state":"down","workers":4,"deliveries":{"retrying":7,"dead":3},"oldest_seconds":7200}`,
		},
		answers: make(map[string][]string),
	}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.address = server.Listener.Addr().String()
	return a
}

func (a *fakeAdmin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = r.ParseForm() // many parameters come in the body
	query := r.Form
	if len(r.RequestURI) > 32<<10 {
		w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge) // as Caddy does above 64 KiB
		return
	}
	path, inside := strings.CutPrefix(r.URL.Path, "/intercom_webhook/")
	a.requests = append(a.requests, strings.TrimSuffix(r.Method+" "+path+"?"+query.Encode(), "?"))
	if !inside {
		http.NotFound(w, r)
		return
	}
	lines, known := a.answers[r.Method+" "+path]
	switch {
	case known:
	case query.Get("error") == "refused":
		w.WriteHeader(http.StatusBadRequest)
		lines = []string{`{"error":"error is refused"}`}
	case path == "lanes":
		lines = a.lanes
	case path == "deliveries":
		lines = a.page(query)
	case r.Method == http.MethodPost && strings.HasPrefix(path, "deliveries/"):
		total := len(a.deliveries)
		lines = []string{fmt.Sprintf(`{"done":0,"total":%d}`, total), fmt.Sprintf(`{"done":%d,"total":%d,"skipped":0}`, total, total)}
		if query.Get("dry_run") == "true" {
			lines = lines[:1]
		}
	default:
		w.WriteHeader(http.StatusNotFound)
		lines = []string{`{"error":"there is no such notification"}`}
	}
	for _, line := range lines {
		switch line {
		case "cut":
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "hang":
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			fmt.Fprintln(w, line)
		}
	}
}

// page returns at most two deliveries, however many are wanted, and a cursor.
func (a *fakeAdmin) page(query url.Values) []string {
	from, _ := strconv.Atoi(query.Get("cursor"))
	limit, _ := strconv.Atoi(query.Get("limit"))
	to := min(from+min(limit, 2), len(a.deliveries))
	lines := slices.Clone(a.deliveries[from:to])
	if to < len(a.deliveries) {
		lines = append(lines, fmt.Sprintf(`{"cursor":"%d"}`, to))
	}
	return lines
}

// addDead adds dead letters, of which the first is the newest.
func (a *fakeAdmin) addDead(n int) {
	for i := range n {
		a.deliveries = append(a.deliveries, fmt.Sprintf(`{"id":%d,"notification":"notif_%d","number":%d,"topic":"contact.created","workspace":"tulip4","lane":"crm",`+
			`"endpoint":"intercom","state":"dead","reason":"attempts","attempts":20,"stored_at":"2026-11-25T08:00:00Z","finished_at":"2026-11-25T09:00:00Z","error":"backend answered 502"}`,
			5000-i, 1000-i, 1000-i))
	}
}

// asked returns the requests since it was called last.
func (a *fakeAdmin) asked() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	requests := a.requests
	a.requests = nil
	return requests
}

// ran is what a command printed, and how it ended.
type ran struct {
	out, notes string
	code       int
	err        error
}

// queue runs "caddy intercom-webhook queue" with arguments.
func (a *fakeAdmin) queue(t *testing.T, args ...string) ran {
	t.Helper()
	return a.queueFrom(t, strings.NewReader(""), args...)
}

func (a *fakeAdmin) queueFrom(t *testing.T, in io.Reader, args ...string) ran {
	t.Helper()
	root := a.command(args...)
	var out, notes bytes.Buffer
	root.SetIn(in)
	root.SetOut(&out)
	root.SetErr(&notes)
	err := root.ExecuteContext(t.Context())
	return ran{out.String(), notes.String(), exitCode(err), err}
}

func (a *fakeAdmin) command(args ...string) *cobra.Command {
	root := &cobra.Command{Use: "caddy", SilenceUsage: true, SilenceErrors: true}
	AddCommands(root)
	if a.noAddress {
		root.SetArgs(append([]string{"queue"}, args...))
	} else {
		root.SetArgs(append([]string{"queue", args[0], "--address", a.address}, args[1:]...))
	}
	return root
}

// inUTC has the test print local times in UTC.
func inUTC(t *testing.T) {
	t.Helper()
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
}

// onTerminal has commands find a terminal wherever they look for one.
func onTerminal(t *testing.T) {
	t.Helper()
	before := isTerminal
	isTerminal = func(any) bool { return true }
	t.Cleanup(func() { isTerminal = before })
}

func wantText(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

func wantError(t *testing.T, r ran, code int, text string) {
	t.Helper()
	if r.code != code || r.err == nil || !strings.Contains(r.err.Error(), text) {
		t.Errorf("got exit code %d and error %v, want %d and %q", r.code, r.err, code, text)
	}
}

func TestQueueStatus(t *testing.T) {
	inUTC(t)
	a := newFakeAdmin(t)
	r := a.queue(t, "status")
	wantText(t, "table", r.out, `
LANE     KIND   STATE   WORKERS  WAITING  DELIVERING  RETRYING  DEAD  OLDEST
support  route  active  16       1,200    1           0         0     3s
crm      copy   down    4        0        0           7         3     2h0m0s
total    -      -       -        1,200    1           7         3     2h0m0s
`[1:])
	if r.code != 0 {
		t.Errorf("exit code %d without --check", r.code)
	}
	wantText(t, "lines", a.queue(t, "status", "--json").out, strings.Join(a.lanes, "\n")+"\n")
	if r = a.queue(t, "status", "--check"); r.code != 0 {
		t.Errorf("exit code %d for a copy that is down", r.code)
	}
	for _, state := range []string{"down", "paused"} {
		a.answers["GET lanes"] = append(a.lanes[:1:1], strings.NewReplacer("copy", "route", "down", state).Replace(a.lanes[1]))
		wantError(t, a.queue(t, "status", "--check"), 1, "lane "+state+": crm; 3 dead letters: see 'caddy intercom-webhook queue list --state dead'")
	}

	a.answers["GET lanes"] = []string{strings.TrimSuffix(a.lanes[0], "}") + `,"held_back":{"objects":12,"oldest_seconds":240,"by":"notif_1\u001b"}}`, a.lanes[1]}
	_, heldBack, _ := strings.Cut(a.queue(t, "status").out, "\n\n")
	wantText(t, "what is held back", heldBack, `
LANE     OBJECTS HELD BACK  OLDEST  BY
support  12                 4m0s    notif_1\x1b
`[1:])

	groups := `"dead_letters":[{"topic":"contact.created","reason":"attempts","count":1002,"oldest":"2026-11-25T08:00:00Z","newest":"2026-11-25T09:00:00Z",` +
		`"error":"` + strings.Repeat("e", 90) + `"},{"topic":"a\n","reason":"age","count":1,"newest":"2026-11-25T10:00:00Z","error":""}]}`
	a.answers["GET lanes"] = []string{a.lanes[0], strings.TrimSuffix(a.lanes[1], "}") + "," + groups}
	_, table, _ := strings.Cut(a.queue(t, "status").out, "\n\n")
	wantText(t, "dead letters", table, `
LANE  TOPIC            REASON    DEAD   NEWEST                ITS ERROR
crm   contact.created  attempts  1,002  2026-11-25T09:00:00Z  `[1:]+strings.Repeat("e", 79)+`…
crm   a\n              age       1      2026-11-25T10:00:00Z  -
`)

	var many []string
	for n := range 22 {
		many = append(many, fmt.Sprintf(`{"topic":"t%d","reason":"age","count":%d}`, n, n+1))
	}
	a.answers["GET lanes"] = []string{`{"lane":"a","dead_letters":[` + strings.Join(many, ",") + `]}`}
	_, table, _ = strings.Cut(a.queue(t, "status").out, "\n\n")
	if lines := strings.Split(table, "\n"); len(lines) != 23 || !strings.HasPrefix(lines[1], "a     t21") || lines[21] != "and 2 smaller groups more; --json has all" {
		t.Errorf("many groups:\n%s", table)
	}

	a.answers["GET lanes"] = append(a.lanes[:1:1], `{"error":"endpoint \"other\": the database cannot be reached"}`)
	r = a.queue(t, "status", "--json")
	wantText(t, "lines of the database that answers", r.out, a.lanes[0]+"\n")
	wantError(t, r, 1, `endpoint "other": the database cannot be reached`)
	wantError(t, a.queue(t, "status", "--check"), 1, `endpoint "other": the database cannot be reached`)
	delete(a.answers, "GET lanes")

	a.lanes = append(a.lanes[:1], `{"endpoint":"other","lane":"a\u001b[2Jb","state":"failing","deliveries":{},"oldest_seconds":0}`)
	r = a.queue(t, "status", "--check")
	wantText(t, "two endpoints", r.out, `
ENDPOINT  LANE       KIND   STATE    WORKERS  WAITING  DELIVERING  RETRYING  DEAD  OLDEST
intercom  support    route  active   16       1,200    1           0         0     3s
other     a\x1b[2Jb  -      failing  0        0        0           0         0     -
-         total      -      -        -        1,200    1           0         0     3s
`[1:])
	if r.code != 0 {
		t.Errorf("exit code %d though all is well", r.code)
	}
}

func TestQueuePause(t *testing.T) {
	a := newFakeAdmin(t)
	a.answers["POST lanes/crm/pause"] = []string{`{"endpoint":"intercom","lane":"crm","state":"paused","deliveries":{"waiting":7,"retrying":2}}`}
	wantText(t, "output", a.queue(t, "pause", "crm").out, "paused lane crm; 9 deliveries not made yet\n")
	wantText(t, "lines", a.queue(t, "pause", "crm", "--json", "--endpoint", "intercom").out, a.answers["POST lanes/crm/pause"][0]+"\n")
	a.queue(t, "resume", "support")
	a.queue(t, "status", "--endpoint", "intercom")
	if got, want := a.asked(), []string{
		"POST lanes/crm/pause", "POST lanes/crm/pause?endpoint=intercom", "POST lanes/support/resume", "GET lanes?dead_letters=true&endpoint=intercom",
	}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	wantError(t, a.queue(t, "pause", ""), 2, "an argument is empty")
	wantError(t, a.queue(t, "pause", "crm", "--endpoint", ""), 2, "--endpoint is empty")
	wantError(t, a.queue(t, "resume"), 2, "got 0 arguments: expecting 'caddy queue resume <lane>'")
}

func TestQueueCompletion(t *testing.T) {
	a := newFakeAdmin(t)
	a.lanes = append(a.lanes, `{"endpoint":"$(reboot)","lane":"$(reboot)"}`, `{"endpoint":"a","lane":"\u001b[2J"}`)
	complete := func(address string, args ...string) string {
		root := &cobra.Command{Use: "caddy"}
		AddCommands(root)
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(io.Discard)
		root.SetArgs(append([]string{"__completeNoDesc", "queue", args[0], "--address", address}, args[1:]...))
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for want, args := range map[string][]string{
		"crm\nsupport\n:4\n":                          {"pause", ""},
		"crm\nsupport\n:4\n ":                         {"retry", "--to", ""},
		"crm\nsupport\n:4\n  ":                        {"list", "--lane", ""},
		"a\nintercom\n:4\n":                           {"list", "--endpoint", ""},
		strings.Join(deliveryStates, "\n") + "\n:4\n": {"list", "--state", ""},
		strings.Join(deadReasons, "\n") + "\n:4\n":    {"drop", "--reason", ""},
		":4\n": {"pause", "crm", ""},
		strings.Join(slices.Concat(intercom.Topics(), intercom.FinTopics()), "\n") + "\n:4\n": {"erase", "--topic", ""},
	} {
		if got := complete(a.address, args...); got != strings.TrimRight(want, " ") {
			t.Errorf("%q: got %q, want %q", args, got, want)
		}
	}
	if got := complete("127.0.0.1:1", "pause", ""); got != ":4\n" {
		t.Errorf("without a Caddy: %q", got)
	}
}
