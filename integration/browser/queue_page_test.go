package browser

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// clickIn clicks on the button with this text in the row of a table that has another text.
func (b *browser) clickIn(row, text string) {
	b.t.Helper()
	b.clickAt(fmt.Sprintf(`//tr[contains(., %q)]//button[contains(., %q)]`, row, text))
}

// openUntil opens a page again and again until it has a text.
func (b *browser) openUntil(url, text string) {
	b.t.Helper()
	page := ""
	for deadline := time.Now().Add(time.Minute); !strings.Contains(page, text); page = b.text() {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s has no %q: %s", url, text, page)
		}
		time.Sleep(100 * time.Millisecond)
		b.open(url)
	}
}

func TestDeadLettersOfATopicAreReadAndRetriedInABrowser(t *testing.T) {
	backend := newBackend(t)
	base := startGateway(t, backend.address)
	page := base + "/queue"
	const hostile = `<script>document.title="owned"</script>`
	for id, topic := range map[string]string{"notif_1": "conversation.user.replied", "notif_2": "conversation.user.replied", "notif_3": "contact.deleted", "notif_4": "other.topic"} {
		postNotification(t, base+"/intercom", fmt.Appendf(nil, `{"type":"notification_event","app_id":"tulip4","data":{"item":{"body":%q}},"id":%q,"topic":%q}`, hostile, id, topic))
		awaitDeadLetter(t, base+"/queue", id)
	}

	b := newBrowser(t, base+"/queue")
	b.open(page + "/")
	b.wait("Dead letters", "conversation.user.replied", "attempts", "backend answered 503", "other.topic", "support")
	b.clickAt(`//tr[contains(., "other.topic")]//a`)
	b.wait("notif_4", "dead (attempts)")
	b.click("notif_4")
	b.wait("other.topic", "State dead (attempts)")
	b.do("searching", chromedp.SendKeys(`input[name="id"]`, "notif_2\r"))
	b.wait("State dead (attempts)", "Attempts 1", backend.address, "503", strings.ReplaceAll(hostileAnswer, "\x1b", `\x1b`), `"body": "<script>document.title=\"owned\"</script>"`)

	backend.mended.Store(true)
	b.click("Lanes and dead letters")
	b.clickIn("conversation.user.replied", "Retry all")
	b.wait("dead letters with the topic conversation.user.replied", "2 of 2 done")
	for _, id := range []string{"notif_1", "notif_2"} {
		b.openUntil(page+"/notification?id="+id, "State delivered")
		b.wait("Attempts 1", "Delivered")
	}
	backend.wantCount(t, 6)

	b.open(page + "/")
	b.wait("contact.deleted", "other.topic")
	b.clickIn("other.topic", "Drop all")
	b.wait("This deletes all dead letters with the topic other.topic", "It cannot be undone.")
	b.click("Drop")
	b.wait("dead letters with the topic other.topic", "1 of 1 done")
	b.click("Lanes and dead letters")
	b.wait("contact.deleted")

	b.clickIn("support", "Pause")
	b.wait("support paused", "Resume")
	b.clickIn("support", "Resume")
	b.wait("support failing", "Pause") // of its attempts of the last minutes, many failed
	b.do("looking for scripts", chromedp.Poll(`document.title == "Intercom queue" && document.scripts.length == 0`, nil))
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
