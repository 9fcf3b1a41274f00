package browser

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/history"
)

// From the overview of a bad morning to the last dead letter.
func TestAnIncident(t *testing.T) {
	backend := newBackend(t)
	base := startGateway(t, backend.address)
	ui := base + "/queue"
	const hostile = `<script>document.title="owned"</script>`
	for id, topic := range map[string]string{"notif_1": "conversation.user.replied", "notif_2": "conversation.user.replied", "notif_3": "contact.deleted", "notif_4": "other.topic"} {
		postNotification(t, base+"/intercom", fmt.Appendf(nil, `{"type":"notification_event","app_id":"tulip4","data":{"item":{"body":%q}},"id":%q,"topic":%q}`, hostile, id, topic))
		awaitDeadLetter(t, ui, id)
	}
	b := newBrowser(t, ui)
	b.openUntil(ui+"/", "2 dead letters of conversation.user.replied in support (attempts)")
	b.wait("backend answered 503", "4 dead letters")
	b.click("2 dead letters")
	b.wait("notif_1", "notif_2", "dead attempts", "503")
	b.clickAt(`//tr[contains(., "notif_2")]//th/a`)
	b.wait("failed 503 from "+backend.address, strings.ReplaceAll(hostileAnswer, "\x1b", `\x1b`), `"body": "<script>document.title=\"owned\"</script>"`)

	b.click("Dead letters")
	b.wait("4 deliveries in 3 groups", "contact.deleted", "other.topic")
	b.clickIn("conversation.user.replied", "Retry")
	b.wait("Retry 2 deliveries?", "topic conversation.user.replied", "state dead", "notif_1", "notif_2")
	backend.mended.Store(true)
	b.click("Retry 2 deliveries")
	b.wait("done Retry:", "2 of 2 retried", "By 127.0.0.1")
	b.click("What is left")
	b.wait("There are none.")
	b.openUntil(ui+"/notification?id=notif_2", "succeeded 200")
	backend.wantCount(t, 6)
	got := backend.all()[5]
	if !bytes.Contains(got.body, []byte("conversation.user.replied")) || got.header.Get("X-Intercom-Attempt") != "1" {
		t.Errorf("the backend got %q as attempt %s, want it as attempt 1, with its whole schedule before it", got.body, got.header.Get("X-Intercom-Attempt"))
	}

	b.click("Dead letters")
	b.clickIn("other.topic", "Drop")
	b.wait("Drop 1 delivery?", "This deletes them. It cannot be undone.")
	b.click("Drop 1 delivery")
	b.wait("1 of 1 dropped")
	b.click("Dead letters")
	b.clickIn("contact.deleted", "Retry")
	b.click("Retry 1 delivery")
	b.wait("1 of 1 retried")
	b.click("Dead letters")
	b.wait("There are none.")

	b.click("Overview")
	b.clickAt(`//table//a[.="support"]`)
	b.wait("Lane support")
	b.click("Pause support")
	b.wait("Lane support paused")
	b.click("Overview")
	b.wait("Lane support is paused.")
	b.click("Resume support")
	b.wait("Pause support")
	b.is("foreign text must be text", `document.title.startsWith("Lane support") && document.scripts.length == 1`)
}

// clickIn clicks on the link with this text in the row of a table that has another text.
func (b *browser) clickIn(row, text string) {
	b.t.Helper()
	b.clickAt(fmt.Sprintf(`//tr[contains(., %q)]//a[contains(., %q)]`, row, text))
}

func TestSupportFindsAConversation(t *testing.T) {
	base := launchWith(t, made(), "", "route * as support to "+freeAddress(t))
	b := newBrowser(t, base+"/queue")
	b.open(base + "/queue/")
	b.fill("Find", "conversation:215470012345")
	b.wait("notif_7abb5892-6b4e-4a0c-9d2f-51c1f7a0e6d3", "support tulip4", "delivered 4 attempts")
	b.click("conversation.user.replied")
	b.wait("About conversation:215470012345", "waited 999 ms", "failed 503", "upstream connect error", "succeeded 200", `"name": "Ada Example"`,
		"X-Hub-Signature sha1=6b4e", "caddy intercom-webhook queue show")
	b.is("folding", `(() => { const d = document.querySelector(".json details details"); d.querySelector("summary").click(); return !d.open })()`)
	b.fill("Find", "notif_7abb5892-6b4e-4a0c-9d2f-51c1f7a0e6d3")
	b.is("it is found", `location.search.includes("id=notif_7abb5892")`)
	b.click("tulip4")
	b.wait("Deliveries")
	b.is("the filter is in the address", `location.search == "?workspace=tulip4"`)
	b.fill("Topic", "contact.*")
	b.wait("contact.user.updated", "dead refused")
	b.is("all filters are in the address", `decodeURIComponent(location.search) == "?topic=contact.*&workspace=tulip4"`)

	b.do("moving to Mumbai", emulation.SetTimezoneOverride("Asia/Kolkata"))
	b.open(base + "/queue/notification?id=notif_7abb5892-6b4e-4a0c-9d2f-51c1f7a0e6d3")
	b.is("times are those of the reader, with UTC beside", `/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+05:30 \d\d:\d\d:\d\d UTC$/.test(document.querySelector("dd time").textContent)`)
	var stored string
	b.do("reading a time", chromedp.Evaluate(`[...document.querySelectorAll("dd time")].at(-1).firstChild.textContent`, &stored))
	b.open(base + "/queue/deliveries?" + url.Values{"since": {strings.TrimSpace(stored)}, "object": {"conversation:215470012345"}}.Encode())
	b.wait("notif_7abb5892")
}

func TestFortyLanes(t *testing.T) {
	var routes strings.Builder
	var rows []row
	for i := range 40 {
		fmt.Fprintf(&routes, "route team%d.* as lane-%d to %s\n", i, i, freeAddress(t))
		rows = append(rows, row{topic: fmt.Sprintf("team%d.x", i), lane: fmt.Sprintf("lane-%d", i), state: "delivered", attempts: 1, status: 200})
	}
	rows = append(rows, row{topic: "team33.x", lane: "lane-33", state: "dead", reason: "age", attempts: 3, status: 500, err: "backend answered 500"})
	base := launchWith(t, rows, "", routes.String())
	answer, err := http.PostForm(base+"/queue/lane", url.Values{"endpoint": {"intercom"}, "lane": {"lane-27"}, "action": {"pause"}})
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	b := newBrowser(t, base+"/queue")
	for width, highest := range map[int64]int{1280: 2600, 400: 6000} {
		b.look(width, "light")
		b.open(base + "/queue/")
		b.wait("Lane lane-27 is paused.", "1 dead letter of team33.x in lane-33 (age)")
		b.is("what is in trouble comes first", `document.querySelector(".lanes tbody th").textContent == "lane-27" && document.querySelectorAll(".lanes tbody tr").length == 40`)
		b.is("the page is short", fmt.Sprintf(`document.documentElement.scrollHeight < %d`, highest))
		b.fits()
	}
}

func TestManyDeadLetters(t *testing.T) {
	rows := make([]row, 100_000)
	for i := range rows {
		rows[i] = row{topic: fmt.Sprintf("conversation.topic%d", i%7), lane: "support", state: "dead", reason: "age", status: 503, err: "backend answered 503", stored: time.Hour}
	}
	base := launchWith(t, rows, "", "route * as support to "+freeAddress(t))
	b := newBrowser(t, base+"/queue")
	b.open(base + "/queue/")
	b.wait("100,000 dead letters", "14,286 dead letters of conversation.topic", "2 more groups of dead letters")
	b.click("Dead letters")
	b.wait("100,000 deliveries in 7 groups")
	b.click("100,000 deliveries")
	b.wait("dead age")
	b.click("Older ones")
	b.is("the next ones", `location.search.includes("cursor=") && document.querySelectorAll(".rows tbody tr").length == 100`)
	b.click("Retry all that fit")
	b.wait("Retry 100,000 deliveries?")
	b.fill("At most", "20")
	b.wait("running Retry:", "it goes on")
	b.click("Stop")
	b.wait("ended early Retry:", "127.0.0.1 has stopped it")
	b.click("What is left")
	b.wait("dead age")
}

func TestTheFirstDay(t *testing.T) {
	backend := newBackend(t)
	base := startGateway(t, backend.address)
	history.Intercom.Verified.Set(time.Unix(0, 0)) // other tests may have come before
	b := newBrowser(t, base+"/queue")
	for _, path := range []string{"/", "/deliveries", "/dead", "/changes"} {
		b.open(base + "/queue" + path)
		b.wait("Overview")
		b.barriers("empty " + path)
	}
	b.open(base + "/queue/")
	b.wait("Nothing has come yet", "caddy intercom-webhook send conversation.user.created "+base+"/intercom --secret-file")
	b.do("marking the page", chromedp.Evaluate(`window.same = true`, nil))
	postNotification(t, base+"/intercom", notification("conversation.user.created", "notif_1"))
	b.wait("1 dead letter of conversation.user.created")
	b.is("the page refreshes itself", `window.same && document.querySelector(".state.active, .state.failing") != null`)
	b.do("typing", chromedp.SendKeys("#find", "notif"), chromedp.Evaluate(`window.asked = 0; window.fetch = () => { asked++; return Promise.reject() }`, nil))
	b.do("waiting for longer than between two refreshes", chromedp.Sleep(6*time.Second))
	b.is("nothing is asked for while somebody types", `window.asked === 0`)
}

func TestPageRefusesFormsOfOtherSites(t *testing.T) {
	backend := newBackend(t)
	base := startGateway(t, backend.address)
	postNotification(t, base+"/intercom", notification("contact.deleted", "notif_1"))
	awaitDeadLetter(t, base+"/queue", "notif_1")
	form := url.Values{"verb": {"drop"}, "confirmed": {"yes"}, "endpoint": {"intercom"}, "delivery": {"100"}}
	drop := func(origin string) int {
		request, err := http.NewRequest(http.MethodPost, base+"/queue/change", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Origin", origin)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	if status := drop("https://attacker.example"); status != http.StatusForbidden {
		t.Errorf("a form of another site is answered %d, want 403", status)
	}
	awaitDeadLetter(t, base+"/queue", "notif_1")
	if status := drop(base); status != http.StatusOK { // after the redirect
		t.Errorf("the same form of the page itself is answered %d, want 200", status)
	}
}
