package module_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/module"
)

func TestAdminListsDeliveries(t *testing.T) {
	q, _ := deadLetters(t)
	for query, want := range map[string][]string{
		"":                                           {"notif_3", "notif_2", "notif_1"},
		"?state=dead":                                {"notif_3", "notif_2", "notif_1"},
		"?state=delivered,waiting":                   nil,
		"?reason=attempts":                           {"notif_3", "notif_2", "notif_1"},
		"?reason=age,unrouted":                       nil,
		"?topic=conversation.*":                      {"notif_2", "notif_1"},
		"?topic=conversation.user.*":                 {"notif_2", "notif_1"},
		"?topic=tomorrow.*":                          {"notif_3"},
		"?topic=tomorrow.born":                       {"notif_3"},
		"?topic=*":                                   {"notif_3", "notif_2", "notif_1"},
		"?topic=conversation.admin.*":                nil,
		"?workspace=tulip4":                          {"notif_3", "notif_2", "notif_1"},
		"?workspace=tulip5":                          nil,
		"?workspace=notif_1":                         nil,
		"?notification=notif_2":                      {"notif_2"},
		"?notification=tulip4":                       nil,
		"?notification=2":                            {"notif_2"}, // its number
		"?since=1h":                                  {"notif_3", "notif_2", "notif_1"},
		"?until=1h":                                  nil,
		"?since=2020-01-01T00:00:00Z":                {"notif_3", "notif_2", "notif_1"},
		"?error=ANSWERED+502":                        {"notif_3", "notif_2", "notif_1"},
		"?error=answered+503":                        nil,
		"?lane=support":                              {"notif_3", "notif_2", "notif_1"},
		"?lane=billing":                              nil,
		"?endpoint=intercom":                         {"notif_3", "notif_2", "notif_1"},
		"?topic=*&limit=3&state=dead":                {"notif_3", "notif_2", "notif_1"},
		"?notification=notif_3,notif_":               {"notif_3"},
		"?notification=notif_1&notification=notif_3": {"notif_1", "notif_3"},
		"?notification=notif_1,notif_2,3&topic=tomorrow.*":   {"notif_3"},
		"?notification=notif_9&lane=support&state=delivered": nil,
	} {
		a := q.get("/deliveries" + query)
		if got := a.all("notification"); a.status != http.StatusOK || !slices.Equal(got, want) || a.all("error") != nil && len(want) == 0 {
			t.Errorf("%s: status %d, %v, want %q", query, a.status, a.lines, want)
		}
	}
	a := q.get("/deliveries?notification=notif_3")
	delivery := q.last(a)
	for field, want := range map[string]any{
		"topic": "tomorrow.born", "workspace": "tulip4", "lane": "support", "endpoint": "intercom", "state": "dead", "reason": "attempts",
		"attempts": 1.0, "upstream": "127.0.0.1:9", "status": 502.0, "error": "backend answered 502", "number": 3.0, "id": 300.0, "due_at": nil,
	} {
		if delivery[field] != want {
			t.Errorf("%s is %v, want %v", field, delivery[field], want)
		}
	}
	for _, field := range []string{"stored_at", "finished_at"} {
		if at, err := time.Parse(time.RFC3339, fmt.Sprint(delivery[field])); err != nil || time.Since(at).Abs() > time.Hour {
			t.Errorf("%s is %v", field, delivery[field])
		}
	}
	if got := a.header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("Content-Type is %q", got)
	}
}

func TestAdminListsDeliveriesInPages(t *testing.T) {
	q, _ := deadLetters(t)
	for filter, want := range map[string][]string{
		"":                              {"notif_3", "notif_2", "notif_1"},
		"&notification=notif_1,notif_3": {"notif_1", "notif_3"},
	} {
		var got []string
		for cursor := ""; ; {
			a := q.get("/deliveries?limit=1" + filter + cursor)
			if n := len(a.all("notification")); n > 1 || a.status != http.StatusOK {
				t.Fatalf("a page is %v", a)
			}
			got = append(got, a.all("notification")...)
			next := a.all("cursor")
			if len(next) == 0 {
				break
			}
			cursor = "&cursor=" + next[0]
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", filter, got, want)
		}
	}
}

func TestAdminShowsANotificationInFull(t *testing.T) {
	q, _ := deadLetters(t)
	for _, id := range []string{"notif_2", "2"} {
		a := q.get("/notifications/" + id)
		delivery := q.last(a)
		request, _ := delivery["request"].(map[string]any)
		if len(a.lines) != 1 || delivery["notification"] != "notif_2" || request["body"] != "notif_2" || request["method"] != "POST" ||
			request["uri"] != "/intercom?a=b" || request["host"] != "example.com" || request["received_at"] == nil ||
			fmt.Sprint(request["header"]) != "map[X-Hub-Signature:[sha1=00]]" {
			t.Errorf("%s: %v", id, a.lines)
		}
		history, _ := delivery["history"].([]any)
		if len(history) != 1 {
			t.Fatalf("history: %v", delivery["history"])
		}
		attempt := history[0].(map[string]any)
		if attempt["upstream"] != "127.0.0.1:9" || attempt["status"] != 502.0 || attempt["answer"] != "<html>" ||
			attempt["instance"] == "" || attempt["at"] == nil || attempt["error"] != "backend answered 502" {
			t.Errorf("attempt: %v", attempt)
		}
	}
	if a := q.get("/notifications/notif_9"); a.status != http.StatusNotFound || !strings.Contains(fmt.Sprint(a.lines), "no notification in the queue") {
		t.Errorf("an unknown one: %v", a)
	}
	if a := q.get("/notifications/tulip4"); a.status != http.StatusNotFound {
		t.Errorf("a workspace is shown as a notification: %v", a.lines)
	}
}

func TestAdminRetries(t *testing.T) {
	q, b := deadLetters(t)
	if dry := q.last(q.post("/deliveries/retry?topic=conversation.*&dry_run=true")); dry["total"] != 2.0 || dry["done"] != 0.0 {
		t.Errorf("dry run: %v", dry)
	}
	q.want(q.post("/deliveries/retry?state=delivered"), 0, 0, 0)
	b.set("support", false)
	q.want(q.post("/deliveries/retry?topic=conversation.*&since=1h&dry_run=false"), 2, 2, 0)
	q.eventually("support delivered", 2)
	q.want(q.post("/deliveries/retry?state=dead&rate=1000"), 1, 1, 0)
	q.eventually("support delivered", 3)
	q.want(q.post("/deliveries/resend?notification=2"), 1, 1, 0)
	q.eventually("support delivered", 3)
	q.want(q.post("/deliveries/resend?lane=support&limit=2"), 2, 2, 0)
}

func TestAdminRetriesNotificationsByTheirIDs(t *testing.T) {
	q, b := deadLetters(t)
	b.set("support", false)
	q.want(q.post("/deliveries/retry?notification=notif_1,notif_3&notification=notif_9"), 2, 2, 0)
	q.eventually("support delivered", 2)
	q.eventually("support dead", 1)
	q.want(q.post("/deliveries/retry?notification=notif_1&notification=notif_2"), 1, 1, 0)
	q.eventually("support delivered", 3)
}

func TestAdminResendsTheSameDelivery(t *testing.T) {
	q, b := deadLetters(t)
	b.set("support", false)
	q.want(q.post("/deliveries/retry?notification=notif_1"), 1, 1, 0)
	q.eventually("support delivered", 1)
	before := len(b.bodies())
	q.want(q.post("/deliveries/resend?notification=notif_1"), 1, 1, 0)
	for end := time.Now().Add(20 * time.Second); len(b.bodies()) == before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it was not delivered again")
		}
	}
	q.eventually("support delivered", 1)
	if got := q.get("/deliveries?notification=notif_1"); len(got.lines) != 1 || got.lines[0]["number"] != 1.0 {
		t.Errorf("there are %v", got.lines)
	}
}

func TestAdminSendsToAnotherLane(t *testing.T) {
	q, b := deadLetters(t)
	q.want(q.post("/deliveries/retry?state=dead&to=billing"), 3, 3, 0)
	q.eventually("billing delivered", 3)
	q.eventually("support dead", 3)
	got := slices.DeleteFunc(b.bodies(), func(body string) bool { return !strings.HasPrefix(body, "billing") })
	slices.Sort(got)
	if want := []string{"billing notif_1", "billing notif_2", "billing notif_3"}; !slices.Equal(got, want) {
		t.Errorf("billing got %q, want %q", got, want)
	}
	a := q.get("/notifications/notif_2")
	if lanes, reasons := a.all("lane"), a.all("reason"); !slices.Equal(lanes, []string{"support", "billing"}) || !slices.Equal(reasons, []string{"cancelled"}) {
		t.Errorf("the lanes are %q, the reasons %q", lanes, reasons)
	}
	q.want(q.post("/deliveries/resend?lane=billing&to=billing"), 3, 3, 0)
	q.eventually("billing delivered", 3)
}

func TestAdminDropsAndErases(t *testing.T) {
	q, b := deadLetters(t)
	q.want(q.post("/deliveries/drop?notification=notif_1"), 1, 1, 0)
	if a := q.get("/notifications/notif_1"); a.status != http.StatusNotFound {
		t.Errorf("it is still there: %v", a.lines)
	}
	b.set("support", false)
	q.want(q.post("/deliveries/retry?notification=notif_2"), 1, 1, 0)
	q.eventually("support delivered", 1)
	q.want(q.post("/deliveries/drop?workspace=tulip4&notification=notif_2"), 0, 0, 0) // it is no dead letter
	erased := q.post("/deliveries/erase?workspace=tulip4")
	q.want(erased, 2, 2, 0)
	if note := fmt.Sprint(q.last(erased)["note"]); !strings.Contains(note, "Backups") {
		t.Errorf("note %v", note)
	}
	whole := q.last(q.post("/deliveries/erase?workspace=tulip4&whole=true"))
	if note := fmt.Sprint(whole["note"]); !strings.Contains(note, "written anew") {
		t.Errorf("note %v", note)
	}
	if states := q.states(); len(states) != 0 {
		t.Errorf("left: %v", states)
	}
}

func TestAdminErasesWhatIsBeingDelivered(t *testing.T) {
	b := &backends{wait: make(chan struct{})}
	q := start(t, nil, module.NewQueue(file(t), "intercom", options, b.handler("support")))
	t.Cleanup(func() { close(b.wait) })
	q.store("a.b", "support", "notif_1")
	for len(b.bodies()) == 0 {
		time.Sleep(time.Millisecond)
	}
	q.want(q.post("/deliveries/erase?workspace=tulip4"), 1, 1, 0)
	if states := q.states(); len(states) != 0 {
		t.Errorf("left: %v", states)
	}
}

func TestAdminLanes(t *testing.T) {
	q, _ := deadLetters(t)
	lanes := q.untilLanes("/lanes", "support", "dead", 3)
	if got, want := lanes.all("lane"), []string{"support", "billing", "unrouted"}; !slices.Equal(got, want) {
		t.Fatalf("lanes %q, want %q", got, want)
	}
	support := lanes.lines[0]
	deliveries, _ := support["deliveries"].(map[string]any)
	if support["endpoint"] != "intercom" || support["kind"] != "route" || support["workers"] != 16.0 || deliveries["dead"] != 3.0 || deliveries["waiting"] != 0.0 || len(deliveries) != 4 {
		t.Errorf("support: %v", support)
	}
	if support["dead_letters"] != nil {
		t.Error("dead letters are grouped though nobody asked for it")
	}
	support = q.get("/lanes?dead_letters=true").lines[0]
	groups, _ := support["dead_letters"].([]any)
	total := 0.0
	for _, group := range groups {
		group, _ := group.(map[string]any)
		n, _ := group["count"].(float64)
		if total += n; group["topic"] == "" || group["reason"] != "attempts" || group["error"] != "backend answered 502" || group["newest"] == nil {
			t.Errorf("a group is %v", group)
		}
	}
	if total != 3 {
		t.Errorf("the groups have %v dead letters: %v", total, groups)
	}
	if state := lanes.lines[1]["state"]; state != "active" {
		t.Errorf("billing is %v", state)
	}

	if lane := q.last(q.post("/lanes/billing/pause")); lane["state"] != "paused" || lane["lane"] != "billing" {
		t.Errorf("after pause: %v", lane)
	}
	q.want(q.post("/deliveries/retry?state=dead&to=billing"), 3, 3, 0)
	q.eventually("billing waiting", 3)
	if lane := q.last(q.post("/lanes/billing/resume?endpoint=intercom")); lane["state"] != "active" {
		t.Errorf("after resume: %v", lane)
	}
	q.eventually("billing delivered", 3)
}

func TestAdminLanesWithADatabaseThatIsAway(t *testing.T) {
	b := &backends{}
	away := file(t)
	away.Open = func(context.Context, *zap.Logger) (db.DB, error) { return nil, errors.New("connection refused") }
	q := start(t, nil, module.NewQueue(file(t), "intercom", options, b.handler("support")), module.NewQueue(away, "away", options, b.handler("crm")))
	a := q.get("/lanes")
	if last := q.last(a); len(a.lines) != 3 || last["error"] != `endpoint "away": the database cannot be reached: connection refused` {
		t.Errorf("got %v", a.lines)
	}
	for _, path := range []string{"/lanes?endpoint=away", "/deliveries?endpoint=away", "/notifications/a?endpoint=away"} {
		if a := q.get(path); a.status != http.StatusServiceUnavailable || !strings.Contains(fmt.Sprint(a.lines), "connection refused") {
			t.Errorf("%s: %v", path, a)
		}
	}
	if a := q.post("/deliveries/retry?endpoint=away&state=dead"); a.status != http.StatusServiceUnavailable {
		t.Errorf("a change: %v", a)
	}
}

func TestAdminWithSeveralEndpoints(t *testing.T) {
	b := &backends{down: map[string]bool{"support": true}}
	at := file(t)
	intercom, crm := module.NewQueue(at, "intercom", options, b.handler("support")), module.NewQueue(at, "crm", options, b.handler("support"))
	q := start(t, nil, intercom, crm)
	ofCRM := running{t, q.Config, []*module.Base{crm}, q.logs}
	q.store("a.b", "support", "notif_1")
	ofCRM.store("a.b", "support", "notif_crm")
	q.eventually("support dead", 1)
	q.eventually("crm|support dead", 1)

	if got, want := q.get("/lanes").all("endpoint"), []string{"crm", "crm", "intercom", "intercom"}; !slices.Equal(got, want) {
		t.Errorf("lanes of %q, want of %q", got, want)
	}
	if got, want := q.get("/lanes?endpoint=crm").all("lane"), []string{"support", "unrouted"}; !slices.Equal(got, want) {
		t.Errorf("lanes of crm are %q, want %q", got, want)
	}
	for path, want := range map[string]string{
		"/deliveries":               "the config has several endpoints: name one with the parameter endpoint; the names are crm and intercom",
		"/deliveries?endpoint=crmm": `endpoint "crmm": there is no such endpoint; they are crm and intercom; did you mean crm?`,
	} {
		if a := q.get(path); a.status != http.StatusBadRequest || a.lines[0]["error"] != want {
			t.Errorf("%s: %v, want %s", path, a, want)
		}
	}
	if got := q.get("/deliveries?endpoint=crm").all("notification"); !slices.Equal(got, []string{"notif_crm"}) {
		t.Errorf("crm has %q", got)
	}
	q.want(q.post("/deliveries/erase?endpoint=crm&state=delivered,dead"), 1, 1, 0)
	if n := q.states()["support dead"]; n != 1 {
		t.Errorf("%d of the other endpoint are left, want 1", n)
	}

	ofCRM.store("a.b", "support", "notif_stranded")
	q.eventually("crm|support dead", 1)
	later := start(t, nil, module.NewQueue(at, "intercom", options, b.handler("support"))) // crm belongs to nobody now
	q.Stop()
	if got := later.get("/deliveries").all("notification"); !slices.Equal(got, []string{"notif_1"}) {
		t.Errorf("the only endpoint of the config has %q", got)
	}
	later.untilLanes("/lanes?endpoint=crm", "support", "dead", 1)
	if got := later.get("/deliveries?endpoint=crm").all("notification"); !slices.Equal(got, []string{"notif_stranded"}) {
		t.Errorf("crm has %q", got)
	}
	if a := later.post("/deliveries/resend?endpoint=crm&since=1h&to=support"); a.status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(a.lines), "no handler of the config has the endpoint") {
		t.Errorf("to a lane of an endpoint that nobody has: %v", a)
	}
}

func TestAdminWithSeveralDatabases(t *testing.T) {
	b := &backends{}
	q := start(t, nil, module.NewQueue(file(t), "intercom", options, b.handler("support")), module.NewQueue(file(t), "crm", options, b.handler("support")),
		module.NewQueue(file(t), "crm", options, b.handler("support")))
	for path, want := range map[string]string{
		"/deliveries":              "the config has several endpoints: name one with the parameter endpoint; the names are crm and intercom",
		"/deliveries?endpoint=crm": `endpoint "crm": endpoints in several databases have this name`,
	} {
		if a := q.get(path); a.status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(a.lines), want) {
			t.Errorf("%s: %v, want %s", path, a, want)
		}
	}
	if a := q.get("/deliveries?endpoint=intercom"); a.status != http.StatusOK {
		t.Errorf("the other one: %v", a)
	}
}

func TestAdminRefusals(t *testing.T) {
	q, _ := deadLetters(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/deliveries?stat=dead", "", 400, `"stat": there is no such parameter; the parameters are endpoint, state, reason, status, topic, lane, workspace, notification, object, since, until, finished_since, finished_until, error, cursor, limit and order; did you mean state?`},
		{"GET", "/deliveries?state=ded", "", 400, `state "ded": there is no such state; they are waiting, delivering, retrying, delivered and dead; did you mean dead?`},
		{"GET", "/deliveries?topic=", "", 400, `"topic" has no value: leave it out, or give it one`},
		{"GET", "/deliveries?lane=suppport", "", 400, `lane "suppport": there is no such lane; they are billing, support and unrouted; did you mean support?`},
		{"GET", "/deliveries?limit=1001", "", 400, `limit 1001: a list has 1000 at most`},
		{"GET", "/deliveries?cursor=12", "", 400, `cursor: give one that an earlier answer to the same request had in its last line`},
		{"GET", "/deliveries?cursor=0-1-2", "", 400, `cursor: give one`},
		{"GET", "/deliveries?dry_run=true", "", 400, `"dry_run": there is no such parameter`},
		{"GET", "/deliveries", `{"topic":"a"}`, 400, `the request has a body: give parameters in the query`},
		{"POST", "/deliveries", "", 405, `method POST: use GET`},
		{"DELETE", "/deliveries/retry", "", 405, `method DELETE: use POST`},
		{"DELETE", "/notifications/1", "", 405, `method DELETE: use GET`},
		{"GET", "/notifications/", "", 404, `there is no such path; a notification has /intercom_webhook/notifications/<its id>`},
		{"GET", "/notifications/%00", "", 400, `the id is not text: escape UTF-8 with %, and leave out zero bytes`},
		{"GET", "/lanes?dead_letters=yes", "", 400, `dead_letters "yes": give true or false`},
		{"GET", "/lanes?lane=a", "", 400, `"lane": there is no such parameter; the parameters are endpoint`},
		{"POST", "/lanes/suppport/pause", "", 400, `lane "suppport": there is no such lane`},
		{"POST", "/lanes/%2Fpause", "", 404, `there is no such path; a lane has`},
		{"POST", "/lanes/support/stop", "", 404, `there is no such path; a lane has /intercom_webhook/lanes/<lane>/pause and /intercom_webhook/lanes/<lane>/resume`},
		{"GET", "/lanes/support/pause", "", 405, `method GET: use POST`},
		{"POST", "/deliveries/retri?state=dead", "", 404, `below /intercom_webhook/deliveries/ are drop, erase, resend and retry; did you mean retry?`},
		{"POST", "/deliveries/erase", "", 400, `erase needs a filter, such as`},
		{"POST", "/deliveries/erase?endpoint=intercom&limit=3", "", 400, `erase needs a filter, such as`},
		{"POST", "/deliveries/retry?lane=suppport", "", 400, `lane "suppport": there is no such lane`},
		{"POST", "/deliveries/drop?state=dead&to=support", "", 400, `drop has no parameter to: only retry and resend deliver`},
		{"POST", "/deliveries/retry?state=dead&to=suppport", "", 400, `lane "suppport": there is no such lane; they are billing and support; did you mean support?`},
		{"POST", "/deliveries/retry?state=dead&cursor=0-3", "", 400, `cursor: give one`},
		{"POST", "/deliveries/retry", `{"topic":"a"}`, 400, `the request has a body: give parameters in the query`},
		{"POST", "/deliveries/retry?topic=a", `notification=` + strings.Repeat("a,", 1<<19), 400, `the form is larger than 1048576 bytes: make several requests`},
		{"GET", "/deliveries", `notification=a`, 400, `the request has a body`},
		{"POST", "/deliveries/retry?topic=a", `topic=b`, 400, `the request has a body: give parameters in the query`},
	} {
		a := q.ask(c.method, c.path, c.body)
		if a.status != c.status || len(a.lines) != 1 || !strings.Contains(fmt.Sprint(a.lines[0]["error"]), c.want) {
			t.Errorf("%s %s %s: %d %v, want %d and %q", c.method, c.path, c.body, a.status, a.lines, c.status, c.want)
		}
		if c.status == http.StatusMethodNotAllowed && !strings.HasSuffix(c.want, a.header.Get("Allow")) {
			t.Errorf("%s %s: Allow is %q", c.method, c.path, a.header.Get("Allow"))
		}
	}
	if n := q.states()["support dead"]; n != 3 {
		t.Errorf("%d are left", n)
	}
}

func TestAdminWithoutQueue(t *testing.T) {
	q := start(t, nil)
	for _, path := range []string{"/lanes", "/deliveries", "/notifications/1"} {
		if a := q.get(path); a.status != http.StatusNotFound || a.lines[0]["error"] != "the config has no queue: give an intercom_webhook a `queue`" {
			t.Errorf("%s: %v", path, a)
		}
	}
}

// Caddy starts the admin endpoint first, which answered that the config has no queue.
func TestAdminWhileTheConfigStarts(t *testing.T) {
	q := start(t, nil)
	q.Starting.Store(true)
	if a := q.get("/lanes"); a.status != http.StatusServiceUnavailable || a.lines[0]["error"] != "the config is being started" {
		t.Errorf("got %v", a)
	}
}

func TestAdminChangesEndWithTheConfig(t *testing.T) {
	q, b := deadLetters(t)
	b.set("support", false)
	ended := make(chan answer)
	go func() { ended <- q.post("/deliveries/retry?state=dead&rate=0.9") }()
	q.eventually("support delivered", 1)
	later := q.reload(b.handler("support", "billing"))
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
	later.want(later.post(fmt.Sprint("/deliveries/retry?state=dead&cursor=", last["cursor"])), left, left, 0)
	later.eventually("support delivered", 3)
}
