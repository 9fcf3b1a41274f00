// Package browser tests the queue's web UI in a real browser, Chromium. It is a module of
// its own, so that users of the main module do not inherit what drives a browser.
package browser

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browserPatience is for all of a test that has a browser, which is slow to start.
const browserPatience = 3 * time.Minute

// browser is a Chromium with one page.
type browser struct {
	t    *testing.T
	page context.Context

	mu         sync.Mutex
	complaints []string
}

// newBrowser starts a browser. At the end of the test all must have gone well in it,
// and nothing may have been asked for whose address does not begin with base.
func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), browserPatience)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, // in a new folder, which it removes
		chromedp.ExecPath("chromium"), chromedp.WSURLReadTimeout(time.Minute),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.WindowSize(1280, 1000),
	)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)

	b := &browser{t: t, page: ctx}
	chromedp.ListenTarget(ctx, func(event any) {
		switch event := event.(type) {
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(event.Request.URL, base) {
				b.complain("%s is asked for", event.Request.URL)
			}
		case *network.EventResponseReceived:
			if event.Response.Status >= 400 {
				b.complain("%s is answered %d", event.Response.URL, event.Response.Status)
			}
		case *log.EventEntryAdded:
			if event.Entry.Level == log.LevelError {
				b.complain("console: %s", event.Entry.Text)
			}
		case *runtime.EventConsoleAPICalled:
			if event.Type == runtime.APITypeError {
				b.complain("console: %v", event.Args)
			}
		case *runtime.EventExceptionThrown:
			b.complain("exception: %v", event.ExceptionDetails)
		}
	})
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil { // waits for its end
			t.Errorf("stopping the browser: %v", err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, complaint := range b.complaints {
			t.Error(complaint)
		}
	})
	b.do("starting", network.Enable(), log.Enable(), runtime.Enable())
	return b
}

func (b *browser) complain(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, fmt.Sprintf(format, args...))
}

func (b *browser) do(what string, actions ...chromedp.Action) {
	b.t.Helper()
	if err := chromedp.Run(b.page, actions...); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

func (b *browser) open(url string) {
	b.t.Helper()
	b.do("opening "+url, chromedp.Navigate(url))
}

// click clicks on the link or button with this text.
func (b *browser) click(text string) {
	b.t.Helper()
	b.clickAt(fmt.Sprintf(`//*[self::a or self::button][contains(., %q)]`, text))
}

func (b *browser) clickAt(xpath string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.page, time.Minute)
	defer cancel()
	if err := chromedp.Run(ctx, chromedp.Click(xpath)); err != nil {
		b.t.Fatalf("clicking on %s: %v", xpath, err)
	}
}

// wait waits until all of these texts are on the page, where people can see them.
func (b *browser) wait(texts ...string) {
	b.t.Helper()
	for _, text := range texts {
		page := b.text()
		for deadline := time.Now().Add(time.Minute); !strings.Contains(page, text); page = b.text() {
			if time.Now().After(deadline) {
				b.t.Fatalf("waiting for %s: the page has: %s", text, page)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// text returns what people can see of the page, or nothing while it is replaced by another one.
func (b *browser) text() string {
	var text string
	if err := chromedp.Run(b.page, chromedp.Evaluate(`document.body.innerText.replaceAll(/\s+/g, " ")`, &text)); err != nil {
		return ""
	}
	return text
}

func TestDeadLetterIsReadAndRetriedInABrowser(t *testing.T) {
	backend := newBackend(t)
	base := startGateway(t, backend.address)
	body := notification("conversation.user.replied", "notif_dead")
	postNotification(t, base+"/intercom", body)
	awaitDeadLetter(t, base+"/queue", "notif_dead")

	b := newBrowser(t, base+"/queue")
	b.open(base + "/queue")
	b.click("Deliveries")
	b.wait("notif_dead", "conversation.user.replied", "support", "dead (attempts)")

	b.click("notif_dead")
	b.wait("State dead (attempts)", "Attempts 1", "to the lane support", "backend answered 503",
		`"topic": "conversation.user.replied"`, `"id": "notif_dead"`)

	backend.mended.Store(true)
	backend.wantCount(t, 1)
	b.click("Retry")
	b.wait("1 of 1 done")
	b.openUntil(base+"/queue/notification?id=notif_dead", "State delivered")
	backend.wantCount(t, 2)
	got := backend.all()[1]
	if !bytes.Equal(got.body, body) || got.header.Get("X-Intercom-Attempt") != "1" {
		t.Errorf("the backend got %q as attempt %s, want %q as attempt 1, with its whole schedule before it", got.body, got.header.Get("X-Intercom-Attempt"), body)
	}
}
