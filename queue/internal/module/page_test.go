package module_test

import (
	"errors"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/module"
)

// pageTest is a config with the pages of its queue, which has three dead letters.
type pageTest struct {
	running
	ui *module.UI
}

func newPageTest(t *testing.T, prefix string) (pageTest, *backends) {
	ui := module.NewUI(prefix)
	q, b := deadLetters(t, ui)
	return pageTest{q, ui}, b
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

// group is the form of a group of dead letters.
func group(verb, topic string) url.Values {
	return url.Values{"verb": {verb}, "endpoint": {"intercom"}, "topic": {topic}, "lane": {"support"}, "reason": {"attempts"}}
}

// delivery is the form of a delivery.
func delivery(verb, id string) url.Values {
	return url.Values{"verb": {verb}, "endpoint": {"intercom"}, "delivery": {id}}
}

func TestPageShowsAndRetriesGroups(t *testing.T) {
	p, b := newPageTest(t, "/queue")
	p.store("conversation.user.replied", "support", "notif_4")
	p.eventually("support dead", 4)
	p.untilLanes("/lanes", "support", "dead", 4)
	page := p.see("/queue/")
	p.want(page, `<a href="/queue/deliveries?endpoint=intercom&amp;lane=support&amp;state=dead">4</a>`, `<th scope="row">tomorrow.born</th> <td>support</td> <td>attempts</td>`,
		`<a href="/queue/deliveries?endpoint=intercom&amp;state=dead&amp;topic=conversation.user.replied&amp;lane=support&amp;reason=attempts">2</a>`,
		`<td class="text">backend answered 502</td>`, `<input type="hidden" name="topic" value="tomorrow.born">`)
	if w := p.visit(http.MethodGet, "/queue", nil, nil); w.Header().Get("Location") != "/queue/" {
		t.Errorf("without a slash: %d %v", w.Code, w.Header())
	}
	b.set("support", false)
	p.want(p.push("/queue/change", group("retry", "conversation.user.replied")),
		"retry dead letters with the topic <b>conversation.user.replied</b>, the lane <b>support</b> and the reason <b>attempts</b>", "2 of 2 done.")
	p.eventually("support delivered", 2)
	if page := p.see("/queue/"); strings.Contains(page, "conversation.user.replied") {
		t.Errorf("the group is still there: %s", page)
	}
}

func TestPageAsksBeforeItDrops(t *testing.T) {
	p, _ := newPageTest(t, "")
	form := group("drop", "tomorrow.born")
	p.want(p.push("/change", form), "This deletes all dead letters with the topic <b>tomorrow.born</b>", `name="confirmed"`)
	if n := p.states()["support dead"]; n != 3 {
		t.Fatalf("%d are left without a confirmation", n)
	}
	form.Set("confirmed", "yes")
	p.want(p.push("/change", form), "1 of 1 done.")
	p.eventually("support dead", 2)

	form = delivery("drop", "100")
	p.want(p.push("/change", form), "This deletes delivery <b>100</b>.")
	form.Set("confirmed", "yes")
	p.want(p.push("/change", form), "1 of 1 done.")
	p.want(p.push("/change", form), "0 of 1 done, 1 skipped")
}

func TestPageListsDeliveries(t *testing.T) {
	p, _ := newPageTest(t, "/queue")
	for query, want := range map[string]string{
		"":                       "3 2 1",
		"?state=&topic=&lane=":   "3 2 1", // fields that were left empty
		"?state=dead&since=1h":   "3 2 1",
		"?topic=conversation.*":  "2 1",
		"?notification=notif_2":  "2",
		"?error=answered+503":    "",
		"?reason=age&workspace=": "",
	} {
		page, got := p.see("/queue/deliveries"+query), ""
		for _, id := range []string{"3", "2", "1"} {
			if strings.Contains(page, `<a href="/queue/notification?endpoint=intercom&amp;id=`+id+`">notif_`+id+"</a>") {
				got += " " + id
			}
		}
		if strings.TrimSpace(got) != want || want == "" != strings.Contains(page, "There are none") {
			t.Errorf("%s: %q, want %q: %s", query, got, want, page)
		}
	}
	page := p.see("/queue/deliveries?limit=2&state=dead")
	p.want(page, `<option selected>dead</option>`, `<a href="/queue/deliveries?cursor=0-100&amp;limit=2&amp;state=dead">Older ones</a>`)
	p.want(p.see("/queue/deliveries?cursor=0-100&limit=2&state=dead"), ">notif_1</a>")
	if w := p.visit(http.MethodGet, "/queue/deliveries?topic=a*", nil, nil); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "must be a whole segment") {
		t.Errorf("a malformed topic: %d %s", w.Code, w.Body)
	}
}

func TestPageShowsTheLifeOfANotification(t *testing.T) {
	p, b := newPageTest(t, "/queue")
	for _, id := range []string{"notif_2", "2", "+2+"} {
		p.want(p.see("/queue/notification?id="+id), "Notification 2: conversation.user.replied", "Delivery 200 to the lane support",
			`<span class="dead">dead</span> (attempts)`, "<dd>notif_2</dd>", "<dd>tulip4</dd>",
			"<td>127.0.0.1:9</td>", `<td class="number">502</td>`, `<td class="text">backend answered 502</td>`, "<pre>&lt;html&gt;</pre>",
			"<pre>POST /intercom?a=b HTTP/1.1 Host: example.com X-Hub-Signature: sha1=00 </pre>", "<pre>notif_2</pre>", `value="retry"`, `value="drop"`)
	}
	if w := p.visit(http.MethodGet, "/queue/notification?id=notif_9", nil, nil); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "no notification in the queue has this id") {
		t.Errorf("an unknown one: %d %s", w.Code, w.Body)
	}

	b.set("support", false)
	p.want(p.push("/queue/change", delivery("retry", "200")), "retry delivery <b>200</b>", "1 of 1 done.")
	p.eventually("support delivered", 1)
	page := p.see("/queue/notification?id=2")
	p.want(page, "<dt>Delivered</dt><dd><time", `value="resend"`)
	if strings.Contains(page, `value="drop"`) {
		t.Error("what is no dead letter can be dropped")
	}
	p.want(p.push("/queue/change", delivery("resend", "200")), "resend delivery <b>200</b>", "1 of 1 done.")
}

func TestPagePausesLanes(t *testing.T) {
	p, _ := newPageTest(t, "/queue")
	form := url.Values{"endpoint": {"intercom"}, "lane": {"billing"}, "action": {"pause"}}
	p.want(p.push("/queue/lane", form), `<td class="paused">paused</td>`, ">Resume</button>")
	form.Set("action", "resume")
	if page := p.push("/queue/lane", form); strings.Contains(page, `>paused</td>`) {
		t.Errorf("it is still paused: %s", page)
	}
	form.Set("lane", "bill")
	if w := p.visit(http.MethodPost, "/queue/lane", form, nil); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "did you mean billing?") {
		t.Errorf("an unknown lane: %d", w.Code)
	}
}

func TestPageShowsForeignTextAsText(t *testing.T) {
	const script, hidden = "<script>alert(1)</script>", "a\x1b[31m\u202eb"
	p, b := newPageTest(t, "/queue")
	handler := b.handler("support", script)
	handler.Route = func(*http.Request, []byte, intercomwebhook.Attempt, string) (string, func() intercomwebhook.Delivery) {
		return "support", func() intercomwebhook.Delivery {
			return intercomwebhook.Delivery{Err: errors.New(script + "\x1b"), Upstream: script, Status: 502, Answer: []byte(script + "\x00\x1b</pre>")}
		}
	}
	ui := module.NewUI("/queue")
	later := start(t, []*module.UI{ui}, module.NewQueue(p.queues[0].Database(), "intercom", options, handler))
	p.Stop()
	p = pageTest{later, ui}
	r := httptest.NewRequest(http.MethodPost, "/intercom", nil)
	r.Header.Set("X-Foreign", script+hidden)
	n := intercomwebhook.Notification{Topic: script + hidden, Workspace: script, ID: script + hidden, Lane: "support", Body: []byte(`{"x":"` + script + `"}`)}
	if _, err := p.queues[0].Store(r, n); err != nil {
		t.Fatal(err)
	}
	p.eventually("support dead", 4)
	overview, life, list := p.see("/queue/"), p.see("/queue/notification?id=4"), p.see("/queue/deliveries?limit=1")
	p.want(overview, `<th scope="row">&lt;script&gt;alert(1)&lt;/script&gt;a\x1b[31m\u202eb</th>`, `&lt;/script&gt;\x1b</td>`)
	p.want(list, `>&lt;script&gt;alert(1)&lt;/script&gt;a\x1b[31m\u202eb</a>`, `&lt;/script&gt;\x1b</td>`)
	p.want(life, `<pre>&lt;script&gt;alert(1)&lt;/script&gt;\x00\x1b&lt;/pre&gt;</pre>`, `<pre>{ &#34;x&#34;: &#34;&lt;script&gt;alert(1)&lt;/script&gt;&#34; }</pre>`,
		"<dd>"+html.EscapeString(script)+"</dd>", `X-Foreign: &lt;script&gt;alert(1)&lt;/script&gt;a\x1b[31m\u202eb`)
	drop := p.push("/queue/change", group("drop", script+hidden))
	missing := p.visit(http.MethodGet, "/queue/notification?id="+url.QueryEscape("no"+script+hidden), nil, nil).Body.String()
	p.want(missing, "&lt;script&gt;alert(1)")
	query := p.see("/queue/deliveries?error=" + url.QueryEscape(`">`+script))
	for name, page := range map[string]string{"overview": overview, "life": life, "list": list, "drop": drop, "missing": missing, "query": query} {
		visible := strings.ReplaceAll(page, `value="`+html.EscapeString(script+hidden), "") // which nobody sees
		if strings.Contains(page, "<script") || strings.ContainsAny(visible, "\x00\x1b\u202e") {
			t.Errorf("foreign text is not shown as text in %s: %q", name, page)
		}
	}
}

func TestPageRefusals(t *testing.T) {
	p, _ := newPageTest(t, "")
	for _, c := range []struct {
		method, path, form string
		status             int
		want               string
	}{
		{"POST", "/change", "", 400, "verb: give retry, resend or drop"},
		{"POST", "/change", "verb=erase&endpoint=intercom&delivery=1", 400, "verb: give retry, resend or drop"},
		{"POST", "/change", "verb=retry&delivery=100", 400, "endpoint: give its name"},
		{"POST", "/change", "verb=retry&endpoint=intercom", 400, "give the number of a delivery, or a topic, a lane and a reason"},
		{"POST", "/change", "verb=retry&endpoint=intercom&topic=a.b&lane=support&reason=", 400, "give the number of a delivery, or a topic, a lane and a reason"},
		{"POST", "/change", "verb=retry&endpoint=intercom&delivery=0", 400, "delivery: give a number"},
		{"POST", "/change?verb=retry&endpoint=intercom&delivery=100", "", 400, "verb: give"}, // a link is no form
		{"POST", "/change", "verb=%zz", 400, "the form cannot be read"},
		{"POST", "/lane", "action=stop&lane=support&endpoint=intercom", 400, "give a lane, and the action pause or resume"},
		{"POST", "/lane", "action=pause&endpoint=intercom", 400, "give a lane, and the action pause or resume"},
		{"POST", "/lane?action=pause&lane=support&endpoint=intercom", "", 400, "give a lane"},
	} {
		form := func(r *http.Request) { r.Body = http.NoBody }
		if c.form != "" {
			form = func(r *http.Request) {
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(c.form)), int64(len(c.form))
			}
		}
		w := p.visit(c.method, c.path, nil, form)
		if w.Code != c.status || !strings.Contains(html.UnescapeString(w.Body.String()), c.want) {
			t.Errorf("%s %s %s: %d %s, want %d and %q", c.method, c.path, c.form, w.Code, w.Body, c.status, c.want)
		}
	}
	if n := p.states()["support dead"]; n != 3 {
		t.Errorf("%d are left", n)
	}
}

func TestPageAccess(t *testing.T) {
	p, _ := newPageTest(t, "/queue")
	retry := group("retry", "tomorrow.born")
	for name, c := range map[string]struct {
		path string
		form url.Values
		set  func(*http.Request)
	}{
		"a form of another site":             {"/queue/change", retry, func(r *http.Request) { r.Header.Set("Origin", "https://attacker.example") }},
		"a form of another site, by a label": {"/queue/change", retry, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }},
		"a form of a sandbox":                {"/queue/lane", url.Values{"action": {"pause"}}, func(r *http.Request) { r.Header.Set("Origin", "null") }},
		"another machine":                    {"/queue/change", retry, func(r *http.Request) { r.RemoteAddr = "192.0.2.1:5000" }},
		"another host":                       {"/queue/change", retry, func(r *http.Request) { r.Host = "attacker.example" }},
		"a reader on another machine":        {"/queue/", nil, func(r *http.Request) { r.RemoteAddr = "192.0.2.1:5000" }},
		"a reader behind a proxy":            {"/queue/", nil, func(r *http.Request) { r.Header.Set("X-Forwarded-Host", "hooks.example") }},
		"an image of another site":           {"/queue/", nil, fetch("cross-site", "no-cors", "image")},
		"a frame of another site":            {"/queue/", nil, fetch("cross-site", "navigate", "iframe")},
		"a script of a neighbouring site":    {"/queue/deliveries", nil, fetch("same-site", "cors", "empty")},
		"a reader of one notification":       {"/queue/notification?id=1", nil, func(r *http.Request) { r.RemoteAddr = "192.0.2.1:5000" }},
		"a reader of a list":                 {"/queue/deliveries", nil, func(r *http.Request) { r.Host = "attacker.example" }},
	} {
		method := http.MethodGet
		if c.form != nil {
			method = http.MethodPost
		}
		if w := p.visit(method, c.path, c.form, c.set); w.Code != http.StatusForbidden || strings.Contains(w.Body.String(), "tomorrow") {
			t.Errorf("%s: status %d: %s", name, w.Code, w.Body)
		}
	}
	if n := p.states()["support dead"]; n != 3 {
		t.Errorf("%d dead letters are left", n)
	}
	for _, from := range []func(*http.Request){fetch("cross-site", "navigate", "document"), fetch("none", "navigate", "document"), fetch("same-origin", "cors", "empty")} {
		if w := p.visit(http.MethodGet, "/queue/", nil, from); w.Code != http.StatusOK {
			t.Errorf("a page that a person opens, or that asks for itself: status %d", w.Code)
		}
	}
	if w := p.visit(http.MethodGet, "/queue/change", nil, nil); w.Code != http.StatusNotFound && w.Code != http.StatusMethodNotAllowed {
		t.Errorf("a change by GET: status %d", w.Code)
	}
	header := p.visit(http.MethodGet, "/queue/", nil, nil).Header()
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		"X-Content-Type-Options":  "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Content-Type": "text/html; charset=utf-8",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if w := p.visit(http.MethodGet, "/queue/style.css", nil, nil); w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/css") {
		t.Errorf("the style sheet: status %d, %v", w.Code, w.Header())
	}
}

// fetch makes a request one that a browser sends for a site, in a mode, to show what it gets.
func fetch(site, mode, dest string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", site)
		r.Header.Set("Sec-Fetch-Mode", mode)
		r.Header.Set("Sec-Fetch-Dest", dest)
	}
}

func TestPageLeavesOtherRequestsToTheWebhook(t *testing.T) {
	for _, prefix := range []string{"", "/queue"} {
		p, _ := newPageTest(t, prefix)
		for _, path := range []string{"/", "/deliveries", "/change/", "/changes", "/Lane"} {
			if w := p.visit(http.MethodPost, prefix+path, nil, nil); w.Code != 0 {
				t.Errorf("POST %s%s: status %d", prefix, path, w.Code)
			}
		}
		if w := p.visit(http.MethodHead, prefix+"/", nil, nil); (w.Code == 0) != (prefix == "") {
			t.Errorf("HEAD %s/: status %d", prefix, w.Code)
		}
		if w := p.visit(http.MethodPost, "/intercom/change", nil, nil); w.Code != 0 {
			t.Errorf("POST outside of the prefix: status %d", w.Code)
		}
		asJSON := func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }
		if w := p.visit(http.MethodPost, prefix+"/change", nil, asJSON); w.Code != 0 {
			t.Errorf("a notification to the path of a form: status %d", w.Code)
		}
		if w := p.visit(http.MethodGet, prefix+"/api/health", nil, nil); (w.Code == 0) != (prefix == "") {
			t.Errorf("GET of what is no page, under the prefix %q: status %d", prefix, w.Code)
		}
	}
}

func TestPageChangesEndWithTheConfig(t *testing.T) {
	p, _ := newPageTest(t, "")
	p.want(p.see("/changes"), "Nobody has changed anything here")
	before := p.ui
	p.reload((&backends{}).handler("support"))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		w := pageTest{p.running, before}.visit(http.MethodGet, "/", nil, nil)
		if w.Code == http.StatusServiceUnavailable && strings.Contains(w.Body.String(), "the config has changed: run it again to go on") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	}
}
