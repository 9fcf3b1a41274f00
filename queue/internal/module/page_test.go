package module_test

import (
	"errors"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
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

var hiddenField = regexp.MustCompile(`<input type="hidden" name="([a-z_]+)" value="([^"]*)">`)

// confirm sends the form that a page asks to confirm, with further fields.
func (p pageTest) confirm(page string, fields ...string) string {
	p.Helper()
	form := make(url.Values)
	for _, field := range hiddenField.FindAllStringSubmatch(page, -1) {
		form.Add(field[1], html.UnescapeString(field[2]))
	}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return p.push(p.ui.Prefix+"/change", form)
}

// ask opens the page that asks whether to make a change.
func (p pageTest) ask(form url.Values) string {
	p.Helper()
	return p.see(p.ui.Prefix + "/confirm?" + form.Encode())
}

func TestPageShowsAndRetriesGroups(t *testing.T) {
	p, b := newPageTest(t, "/queue")
	p.store("conversation.user.replied", "support", "notif_4")
	p.eventually("support dead", 4)
	p.untilLanes("/lanes", "support", "dead", 4)
	p.want(p.see("/queue/"), `<b>4</b> dead letters`, `2 dead letters</a></b> of conversation.user.replied in support (attempts)`, `<q>backend answered 502</q>`,
		`<a href="/queue/deliveries?endpoint=intercom&amp;lane=support&amp;state=dead">4</a>`)
	p.want(p.see("/queue/dead"), "4 deliveries</a> in 3 groups", `<th scope="row">tomorrow.born</th>`, `<td class="text">backend answered 502</td>`,
		`<a href="/queue/deliveries?endpoint=intercom&amp;lane=support&amp;reason=attempts&amp;state=dead&amp;topic=conversation.user.replied"`)
	if w := p.visit(http.MethodGet, "/queue", nil, nil); w.Header().Get("Location") != "/queue/" {
		t.Errorf("without a slash: %d %v", w.Code, w.Header())
	}
	b.set("support", false)
	asked := p.ask(group("retry", "conversation.user.replied"))
	p.want(asked, "Retry 2 deliveries?", "topic <b>conversation.user.replied</b>", "reason <b>attempts</b>", "state <b>dead</b>", "notif_2", "notif_4")
	p.want(p.confirm(asked), "<b>2 of 2 retried</b>", "By 127.0.0.1",
		`<a href="/queue/deliveries?endpoint=intercom&amp;lane=support&amp;reason=attempts&amp;state=dead&amp;topic=conversation.user.replied">What is left</a>`)
	p.eventually("support delivered", 2)
	if page := p.see("/queue/dead"); strings.Contains(page, "conversation.user.replied") {
		t.Errorf("the group is still there: %s", page)
	}
}

// Who clicks twice, or confirms what has changed meanwhile, changes nothing a second time.
func TestPageChangesWhatItHasCounted(t *testing.T) {
	p, b := newPageTest(t, "")
	b.set("support", false)
	filter := url.Values{"verb": {"retry"}, "endpoint": {"intercom"}, "state": {"dead"}, "lane": {"support"}}
	first, second := p.ask(filter), p.ask(filter)
	p.want(p.confirm(first), "<b>3 of 3 retried</b>")
	p.eventually("support delivered", 3)
	p.want(p.confirm(second), "<b>0 of 0 retried</b>")
	p.confirm(first)
	b.set("support", true)
	p.store("conversation.user.created", "support", "notif_later")
	p.eventually("support dead", 1)
	p.want(p.confirm(first), "<b>0 of 0 retried</b>")
	if got := len(b.bodies()); got != 7 {
		t.Errorf("%d deliveries, want 7: three that failed, three retries, and a later one", got)
	}
	p.want(p.ask(url.Values{"verb": {"drop"}, "endpoint": {"intercom"}, "lane": {"billing"}}), "Drop 0 deliveries?", "There are none.")
}

func TestPageSendsToAnotherLane(t *testing.T) {
	p, _ := newPageTest(t, "")
	asked := p.ask(delivery("retry", "100"))
	p.want(asked, "Retry 1 delivery?", "<option>billing</option>")
	p.want(p.confirm(asked, "to", "billing", "rate", "5"), "delivery 100, to the lane <b>billing</b>", "<b>1 of 1 retried</b>")
	p.eventually("billing delivered", 1)
	p.want(p.see("/notification?id=1"), "Lane billing", "cancelled, sent to billing")
	asked = p.ask(url.Values{"verb": {"resend"}, "endpoint": {"intercom"}, "lane": {"billing"}})
	p.want(asked, "Resend 1 delivery?", "state <b>delivered</b>")
	p.want(p.confirm(asked), "<b>1 of 1 resent</b>")
}

func TestPageAsksBeforeItDrops(t *testing.T) {
	p, _ := newPageTest(t, "")
	asked := p.push("/change", group("drop", "tomorrow.born"))
	p.want(asked, "Drop 1 delivery?", "This deletes them.", `name="confirmed"`)
	if n := p.states()["support dead"]; n != 3 {
		t.Fatalf("%d are left without a confirmation", n)
	}
	p.want(p.confirm(asked), "<b>1 of 1 dropped</b>")
	p.eventually("support dead", 2)

	asked = p.ask(delivery("drop", "100"))
	p.want(p.confirm(asked), "<b>1 of 1 dropped</b>")
	p.want(p.confirm(asked), "<b>0 of 1 dropped</b>, 1 skipped")
}

func TestPageListsDeliveries(t *testing.T) {
	p, _ := newPageTest(t, "/queue")
	for query, want := range map[string]string{
		"":                      "3 2 1",
		"?state=dead&since=1h":  "3 2 1",
		"?order=oldest":         "3 2 1",
		"?topic=conversation.*": "2 1",
		"?notification=notif_2": "2",
		"?status=5xx":           "3 2 1",
		"?error=answered+503":   "",
		"?reason=age":           "",
	} {
		page, got := p.see("/queue/deliveries"+query), ""
		for _, id := range []string{"3", "2", "1"} {
			if strings.Contains(page, `<a href="/queue/notification?endpoint=intercom&amp;id=`+id+`">`) && strings.Contains(page, ">notif_"+id+"<") {
				got += " " + id
			}
		}
		if strings.TrimSpace(got) != want || want == "" != strings.Contains(page, "There are none") {
			t.Errorf("%s: %q, want %q: %s", query, got, want, page)
		}
	}
	page := p.see("/queue/deliveries?limit=2&state=dead")
	p.want(page, `<option selected>dead</option>`, `href="/queue/deliveries?cursor=0-100&amp;limit=2&amp;state=dead">Older ones</a>`,
		`href="/queue/confirm?endpoint=intercom&amp;state=dead&amp;verb=retry"`, `verb=drop"`)
	if strings.Contains(page, "verb=resend") || strings.Contains(p.see("/queue/deliveries"), "verb=") {
		t.Error("there is a button that changes nothing, or all")
	}
	p.want(p.see("/queue/deliveries?cursor=0-100&limit=2&state=dead"), ">notif_1<")
	if w := p.visit(http.MethodGet, "/queue/deliveries?state=dead&topic=&lane=", nil, nil); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/queue/deliveries?state=dead" {
		t.Errorf("fields that were left empty: %d %v", w.Code, w.Header())
	}
	w := p.visit(http.MethodGet, "/queue/deliveries?topic=a*&lane=support", nil, nil)
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "must be a whole segment") || !strings.Contains(w.Body.String(), `value="a*"`) {
		t.Errorf("a malformed topic: %d %s", w.Code, w.Body)
	}
}

func TestPageFinds(t *testing.T) {
	p, _ := newPageTest(t, "/queue")
	for id, want := range map[string]string{
		"notif_2": "/queue/notification?endpoint=intercom&id=notif_2", "2": "/queue/notification?endpoint=intercom&id=2",
		"+2+": "/queue/notification?endpoint=intercom&id=2", "conversation:77": "/queue/deliveries?object=conversation%3A77", "": "/queue/",
	} {
		if w := p.visit(http.MethodGet, "/queue/find?id="+id, nil, nil); w.Code != http.StatusSeeOther || w.Header().Get("Location") != want {
			t.Errorf("%q: %d, leads to %s, want %s", id, w.Code, w.Header().Get("Location"), want)
		}
	}
}

func TestPageShowsTheLifeOfANotification(t *testing.T) {
	p, b := newPageTest(t, "/queue")
	for _, id := range []string{"notif_2", "2", "+2+"} {
		p.want(p.see("/queue/notification?id="+id), "<h1>conversation.user.replied</h1>", "Lane support",
			`<span class="state dead">dead</span> <small>attempts</small>`, "notif_2 <small>number 2</small>", ">tulip4</a>",
			"<b>502</b> from 127.0.0.1:9 in", "<br>backend answered 502", "<pre>&lt;html&gt;</pre>", `<svg class="life"`,
			"POST example.com/intercom?a=b HTTP/1.1", `<th scope="row">X-Hub-Signature</th><td>sha1=00</td>`, "<div>notif_2</div>",
			"verb=retry", "verb=drop", "caddy intercom-webhook queue retry 2", "-H &#39;X-Hub-Signature: sha1=00&#39;")
	}
	if w := p.visit(http.MethodGet, "/queue/notification?id=notif_9", nil, nil); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "no notification in the queue has this id") {
		t.Errorf("an unknown one: %d %s", w.Code, w.Body)
	}
	w := p.visit(http.MethodGet, "/queue/body?id=2", nil, nil)
	if got := w.Header(); w.Body.String() != "notif_2" || got.Get("Content-Type") != "application/octet-stream" || got.Get("Content-Disposition") != `attachment; filename="notification-2.json"` {
		t.Errorf("the body: %q %v", w.Body, got)
	}

	b.set("support", false)
	p.want(p.confirm(p.ask(delivery("retry", "200"))), "delivery 200", "<b>1 of 1 retried</b>")
	p.eventually("support delivered", 1)
	page := p.see("/queue/notification?id=2")
	p.want(page, ">succeeded</span> <b>200</b>", "delivered <time", "verb=resend")
	if strings.Contains(page, "verb=drop") {
		t.Error("what is no dead letter can be dropped")
	}
	p.want(p.confirm(p.ask(delivery("resend", "200"))), "delivery 200", "<b>1 of 1 resent</b>")
}

// What the script has already is not sent again.
func TestPageIsRefreshedInPart(t *testing.T) {
	p, _ := newPageTest(t, "/queue")
	ask := func(tag string) *httptest.ResponseRecorder {
		return p.visit(http.MethodGet, "/queue/dead", nil, func(r *http.Request) {
			r.Header.Set("X-Part", "main")
			r.Header.Set("If-None-Match", tag)
		})
	}
	part := ask("")
	if part.Code != http.StatusOK || strings.Contains(part.Body.String(), "<html") || !strings.Contains(part.Body.String(), "tomorrow.born") {
		t.Errorf("the part is %d %s", part.Code, part.Body)
	}
	tag := part.Header().Get("ETag")
	p.want(p.see("/queue/dead"), html.EscapeString(tag), part.Body.String()[:20])
	if w := ask(tag); w.Code != http.StatusNotModified || w.Body.Len() != 0 {
		t.Errorf("without a change: %d %s", w.Code, w.Body)
	}
	p.store("another.topic", "support", "notif_4")
	p.eventually("support dead", 4)
	if w := ask(tag); w.Code != http.StatusOK || w.Header().Get("ETag") == tag {
		t.Errorf("after a change: %d", w.Code)
	}
}

func TestPageOfANewQueue(t *testing.T) {
	ui := module.NewUI("")
	q := start(t, []*module.UI{ui}, module.NewQueue(file(t), "intercom", options, (&backends{}).handler("support")))
	page := pageTest{q, ui}.see("/")
	pageTest{q, ui}.want(page, "Nothing has come yet", "caddy intercom-webhook send conversation.user.created http://localhost:8080/&lt;path of intercom_webhook&gt;", "that has not come yet")
	if strings.Contains(page, "All is well") {
		t.Error("nothing is known, and all is said to be well")
	}
}

func TestPagePausesLanes(t *testing.T) {
	p, _ := newPageTest(t, "/queue")
	form := url.Values{"endpoint": {"intercom"}, "lane": {"billing"}, "action": {"pause"}}
	p.want(p.push("/queue/lane", form), "Lane billing", `<span class="state paused">paused</span>`, ">Resume billing</button>")
	p.want(p.see("/queue/"), `billing</a> is paused`, ">Resume billing</button>")
	form.Set("action", "resume")
	if page := p.push("/queue/lane", form); strings.Contains(page, `>paused<`) {
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
	const shown = `&lt;script&gt;alert(1)&lt;/script&gt;a\x1b[31m\u202eb`
	overview, dead, life, list := p.see("/queue/"), p.see("/queue/dead"), p.see("/queue/notification?id=4"), p.see("/queue/deliveries?limit=1")
	p.want(overview, "of "+shown+" in support", `<q>&lt;script&gt;alert(1)&lt;/script&gt;\x1b</q>`)
	p.want(dead, `<th scope="row">`+shown+`</th>`, `&lt;/script&gt;\x1b</td>`)
	p.want(list, ">"+shown+"</a>", `&lt;/script&gt;\x1b <br>`)
	p.want(life, `<pre>&lt;script&gt;alert(1)&lt;/script&gt;\x00\x1b&lt;/pre&gt;</pre>`, `<div>&#34;x&#34;: &#34;&lt;script&gt;alert(1)&lt;/script&gt;&#34;</div>`,
		html.EscapeString(script)+"</a></dd>", `<th scope="row">X-Foreign</th><td>`+shown)
	drop := p.ask(url.Values{"verb": {"drop"}, "endpoint": {"intercom"}, "workspace": {script}, "error": {script + hidden}})
	p.want(drop, "workspace <b>"+html.EscapeString(script)+"</b>", "error <b>"+shown)
	changed := p.confirm(p.ask(url.Values{"verb": {"drop"}, "endpoint": {"intercom"}, "workspace": {script}}))
	p.want(changed, "<b>1 of 1 dropped</b>", "workspace <b>"+html.EscapeString(script)+"</b>")
	missing := p.visit(http.MethodGet, "/queue/notification?id="+url.QueryEscape("no"+script+hidden), nil, nil).Body.String()
	p.want(missing, "&lt;script&gt;alert(1)")
	query := p.see("/queue/deliveries?error=" + url.QueryEscape(`">`+script))
	for name, page := range map[string]string{
		"overview": overview, "dead": dead, "life": life, "list": list, "drop": drop, "changed": changed, "missing": missing, "query": query,
	} {
		visible := strings.ReplaceAll(page, `value="`+html.EscapeString(script+hidden), "") // which nobody sees
		if strings.Contains(page, "<script>") || strings.ContainsAny(visible, "\x00\x1b\u202e") {
			t.Errorf("foreign text is not shown as text in %s: %q", name, page)
		}
	}
}

// A page of a body of a megabyte that was nested deeply took more than a gigabyte.
func TestPageBoundsForeignBodies(t *testing.T) {
	p, _ := newPageTest(t, "")
	for id, body := range map[string]string{
		"deep":  strings.Repeat(`{"a":[`, 4000) + `"<b>"` + strings.Repeat(`]}`, 4000),
		"wide":  "[" + strings.Repeat(`{"a":[[1,2]]},`, 70_000) + "1]",
		"text":  strings.Repeat("<b>\x1b", 250_000),
		"jumps": strings.Repeat("[", 1<<20),
	} {
		r := httptest.NewRequest(http.MethodPost, "/intercom", nil)
		if _, err := p.queues[0].Store(r, intercomwebhook.Notification{Topic: "a.b", ID: id, Lane: "support", Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
		page := p.see("/notification?id=" + id)
		opened, closed := strings.Count(page, "<details"), strings.Count(page, "</details>")
		if len(page) > 4<<20 || opened != closed || strings.Contains(page, "<b>\x1b") {
			t.Errorf("%s: %d bytes have become a page of %d, with %d details opened and %d closed", id, len(body), len(page), opened, closed)
		}
		if w := p.visit(http.MethodGet, "/body?id="+id, nil, nil); w.Body.String() != body {
			t.Errorf("%s: the body that is downloaded has %d bytes, want %d", id, w.Body.Len(), len(body))
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
		{"POST", "/change", "verb=retry&endpoint=intercom", 400, "retry needs a filter"},
		{"POST", "/change", "verb=retry&endpoint=intercom&state=&reason=", 400, "retry needs a filter"},
		{"POST", "/change", "verb=drop&endpoint=intercom&state=dead&lan=support", 400, "did you mean lane?"},
		{"POST", "/change", "verb=drop&endpoint=intercom&state=dead&whole=true", 400, "only erase rewrites the file"},
		{"GET", "/lane?lane=none", "", 404, "no config has this lane"},
		{"POST", "/change", "verb=retry&endpoint=intercom&delivery=0", 400, "delivery: give a number"},
		{"POST", "/change?verb=retry&endpoint=intercom&delivery=100", "", 400, "verb: give"}, // a link is no form
		{"POST", "/change", "verb=%zz", 400, "the form cannot be read"},
		{"POST", "/lane", "action=stop&lane=support&endpoint=intercom", 400, "give an endpoint, a lane, and the action pause or resume"},
		{"POST", "/lane", "action=pause&endpoint=intercom", 400, "give an endpoint, a lane, and the action pause or resume"},
		{"POST", "/lane", "action=pause&lane=support", 400, "give an endpoint, a lane, and the action pause or resume"},
		{"POST", "/lane?action=pause&lane=support&endpoint=intercom", "", 400, "give an endpoint, a lane"},
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
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		"X-Content-Type-Options":  "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Content-Type": "text/html; charset=utf-8",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for file, kind := range map[string]string{"style.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"} {
		w := p.visit(http.MethodGet, "/queue/"+file, nil, fetch("same-origin", "no-cors", "style"))
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) {
			t.Errorf("%s: status %d, %v", file, w.Code, w.Header())
		}
		if file == "refresh.js" && w.Body.Len() > 3<<10 {
			t.Errorf("the script has %d bytes, want at most 3 KiB", w.Body.Len())
		}
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
