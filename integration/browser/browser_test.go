// Package browser tests the queue's web UI in a real browser, Chromium. It is a module of
// its own, so that users of the main module do not inherit what drives a browser.
package browser

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// waitTime bounds every wait for what a page must show.
const waitTime = 2 * time.Minute

// browserPatience is for all of a test that has a browser, which is slow to start.
const browserPatience = 8 * time.Minute

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

// openUntil opens a page again and again until it has a text.
func (b *browser) openUntil(url, text string) {
	b.t.Helper()
	page := ""
	for deadline := time.Now().Add(waitTime); !strings.Contains(page, text); page = b.text() {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s has no %q: %s", url, text, page)
		}
		time.Sleep(100 * time.Millisecond)
		b.open(url)
	}
}

// click clicks on the link or button with this text.
func (b *browser) click(text string) {
	b.t.Helper()
	b.clickAt(fmt.Sprintf(`//*[self::a or self::button][contains(., %q)]`, text))
}

// clickAt clicks again if the page was refreshed just then.
func (b *browser) clickAt(xpath string) {
	b.t.Helper()
	for deadline := time.Now().Add(waitTime); ; {
		ctx, cancel := context.WithTimeout(b.page, waitTime/4)
		err := chromedp.Run(ctx, chromedp.Click(xpath))
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("clicking on %s: %v: the page has: %s", xpath, err, b.text())
		}
	}
}

// wait waits until all of these texts are on the page, where people can see them.
func (b *browser) wait(texts ...string) {
	b.t.Helper()
	for _, text := range texts {
		page := b.text()
		for deadline := time.Now().Add(waitTime); !strings.Contains(page, text); page = b.text() {
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

// fill writes into the field with this label, in place of what it has, and presses Enter.
func (b *browser) fill(label, text string) {
	b.t.Helper()
	field := fmt.Sprintf(`//label[starts-with(normalize-space(.), %q)]//input | //input[@id=//label[normalize-space(.)=%[1]q]/@for]`, label)
	b.is(label+" is there", fmt.Sprintf(`document.evaluate(%q, document, null, 9).singleNodeValue !== null`, field))
	b.do("filling "+label, chromedp.Evaluate(fmt.Sprintf(`document.evaluate(%q, document, null, 9).singleNodeValue.value = ""`, field), nil),
		chromedp.SendKeys(field, text+"\r"))
}

// is waits until an expression is true in the page, which may be replaced by another one meanwhile.
func (b *browser) is(what, expression string) {
	b.t.Helper()
	var is bool
	for deadline := time.Now().Add(waitTime); !is; time.Sleep(100 * time.Millisecond) {
		if err := chromedp.Run(b.page, chromedp.Evaluate(expression, &is)); err != nil || is {
			continue
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: %s is not true: the page has: %s", what, expression, b.text())
		}
	}
}

// look makes the window so wide, and light or dark.
func (b *browser) look(width int64, scheme string) {
	b.t.Helper()
	b.do("changing the window",
		emulation.SetDeviceMetricsOverride(width, 1000, 1, width < 500),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
}

// fits checks that nothing of the page is beyond the right side of the window.
func (b *browser) fits() {
	b.t.Helper()
	var over string
	b.do("measuring", chromedp.Evaluate(`[...document.querySelectorAll("main *, header *")].filter((e) => !e.closest("svg, .numbers, .headers, pre") &&
		e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map((e) => e.outerHTML.slice(0, 100)).join(" ")`, &over))
	if over != "" {
		b.t.Errorf("beyond the window: %s", over)
	}
}

// barriers checks with axe-core that nothing keeps people with disabilities out.
func (b *browser) barriers(of string) {
	b.t.Helper()
	axe, err := os.ReadFile("axe.min.js")
	if err != nil {
		b.t.Fatalf("%v: .ci/chromium fetches it", err)
	}
	var found []string
	b.do("looking for barriers", chromedp.Evaluate(string(axe), nil), chromedp.Evaluate(
		`axe.run({resultTypes: ["violations"]}).then((r) => r.violations.flatMap((v) => v.nodes.map((n) => v.id + ": " + n.html.slice(0, 200) + " " + n.failureSummary)))`,
		&found, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	for _, barrier := range found {
		b.t.Errorf("%s: %s", of, barrier)
	}
}
