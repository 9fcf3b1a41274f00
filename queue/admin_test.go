package queue

import (
	"bufio"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// managedQueue is a queue that the admin API finds.
type managedQueue struct{ *testQueue }

func manageTestQueue(t *testing.T, options Options, target intercomwebhook.Endpoint) managedQueue {
	t.Helper()
	path := newPath(t)
	q := openTestQueue(t, path, options, target)
	q.dispatcher().location.stillHas = "Backups still have them."
	if _, known := dispatchers.LoadOrStore(path, q.dispatcher()); known {
		t.Fatal("the queue is known already")
	}
	t.Cleanup(func() {
		if _, err := dispatchers.Delete(path); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return managedQueue{q}
}

// answer is an answer of the admin API.
type answer struct {
	status int
	header http.Header
	lines  []map[string]any
}

// ask sends a request to the admin API, with a JSON body if there is one.
func (q managedQueue) ask(method, path, body string) answer {
	q.Helper()
	mux := http.NewServeMux()
	for _, route := range new(adminAPI).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			apiErr, failed := errors.AsType[caddy.APIError](route.Handler.ServeHTTP(w, r))
			if failed {
				w.WriteHeader(apiErr.HTTPStatus)
				_ = json.NewEncoder(w).Encode(map[string]string{"error": apiErr.Err.Error()})
			}
		})
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(method, "/intercom_webhook"+path, strings.NewReader(body)))
	a := answer{status: w.Code, header: w.Header()}
	for in := bufio.NewScanner(w.Body); in.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			q.Fatalf("%s %s: line %q: %v", method, path, in.Text(), err)
		}
		a.lines = append(a.lines, line)
	}
	return a
}

func (q managedQueue) get(path string) answer  { q.Helper(); return q.ask(http.MethodGet, path, "") }
func (q managedQueue) post(path string) answer { q.Helper(); return q.ask(http.MethodPost, path, "") }

// last returns the last line of an answer, which must have the status 200.
func (q managedQueue) last(a answer) map[string]any {
	q.Helper()
	if a.status != http.StatusOK || len(a.lines) == 0 {
		q.Fatalf("status %d, lines %v", a.status, a.lines)
	}
	return a.lines[len(a.lines)-1]
}

// all returns the values of a field in all lines.
func (a answer) all(field string) []string {
	var values []string
	for _, line := range a.lines {
		values = append(values, fmt.Sprint(line[field]))
	}
	return values
}

// want checks what a change has said in its last line.
func (q managedQueue) want(a answer, done, total, skipped int) {
	q.Helper()
	got := q.last(a)
	if got["done"] != float64(done) || got["total"] != float64(total) || got["skipped"] != float64(skipped) || got["error"] != nil {
		q.Errorf("%v, want %d of %d done and %d skipped", got, done, total, skipped)
	}
}

// store stores a notification with a topic, whose body is its id.
func (q managedQueue) store(topic, lane, id string) {
	q.Helper()
	kind := topic
	if !strings.Contains(topic, "conversation.user") {
		kind = intercom.OtherTopics
	}
	r := httptest.NewRequest(http.MethodPost, "/intercom?a=b", nil)
	r.Header.Set("X-Hub-Signature", "sha1=00")
	n := intercomwebhook.Notification{Topic: topic, Kind: kind, AppID: "tulip4", ID: id, Lane: lane, Body: []byte(id)}
	if _, err := q.Store(r, n); err != nil {
		q.Fatalf("storing %s: %v", id, err)
	}
}

// byLane is a handler whose backends have the bodies of what they got, and fail for the lanes
// that are down.
type byLane struct {
	*fakeTarget
	down map[string]bool
}

func (b byLane) Route(_ *http.Request, body []byte, _ int, to string) (lane string, deliver func() intercomwebhook.Delivery) {
	lane = to
	if lane == "" {
		lane = b.lanes[0]
	}
	return lane, func() intercomwebhook.Delivery {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.got = append(b.got, lane+" "+string(body))
		if b.down[lane] {
			return intercomwebhook.Delivery{Err: errors.New("backend answered 502"), Upstream: "127.0.0.1:9", Status: 502, Answer: []byte("<html>")}
		}
		return intercomwebhook.Delivery{}
	}
}

func (b byLane) set(lane string, down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down[lane] = down
}

// deadLetters opens a queue with three dead letters in the lane support.
func deadLetters(t *testing.T) (managedQueue, byLane) {
	t.Helper()
	target := byLane{&fakeTarget{lanes: []string{"support", "billing"}}, map[string]bool{"support": true}}
	q := manageTestQueue(t, Options{MaxAttempts: 1}, target)
	q.store("conversation.user.created", "support", "notif_1")
	q.store("conversation.user.replied", "support", "notif_2")
	q.store("tomorrow.born", "support", "notif_3")
	q.eventually("support discarded", 3)
	return q, target
}

func TestAdminListsJobs(t *testing.T) {
	q, _ := deadLetters(t)
	for query, want := range map[string][]string{
		"":                                 {"notif_3", "notif_2", "notif_1"},
		"?state=discarded":                 {"notif_3", "notif_2", "notif_1"},
		"?state=completed,available":       nil,
		"?topic=conversation.*":            {"notif_2", "notif_1"},
		"?topic=conversation.user.*":       {"notif_2", "notif_1"},
		"?topic=tomorrow.*":                {"notif_3"},
		"?topic=tomorrow.born":             {"notif_3"},
		"?topic=*":                         {"notif_3", "notif_2", "notif_1"},
		"?topic=conversation.admin.*":      nil,
		"?workspace=tulip4":                {"notif_3", "notif_2", "notif_1"},
		"?workspace=tulip5":                nil,
		"?notification=notif_2":            {"notif_2"},
		"?since=1h":                        {"notif_3", "notif_2", "notif_1"},
		"?until=1h":                        nil,
		"?since=2020-01-01T00:00:00Z":      {"notif_3", "notif_2", "notif_1"},
		"?error=ANSWERED+502":              {"notif_3", "notif_2", "notif_1"},
		"?error=answered+503":              nil,
		"?id=1&id=2":                       {"notif_2", "notif_1"},
		"?id=3,1&state=discarded":          {"notif_3", "notif_1"},
		"?lane=support&queue=intercom":     {"notif_3", "notif_2", "notif_1"},
		"?lane=billing":                    nil,
		"?topic=*&limit=3&state=discarded": {"notif_3", "notif_2", "notif_1"},
	} {
		a := q.get("/jobs" + query)
		got := a.all("notification")
		if n := len(got); n > 0 && a.lines[n-1]["cursor"] != nil { // there may be more, but is not
			got = got[:n-1]
		}
		if a.status != http.StatusOK || !slices.Equal(got, want) {
			t.Errorf("%s: status %d, %v, want %q", query, a.status, a.lines, want)
		}
	}
	if got := q.ask(http.MethodGet, "/jobs?state=discarded", `{"topic":"tomorrow.*"}`).all("notification"); !slices.Equal(got, []string{"notif_3"}) {
		t.Errorf("with a filter in the body: %q", got)
	}
	a := q.get("/jobs?notification=notif_3")
	job := q.last(a)
	for field, want := range map[string]any{
		"topic": "tomorrow.born", "workspace": "tulip4", "lane": "support", "queue": "intercom", "state": "discarded",
		"attempt": 1.0, "max_attempts": 1.0, "reason": "127.0.0.1:9: backend answered 502",
	} {
		if job[field] != want {
			t.Errorf("%s is %v, want %v", field, job[field], want)
		}
	}
	for _, field := range []string{"stored_at", "finished_at"} {
		if at, err := time.Parse(time.RFC3339, fmt.Sprint(job[field])); err != nil || time.Since(at).Abs() > time.Hour {
			t.Errorf("%s is %v", field, job[field])
		}
	}
	if got := a.header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("Content-Type is %q", got)
	}
}

func TestAdminListsJobsInPages(t *testing.T) {
	q, _ := deadLetters(t)
	var got []string
	for cursor := ""; ; {
		a := q.get("/jobs?limit=1" + cursor)
		last := q.last(a)
		if last["id"] != nil || len(a.lines) > 1 {
			got = append(got, a.all("notification")[0])
		}
		if last["cursor"] == nil {
			break
		}
		cursor = fmt.Sprint("&cursor=", last["cursor"])
	}
	if want := []string{"notif_3", "notif_2", "notif_1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAdminShowsAJobInFull(t *testing.T) {
	q, _ := deadLetters(t)
	for _, id := range []string{"notif_2", "2"} {
		a := q.get("/jobs/" + id)
		job := q.last(a)
		request, _ := job["request"].(map[string]any)
		if len(a.lines) != 1 || job["notification"] != "notif_2" || request["body"] != "notif_2" || request["method"] != "POST" ||
			request["uri"] != "/intercom?a=b" || request["host"] != "example.com" || request["received_at"] == nil ||
			fmt.Sprint(request["header"]) != "map[X-Hub-Signature:[sha1=00]]" {
			t.Errorf("%s: %v", id, a.lines)
		}
		attempts, _ := job["attempts"].([]any)
		if len(attempts) != 1 {
			t.Fatalf("attempts: %v", job["attempts"])
		}
		attempt := attempts[0].(map[string]any)
		if attempt["attempt"] != 1.0 || attempt["upstream"] != "127.0.0.1:9" || attempt["status"] != 502.0 || attempt["answer"] != "<html>" ||
			attempt["instance"] == "" || attempt["at"] == nil || attempt["error"] != "127.0.0.1:9: backend answered 502" {
			t.Errorf("attempt: %v", attempt)
		}
	}
	if a := q.get("/jobs/notif_9"); a.status != http.StatusNotFound || !strings.Contains(fmt.Sprint(a.lines), "no notification in the queue") {
		t.Errorf("an unknown one: %v", a)
	}
}

func TestAdminRetries(t *testing.T) {
	q, target := deadLetters(t)
	if dry := q.last(q.post("/jobs/retry?topic=conversation.*&dry_run=true")); dry["total"] != 2.0 || dry["done"] != 0.0 {
		t.Errorf("dry run: %v", dry)
	}
	q.want(q.post("/jobs/retry?state=completed"), 0, 0, 0)
	target.set("support", false)
	q.want(q.ask(http.MethodPost, "/jobs/retry", `{"topic":"conversation.*","state":["discarded","cancelled"],"since":"1h","dry_run":false}`), 2, 2, 0)
	q.eventually("support completed", 2)
	q.want(q.post("/jobs/retry?state=discarded&rate=1000"), 1, 1, 0)
	q.eventually("support completed", 3)
	q.want(q.post("/jobs/resend?id=2"), 1, 1, 0)
	q.want(q.post("/jobs/resend?lane=support&limit=2"), 2, 2, 0)
}

func TestAdminResendsTheSameJob(t *testing.T) {
	q, target := deadLetters(t)
	target.set("support", false)
	q.want(q.post("/jobs/retry?notification=notif_1"), 1, 1, 0)
	q.eventually("support completed", 1)
	before := len(target.bodies())
	q.want(q.post("/jobs/resend?notification=notif_1"), 1, 1, 0)
	for end := time.Now().Add(20 * time.Second); len(target.bodies()) == before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it was not delivered again")
		}
	}
	q.eventually("support completed", 1)
	if got := q.get("/jobs?notification=notif_1"); len(got.lines) != 1 || got.lines[0]["id"] != 1.0 {
		t.Errorf("there are %v", got.lines)
	}
}

func TestAdminSendsToAnotherLane(t *testing.T) {
	q, target := deadLetters(t)
	q.want(q.post("/jobs/retry?state=discarded&to=billing"), 3, 3, 0)
	q.eventually("billing completed", 3)
	q.eventually("support discarded", 3) // the originals stay as they are
	got := slices.DeleteFunc(target.bodies(), func(body string) bool { return !strings.HasPrefix(body, "billing") })
	if want := []string{"billing notif_1", "billing notif_2", "billing notif_3"}; !slices.Equal(got, want) {
		t.Errorf("billing got %q, want %q", got, want)
	}
	a := q.get("/jobs/notif_2")
	if got := a.all("to"); len(got) != 2 || !slices.Contains(got, "billing") {
		t.Errorf("to is %q in %v", got, a.lines)
	}
	q.want(q.post("/jobs/resend?lane=billing&to=billing"), 3, 3, 0)
	q.eventually("billing completed", 6)
}

func TestAdminDropsAndErases(t *testing.T) {
	q, target := deadLetters(t)
	q.want(q.post("/jobs/drop?notification=notif_1"), 1, 1, 0)
	if a := q.get("/jobs/notif_1"); a.status != http.StatusNotFound {
		t.Errorf("it is still there: %v", a.lines)
	}
	target.set("support", false)
	q.want(q.post("/jobs/retry?notification=notif_2"), 1, 1, 0)
	q.eventually("support completed", 1)
	q.want(q.post("/jobs/drop?workspace=tulip4&notification=notif_2"), 0, 0, 0) // it is no dead letter
	erased := q.post("/jobs/erase?workspace=tulip4")
	q.want(erased, 2, 2, 0)
	if note := q.last(erased)["note"]; note != "Backups still have them." {
		t.Errorf("note %v", note)
	}
	if states := q.states(); len(states) != 0 {
		t.Errorf("left: %v", states)
	}
}

func TestAdminErasesWhatIsBeingDelivered(t *testing.T) {
	began := make(chan struct{})
	q := manageTestQueue(t, Options{}, deliverFunc{&fakeTarget{lanes: []string{"support"}}, func(r *http.Request) intercomwebhook.Delivery {
		close(began)
		<-r.Context().Done()
		return intercomwebhook.Delivery{Err: r.Context().Err()}
	}})
	q.store("a.b", "support", "notif_1")
	<-began
	q.want(q.post("/jobs/erase?workspace=tulip4"), 1, 1, 0)
	if states := q.states(); len(states) != 0 {
		t.Errorf("left: %v", states)
	}
}

func TestAdminTellsWhatItCouldNotErase(t *testing.T) {
	before := eraseWait
	eraseWait = 0
	t.Cleanup(func() { eraseWait = before })
	began, end := make(chan struct{}), make(chan struct{})
	q := manageTestQueue(t, Options{}, deliverFunc{&fakeTarget{lanes: []string{"support"}}, func(*http.Request) intercomwebhook.Delivery {
		close(began)
		<-end
		return intercomwebhook.Delivery{}
	}})
	t.Cleanup(func() { close(end) })
	q.store("a.b", "support", "notif_1")
	<-began
	erased := q.post("/jobs/erase?workspace=tulip4")
	q.want(erased, 0, 1, 1)
	if running := q.last(erased)["running"]; running != 1.0 {
		t.Errorf("running is %v", running)
	}
}

func TestAdminLanes(t *testing.T) {
	q, _ := deadLetters(t)
	lanes := q.get("/lanes")
	if got, want := lanes.all("lane"), []string{"support", "billing", "unrouted"}; !slices.Equal(got, want) {
		t.Fatalf("lanes %q, want %q", got, want)
	}
	support := lanes.lines[0]
	jobs, _ := support["jobs"].(map[string]any)
	if support["queue"] != "intercom" || support["state"] != "down" || support["workers"] != 16.0 || jobs["discarded"] != 3.0 || jobs["available"] != 0.0 || len(jobs) != 6 {
		t.Errorf("support: %v", support)
	}
	if state := lanes.lines[1]["state"]; state != "active" {
		t.Errorf("billing is %v", state)
	}

	if lane := q.last(q.post("/lanes/billing/pause")); lane["state"] != "paused" || lane["lane"] != "billing" {
		t.Errorf("after pause: %v", lane)
	}
	q.want(q.post("/jobs/retry?state=discarded&to=billing"), 3, 3, 0)
	q.eventually("billing available", 3)
	if lane := q.last(q.post("/lanes/billing/resume?queue=intercom")); lane["state"] != "active" {
		t.Errorf("after resume: %v", lane)
	}
	q.eventually("billing completed", 3)
}

func TestAdminLanesWithADatabaseThatIsAway(t *testing.T) {
	q, _ := deadLetters(t)
	away := manageTestQueue(t, Options{Name: "away"}, &fakeTarget{lanes: []string{"crm"}}).dispatcher()
	away.openErr.Store(new(errors.New("connection refused")))
	t.Cleanup(func() { away.openErr.Store(nil) })
	a := q.get("/lanes")
	if last := q.last(a); len(a.lines) != 4 || last["error"] != `queue "away": the database cannot be reached: connection refused` {
		t.Errorf("got %v", a.lines)
	}
	if a := q.get("/lanes?queue=away"); a.status != http.StatusServiceUnavailable {
		t.Errorf("the lanes of that database: %v", a)
	}
}

func TestAdminLaneThatNoConfigHas(t *testing.T) {
	q, _ := deadLetters(t)
	q.dispatcher().attach(attachments{"intercom": newTestAttachment(q.dispatcher(), Options{}, &fakeTarget{lanes: []string{"sales"}})})
	for _, lane := range q.get("/lanes").lines {
		if want := map[any]any{"sales": "active", "unrouted": "active", "support": "orphaned"}[lane["lane"]]; lane["state"] != want {
			t.Errorf("%v is %v, want %v", lane["lane"], lane["state"], want)
		}
	}
	if got := q.get("/jobs?lane=support"); len(got.lines) < 3 {
		t.Errorf("its jobs are %v", got.lines)
	}
}

func TestAdminWithSeveralEndpoints(t *testing.T) {
	q, _ := deadLetters(t)
	crm := newTestAttachment(q.dispatcher(), Options{Name: "crm"}, &fakeTarget{lanes: []string{"support"}})
	q.dispatcher().attach(attachments{"intercom": q.attachment, "crm": crm})
	intercom := q.attachment
	q.attachment = crm
	q.store("a.b", "support", "notif_crm")
	q.eventually("crm|support completed", 1)
	q.attachment = intercom

	if got, want := q.get("/lanes").all("queue"), []string{"crm", "crm", "intercom", "intercom", "intercom"}; !slices.Equal(got, want) {
		t.Errorf("lanes of %q, want of %q", got, want)
	}
	if got, want := q.get("/lanes?queue=crm").all("lane"), []string{"support", "unrouted"}; !slices.Equal(got, want) {
		t.Errorf("lanes of crm are %q, want %q", got, want)
	}
	for path, want := range map[string]string{
		"/jobs":            "the config has several queues: name one with the parameter queue; the names are crm and intercom",
		"/jobs?queue=crmm": `queue "crmm": there is no queue of this name; the names are crm and intercom; did you mean crm?`,
	} {
		if a := q.get(path); a.status != http.StatusBadRequest || a.lines[0]["error"] != want {
			t.Errorf("%s: %v, want %s", path, a, want)
		}
	}
	if got := q.get("/jobs?queue=crm").all("notification"); got[0] != "notif_crm" {
		t.Errorf("crm has %q", got)
	}
	q.want(q.post("/jobs/erase?queue=crm&state=completed,discarded"), 1, 1, 0)
	if n := q.states()["support discarded"]; n != 3 {
		t.Errorf("%d of the other endpoint are left, want 3", n)
	}

	q.dispatcher().attach(attachments{"intercom": q.attachment}) // crm belongs to nobody now
	q.attachment = crm
	q.store("a.b", "support", "notif_stranded")
	q.attachment = intercom
	if got := q.get("/jobs").all("notification"); slices.Contains(got, "notif_stranded") {
		t.Error("the only endpoint of the config has the job of another")
	}
	gone := endpoint{q.dispatcher(), "gone", q.dispatcher().current()}
	if queues, err := gone.queuesOfLane(t.Context(), ""); err != nil || len(queues) == 0 {
		t.Errorf("an endpoint whose last job is gone has the queues %q, which selects the jobs of all endpoints (%v)", queues, err)
	}
	if got := q.get("/jobs?queue=crm").all("notification"); got[0] != "notif_stranded" {
		t.Errorf("crm has %q", got)
	}
	if a := q.post("/jobs/resend?queue=crm&since=1h&to=support"); a.status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(a.lines), "no handler of the config has the queue") {
		t.Errorf("to a lane of an endpoint that nobody has: %v", a)
	}
}

func TestAdminRefusals(t *testing.T) {
	q, _ := deadLetters(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/jobs?stat=discarded", "", 400, `"stat": there is no such parameter; the parameters are queue, lane, state, topic, workspace, notification, id, since, until, error, cursor and limit; did you mean state?`},
		{"GET", "/jobs?state=discardet", "", 400, `state "discardet": there is no such state; the states are available, running, retryable, completed, discarded and cancelled; did you mean discarded?`},
		{"GET", "/jobs?topic=conv*", "", 400, `topic pattern "conv*": a * must be a whole segment, as in conversation.*`},
		{"GET", "/jobs/", "", 404, `there is no such path; a job has /intercom_webhook/jobs/<notification or job id>`},
		{"GET", "/jobs/%00", "", 400, `the id is not text: escape UTF-8 with %, and leave out zero bytes`},
		{"GET", "/jobs?topic=", "", 400, `"topic" has no value: leave it out, or give it one`},
		{"GET", "/jobs?workspace=%00", "", 400, `"workspace" is not text: escape UTF-8 with %, and leave out zero bytes`},
		{"GET", "/jobs?notification=%ff", "", 400, `"notification" is not text: escape UTF-8 with %, and leave out zero bytes`},
		{"GET", "/jobs?topic=a&topic=b", "", 400, `"topic" is given more than once`},
		{"GET", "/jobs?lane=suppport", "", 400, `lane "suppport": there is no such lane; the lanes are billing, support and unrouted; did you mean support?`},
		{"GET", "/jobs?since=yesterday", "", 400, `since "yesterday": give a time as in 2026-11-25T08:00:00Z, or how long ago it is, as in 2h or 3d`},
		{"GET", "/jobs?until=-2h", "", 400, `until "-2h": give a time`},
		{"GET", "/jobs?id=notif_1", "", 400, `id "notif_1": give the number of a job`},
		{"GET", "/jobs?limit=1001", "", 400, `limit 1001: a list has 1000 at most`},
		{"GET", "/jobs?limit=0", "", 400, `limit "0": give a number from 1`},
		{"GET", "/jobs?cursor=12", "", 400, `cursor: give one that an earlier answer to the same request had in its last line`},
		{"GET", "/jobs?cursor=c1-2", "", 400, `cursor: give one`},
		{"GET", "/jobs?a;b", "", 400, `the query is malformed`},
		{"GET", "/jobs?dry_run=true", "", 400, `"dry_run": there is no such parameter`},
		{"POST", "/jobs", "", 405, `method POST: use GET`},
		{"DELETE", "/jobs/1", "", 405, `method DELETE: use GET`},
		{"GET", "/lanes?lane=a", "", 400, `"lane": there is no such parameter; the parameters are queue`},
		{"POST", "/lanes/suppport/pause", "", 404, `lane "suppport": there is no such lane`},
		{"POST", "/lanes/%2Fpause", "", 404, `there is no such path; a lane has`},
		{"POST", "/lanes/support/stop", "", 404, `there is no such path; a lane has /intercom_webhook/lanes/<lane>/pause and /intercom_webhook/lanes/<lane>/resume`},
		{"GET", "/lanes/support/pause", "", 405, `method GET: use POST`},
		{"POST", "/jobs/retri?state=discarded", "", 404, `below /intercom_webhook/jobs/ are drop, erase, resend and retry; did you mean retry?`},
		{"POST", "/jobs/erase", "", 400, `erase needs a filter, such as`},
		{"POST", "/jobs/erase?queue=intercom&limit=3", "", 400, `erase needs a filter, such as`},
		{"POST", "/jobs/drop?state=discarded&to=support", "", 400, `drop has no parameter to: only retry and resend deliver`},
		{"POST", "/jobs/retry?state=discarded&to=suppport", "", 400, `to "suppport": no route has this lane; the lanes are support and billing; did you mean support?`},
		{"POST", "/jobs/retry?state=discarded&rate=0", "", 400, `rate "0": give how many notifications a second`},
		{"POST", "/jobs/retry?state=discarded&rate=NaN", "", 400, `rate "NaN": give`},
		{"POST", "/jobs/retry?state=discarded&dry_run=yes", "", 400, `dry_run "yes": give true or false`},
		{"POST", "/jobs/retry?state=discarded&cursor=l3", "", 400, `cursor: give one`},
		{"POST", "/jobs/retry", `{"topic":{"a":1}}`, 400, `"topic" must be a string, a number, true, false, or a list of strings`},
		{"POST", "/jobs/retry", `{"topic":null}`, 400, `"topic" must be a string`},
		{"POST", "/jobs/retry", `{"id":[[1]]}`, 400, `"id" has a list in a list`},
		{"POST", "/jobs/retry", `{"topic":"a","topic":"b"}`, 400, `"topic" is given twice`},
		{"POST", "/jobs/retry?topic=a", `{"topic":"b"}`, 400, `"topic" is given twice`},
		{"POST", "/jobs/retry", `{"topc":"a"}`, 400, `"topc": there is no such parameter`},
		{"POST", "/jobs/retry", `{"state":[]}`, 400, `"state" has no value`},
		{"POST", "/jobs/retry", `topic=a`, 400, `the body is not a JSON object with parameters`},
		{"POST", "/jobs/retry", `{"topic":"a"} x`, 400, `the body is not a JSON object with parameters`},
		{"POST", "/jobs/retry", `{"topic":"a"`, 400, `the body is not a JSON object with parameters`},
	} {
		a := q.ask(c.method, c.path, c.body)
		if a.status != c.status || len(a.lines) != 1 || !strings.Contains(fmt.Sprint(a.lines[0]["error"]), c.want) {
			t.Errorf("%s %s %s: %d %v, want %d and %q", c.method, c.path, c.body, a.status, a.lines, c.status, c.want)
		}
	}
}

func TestAdminWithoutQueue(t *testing.T) {
	q := managedQueue{&testQueue{T: t}}
	for _, path := range []string{"/lanes", "/jobs", "/jobs/1"} {
		if a := q.get(path); a.status != http.StatusNotFound || a.lines[0]["error"] != "the config has no queue: give an intercom_webhook a `queue`" {
			t.Errorf("%s: %v", path, a)
		}
	}
}

// The tags of a job are its workspace and its notification, and the database matches either.
func TestAdminTellsWorkspacesFromNotifications(t *testing.T) {
	q, _ := deadLetters(t)
	q.store("conversation.user.created", "support", "") // has only the tag of its workspace
	q.eventually("support discarded", 4)
	for path, want := range map[string][]string{
		"/jobs?notification=tulip4": nil,
		"/jobs?workspace=notif_1":   nil,
		"/jobs?workspace=tulip4":    {"", "notif_3", "notif_2", "notif_1"},
	} {
		if got := q.get(path).all("notification"); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if a := q.get("/jobs/tulip4"); a.status != http.StatusNotFound {
		t.Errorf("a workspace is shown as a notification: %v", a.lines)
	}
	q.want(q.post("/jobs/erase?notification=tulip4"), 0, 0, 0)
	q.want(q.post("/jobs/erase?workspace=notif_1"), 0, 0, 0)
	q.want(q.post("/jobs/erase?workspace=tulip4"), 4, 4, 0)
}

func TestAdminShowsMalformedRows(t *testing.T) {
	q, _ := deadLetters(t)
	q.damage(`UPDATE river_job SET args = 'nonsense', tags = jsonb('[]'), errors = jsonb('["nonsense"]') WHERE id = 2`)
	if got := q.get("/jobs?state=discarded").all("id"); len(got) < 3 || got[1] != "2" {
		t.Errorf("jobs %q", got)
	}
	job := q.last(q.get("/jobs/2"))
	if job["topic"] != "conversation.user.replied" || job["request"] != nil || job["unreadable"] == nil || job["state"] != "discarded" {
		t.Errorf("it is shown as %v", job)
	}
	q.want(q.post("/jobs/retry?id=2&to=billing"), 0, 1, 1)
	q.want(q.post("/jobs/drop?id=2"), 1, 1, 0)
}

func TestAdminChangesEndWithTheConfig(t *testing.T) {
	q, target := deadLetters(t)
	target.set("support", false)
	ended := make(chan answer)
	go func() { ended <- q.post("/jobs/retry?state=discarded&rate=0.9") }()
	q.eventually("support completed", 1)
	q.dispatcher().attach(attachments{"intercom": q.attachment})
	var a answer
	select {
	case a = <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
	last := q.last(a)
	if last["error"] != "the config has changed: run it again to go on" || last["done"] == 3.0 || last["total"] != 3.0 || last["cursor"] == nil {
		t.Fatalf("the last line is %v", last)
	}
	left := 3 - int(last["done"].(float64))
	q.want(q.post(fmt.Sprint("/jobs/retry?state=discarded&cursor=", last["cursor"])), left, left, 0)
	q.eventually("support completed", 3)
}

// damage changes rows behind the back of the queue.
func (q managedQueue) damage(statement string) {
	q.Helper()
	db, err := sql.Open("sqlite", q.dispatcher().location.name+"?_pragma=busy_timeout(20000)")
	if err != nil {
		q.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		q.Fatal(err)
	}
}
