package queue

import (
	"context"
	"errors"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// pageTest is a queue with the page of its web UI.
type pageTest struct {
	managedQueue
	ui *UI
}

func newPageTest(q managedQueue, prefix string) pageTest {
	ctx, cancel := context.WithCancel(context.Background())
	u := &UI{Prefix: prefix, dispatcher: q.dispatcher(), floodLogger: zap.NewNop(), started: make(chan struct{}), ctx: ctx, cancel: cancel}
	u.page = newPage(ctx, u.dispatcher, prefix)
	close(u.started)
	q.T.Cleanup(u.stop)
	return pageTest{q, u}
}

// visit sends a request of a browser on this machine, which set may change. It returns the
// status 0 if the request was for somebody else.
func (p pageTest) visit(method, path string, form url.Values, set func(*http.Request)) *httptest.ResponseRecorder {
	p.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "localhost:8080"
	r.Header.Set("Origin", "http://localhost:8080")
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "127.0.0.1")
	if set != nil {
		set(r)
	}
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		w.Code = 0
		return nil
	})
	if handlerErr, ok := errors.AsType[caddyhttp.HandlerError](p.ui.ServeHTTP(w, r, next)); ok {
		w.Code = handlerErr.StatusCode
	}
	return w
}

// see returns the text of a page.
func (p pageTest) see(path string) string {
	p.Helper()
	w := p.visit(http.MethodGet, path, nil, nil)
	if w.Code != http.StatusOK {
		p.Fatalf("%s: status %d: %s", path, w.Code, w.Body)
	}
	return w.Body.String()
}

// push sends a form, and follows where its answer leads.
func (p pageTest) push(path string, form url.Values) string {
	p.Helper()
	w := p.visit(http.MethodPost, path, form, nil)
	switch w.Code {
	case http.StatusOK:
		return w.Body.String()
	case http.StatusSeeOther:
		return p.see(w.Header().Get("Location"))
	}
	p.Fatalf("%s %v: status %d: %s", path, form, w.Code, w.Body)
	return ""
}

func (p pageTest) want(page string, texts ...string) {
	p.Helper()
	page = strings.Join(strings.Fields(page), " ")
	for _, text := range texts {
		if !strings.Contains(page, text) {
			p.Errorf("%q is not on the page: %s", text, page)
		}
	}
}

var groupField = regexp.MustCompile(`(?s)<th scope="row">([^<]*)</th>\s*<td class="text">(.*?)</td>.*?name="group" value="([^"]*)"`)

// groups returns the groups of dead letters on a page, by topic and reason.
func groups(page string) map[string]string {
	found := make(map[string]string)
	for _, match := range groupField.FindAllStringSubmatch(page, -1) {
		found[html.UnescapeString(match[1]+": "+match[2])] = match[3]
	}
	return found
}

const answered502 = "127.0.0.1:9: backend answered 502"

func TestPageShowsAndRetriesGroups(t *testing.T) {
	q, target := deadLetters(t)
	q.store("conversation.user.replied", "support", "notif_4")
	q.store("tomorrow.born", "support", "notif_5")
	q.eventually("support discarded", 5)
	q.damage(`UPDATE river_job SET errors = jsonb('[{"error":"backend answered 502"}]') WHERE id = 5`) // part of the others' reason
	p := newPageTest(q, "/queue")
	page := p.see("/queue/intercom")
	p.want(page, "5 in 4 groups.", `<td class="down">down</td>`, `<a href="/queue/intercom/job?id=4"><time`)
	found := groups(page)
	replied, part := found["conversation.user.replied: "+answered502], found["tomorrow.born: backend answered 502"]
	if len(found) != 4 || replied == "" || part == "" {
		t.Fatalf("groups %q", found)
	}

	target.set("support", false)
	p.want(p.push("/queue/intercom/change", url.Values{"verb": {"retry"}, "group": {replied}}),
		"retry dead letters with the topic <b>conversation.user.replied</b>", "2 of 2 done.")
	q.eventually("support completed", 2)
	p.want(p.push("/queue/intercom/change", url.Values{"verb": {"retry"}, "group": {part}}), "1 of 1 done.")
	q.eventually("support completed", 3)
	p.want(p.see("/queue/intercom"), "2 in 2 groups.")
}

func TestPageAsksBeforeItDrops(t *testing.T) {
	q, _ := deadLetters(t)
	p := newPageTest(q, "")
	form := url.Values{"verb": {"drop"}, "group": {groups(p.see("/intercom"))["tomorrow.born: "+answered502]}}
	p.want(p.push("/intercom/change", form), "This deletes all dead letters with the topic <b>tomorrow.born</b>", `name="confirmed"`)
	if n := q.states()["support discarded"]; n != 3 {
		t.Fatalf("%d are left without a confirmation", n)
	}
	form.Set("confirmed", "yes")
	p.want(p.push("/intercom/change", form), "1 of 1 done.")
	if n := q.states()["support discarded"]; n != 2 {
		t.Errorf("%d are left", n)
	}

	form = url.Values{"verb": {"drop"}, "job": {"1"}}
	p.want(p.push("/intercom/change", form), "This deletes job <b>1</b>.")
	form.Set("confirmed", "yes")
	p.want(p.push("/intercom/change", form), "1 of 1 done.")
	if w := p.visit(http.MethodPost, "/intercom/change", form, nil); w.Code != http.StatusNotFound {
		t.Errorf("the second time, the status is %d", w.Code)
	}
}

func TestPageShowsTheLifeOfANotification(t *testing.T) {
	q, target := deadLetters(t)
	p := newPageTest(q, "/queue")
	for _, id := range []string{"notif_2", "2", "+2+"} {
		p.want(p.see("/queue/intercom/job?id="+id), "Job 2: conversation.user.replied", `<dd class="discarded">discarded</dd>`, "<dd>notif_2</dd>", "<dd>tulip4</dd>",
			"<dd>1 of 1</dd>", "<td>127.0.0.1:9</td>", `<td class="number">502</td>`, answered502, "<pre>&lt;html&gt;</pre>",
			"<pre>POST /intercom?a=b HTTP/1.1 Host: example.com</pre>", "<pre>notif_2</pre>", `value="retry"`, `value="drop"`)
	}
	if w := p.visit(http.MethodGet, "/queue/intercom/job?id=notif_9", nil, nil); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "no notification in the queue, has this id") {
		t.Errorf("an unknown one: %d %s", w.Code, w.Body)
	}

	target.set("support", false)
	p.want(p.push("/queue/intercom/change", url.Values{"verb": {"retry"}, "job": {"2"}}), "retry job <b>2</b>", "1 of 1 done.", `href="/queue/intercom/job?id=2"`)
	q.eventually("support completed", 1)
	page := p.see("/queue/intercom/job?id=2")
	p.want(page, "<dt>Delivered</dt><dd><time", `value="resend"`, "<dd>2 of 2</dd>")
	if strings.Contains(page, `value="drop"`) {
		t.Error("what is no dead letter can be dropped")
	}
	p.want(p.push("/queue/intercom/change", url.Values{"verb": {"resend"}, "job": {"2"}}), "resend job <b>2</b>", "1 of 1 done.")
}

func TestPagePausesLanes(t *testing.T) {
	q, _ := deadLetters(t)
	p := newPageTest(q, "/queue")
	form := url.Values{"queue": {"intercom"}, "lane": {"billing"}, "action": {"pause"}}
	p.want(p.push("/queue/intercom/lane", form), `<td class="paused">paused</td>`, ">Resume</button>")
	form.Set("action", "resume")
	if page := p.push("/queue/intercom/lane", form); strings.Contains(page, "paused") {
		t.Errorf("it is still paused: %s", page)
	}
	form.Set("lane", "bill")
	if w := p.visit(http.MethodPost, "/queue/intercom/lane", form, nil); w.Code != http.StatusNotFound {
		t.Errorf("an unknown lane: %d", w.Code)
	}
}

func TestPageShowsForeignTextAsText(t *testing.T) {
	q := manageTestQueue(t, Options{MaxAttempts: 1}, &fakeTarget{lanes: []string{"support"}, answer: func(int) intercomwebhook.Delivery {
		return intercomwebhook.Delivery{Err: errors.New("backend answered 502")}
	}})
	const script, hidden = "<script>alert(1)</script>", "a\x1b[31m\u202eb"
	r := httptest.NewRequest(http.MethodPost, "/intercom", nil)
	if _, err := q.Store(r, intercomwebhook.Notification{Topic: script + hidden, Kind: intercom.OtherTopics, AppID: script, ID: "notif_1", Lane: "support", Body: []byte(`{"x":"` + script + `"}`)}); err != nil {
		t.Fatal(err)
	}
	q.eventually("support discarded", 1)
	q.damage(`UPDATE river_job SET errors = jsonb('[{"error":"<script>\u001b","upstream":"<script>","instance":"<script>","answer":"<script>\u0000\u001b</pre>"}]')`)
	p := newPageTest(q, "/queue")
	overview, job := p.see("/queue/intercom"), p.see("/queue/intercom/job?id=1")
	p.want(overview, `<th scope="row">&lt;script&gt;alert(1)&lt;/script&gt;a\x1b[31m\u202eb</th>`, `&lt;script&gt;\x1b</td>`)
	p.want(job, `<pre>&lt;script&gt;\x00\x1b&lt;/pre&gt;</pre>`, `<pre>{ &#34;x&#34;: &#34;&lt;script&gt;alert(1)&lt;/script&gt;&#34; }</pre>`, "<dd>"+html.EscapeString(script)+"</dd>")
	group := groupField.FindStringSubmatch(overview)[3]
	drop := p.push("/queue/intercom/change", url.Values{"verb": {"drop"}, "group": {group}})
	retry := p.push("/queue/intercom/change", url.Values{"verb": {"retry"}, "group": {group}})
	p.want(retry, "1 of 1 done.")
	missing := p.visit(http.MethodGet, "/queue/intercom/job?id="+url.QueryEscape(script+hidden), nil, nil).Body.String()
	p.want(missing, "&lt;script&gt;alert(1)")
	for _, page := range []string{overview, job, drop, retry, missing} {
		if strings.Contains(page, "<script") || strings.ContainsAny(page, "\x00\x1b\u202e") {
			t.Errorf("foreign text is not shown as text: %q", page)
		}
	}
}

func TestPageRefusals(t *testing.T) {
	q, _ := deadLetters(t)
	p := newPageTest(q, "")
	for _, c := range []struct {
		method, path, form string
		status             int
		want               string
	}{
		{"GET", "/intercom/nothing", "", 404, "there is no such page"},
		{"GET", "/intercom?from=x", "", 400, "from: give the number of a job"},
		{"POST", "/intercom/change", "", 400, "verb: give retry, resend or drop"},
		{"POST", "/intercom/change", "verb=erase&job=1", 400, "verb: give retry, resend or drop"},
		{"POST", "/intercom/change", "verb=retry", 400, "give a group, or the number of a job"},
		{"POST", "/intercom/change", "verb=retry&job=0", 400, "give a group, or the number of a job"},
		{"POST", "/intercom/change", "verb=retry&job=99", 404, "job 99 is not in the queue any more"},
		{"POST", "/intercom/change", "verb=retry&group=%25", 400, "the group of dead letters is malformed"},
		{"POST", "/intercom/change?verb=retry&job=1", "", 400, "verb: give"}, // a link is no form
		{"POST", "/intercom/change", "verb=%zz", 400, "the form cannot be read"},
		{"POST", "/intercom/lane", "action=stop&lane=support", 400, "action: give pause or resume"},
	} {
		form := func(r *http.Request) { r.Body = http.NoBody }
		if c.form != "" {
			form = func(r *http.Request) {
				*r = *httptest.NewRequestWithContext(r.Context(), r.Method, c.path, strings.NewReader(c.form))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				r.RemoteAddr, r.Host = "127.0.0.1:5000", "localhost:8080"
			}
		}
		w := p.visit(c.method, c.path, nil, form)
		if w.Code != c.status || !strings.Contains(html.UnescapeString(w.Body.String()), c.want) {
			t.Errorf("%s %s %s: %d %s, want %d and %q", c.method, c.path, c.form, w.Code, w.Body, c.status, c.want)
		}
	}
	for range maxRunningChanges {
		p.ui.page.changes.list = append(p.ui.page.changes.list, &pageChange{Verb: verbRetry, Running: true, Began: time.Now()})
	}
	if w := p.visit(http.MethodPost, "/intercom/change", url.Values{"verb": {"retry"}, "job": {"1"}}, nil); w.Code != http.StatusTooManyRequests {
		t.Errorf("one change too many: status %d", w.Code)
	}
	p.want(p.see("/intercom/changes"), `<meta http-equiv="refresh" content="2">`, "0 found; it goes on")
}

func TestPageBoundsItsGroups(t *testing.T) {
	q, _ := deadLetters(t)
	q.damage(`WITH RECURSIVE numbers (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM numbers WHERE value < 250)
		INSERT INTO river_job (args, attempt, created_at, errors, finalized_at, kind, max_attempts, metadata, priority, queue, state, scheduled_at, tags)
		SELECT args, attempt, created_at, jsonb_array(jsonb_object('error', 'failure ' || value)), finalized_at, kind, max_attempts, metadata, priority, queue, state, scheduled_at, tags
		FROM river_job, numbers WHERE id = 1`)
	p := newPageTest(q, "")
	page := p.see("/intercom")
	p.want(page, "200 in 200 groups.", "There are more groups than are shown. 53 dead letters are in others.")
	p.want(p.see("/intercom?from=3"), "3 in 3 groups, from job 3 to older ones.", "also those that are not counted here")
	p.want(p.push("/intercom/change", url.Values{"verb": {"retry"}, "group": {groups(page)["conversation.user.created: failure 77"]}}), "1 of 1 done.")
}

// A long change was forgotten after 20 later ones, and so more than 4 could run.
func TestPageRemembersWhatRuns(t *testing.T) {
	q, _ := deadLetters(t)
	p := newPageChanges(t.Context())
	long := &pageChange{Running: true}
	for range maxShownChanges + 1 {
		p.list = append(p.list, new(pageChange))
	}
	p.list = append(p.list, long)
	if err := p.start(endpoint{q.dispatcher(), "intercom", q.dispatcher().current()}, change{verb: verbRetry, dryRun: true}, new(pageChange)); err != nil {
		t.Fatal(err)
	}
	p.wait()
	if n := len(p.list); n != maxShownChanges+1 || p.list[n-1] != long {
		t.Errorf("%d changes are remembered, and the one that runs is not the oldest of them", n)
	}
}

func TestPageChangesEndWithTheConfig(t *testing.T) {
	q, target := deadLetters(t)
	target.set("support", false)
	p := newPageTest(q, "")
	as := &pageChange{Verb: verbRetry, Group: &deadGroup{Queue: "support", Topic: "a.b"}}
	slow := change{verb: verbRetry, selection: selection{filter: jobdb.Filter{States: deadStates}}, rate: 0.9}
	if err := p.ui.page.changes.start(endpoint{q.dispatcher(), "intercom", q.dispatcher().current()}, slow, as); err != nil {
		t.Fatal(err)
	}
	q.eventually("support completed", 1)
	p.want(p.see("/intercom/changes"), "it goes on", `<meta http-equiv="refresh" content="2">`)
	q.dispatcher().attach(attachments{"intercom": q.attachment})
	select {
	case <-as.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
	page := p.see("/intercom/changes")
	p.want(page, "It has ended early: "+errConfigChanged.Error())
	if strings.Contains(page, "refresh") {
		t.Error("the page is still refreshed")
	}

	p.ui.stop()
	w := p.visit(http.MethodPost, "/intercom/change", url.Values{"verb": {"retry"}, "job": {"1"}}, nil)
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), errConfigChanged.Error()) {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}
