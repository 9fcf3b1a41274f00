package queue

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestPageAccess(t *testing.T) {
	q, _ := deadLetters(t)
	p := newPageTest(q, "/queue")
	group := groups(p.see("/queue/intercom"))["tomorrow.born: "+answered502]
	retry := url.Values{"verb": {"retry"}, "group": {group}}
	for name, c := range map[string]struct {
		path string
		form url.Values
		set  func(*http.Request)
	}{
		"a form of another site":             {"/queue/intercom/change", retry, func(r *http.Request) { r.Header.Set("Origin", "https://attacker.example") }},
		"a form of another site, by a label": {"/queue/intercom/change", retry, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }},
		"a form of a sandbox":                {"/queue/intercom/lane", url.Values{"action": {"pause"}}, func(r *http.Request) { r.Header.Set("Origin", "null") }},
		"another machine":                    {"/queue/intercom/change", retry, func(r *http.Request) { r.RemoteAddr = "192.0.2.1:5000" }},
		"another host":                       {"/queue/intercom/change", retry, func(r *http.Request) { r.Host = "attacker.example" }},
		"a reader on another machine":        {"/queue/intercom", nil, func(r *http.Request) { r.RemoteAddr = "192.0.2.1:5000" }},
		"a reader of one job":                {"/queue/intercom/job?id=1", nil, func(r *http.Request) { r.RemoteAddr = "192.0.2.1:5000" }},
	} {
		method := http.MethodGet
		if c.form != nil {
			method = http.MethodPost
		}
		if w := p.visit(method, c.path, c.form, c.set); w.Code != http.StatusForbidden || strings.Contains(w.Body.String(), "tomorrow") {
			t.Errorf("%s: status %d: %s", name, w.Code, w.Body)
		}
	}
	if n := q.states()["support discarded"]; n != 3 {
		t.Errorf("%d dead letters are left", n)
	}
	if w := p.visit(http.MethodGet, "/queue/intercom/change", nil, nil); w.Code != http.StatusNotFound && w.Code != http.StatusMethodNotAllowed {
		t.Errorf("a change by GET: status %d", w.Code)
	}
	header := p.visit(http.MethodGet, "/queue/intercom", nil, nil).Header()
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		"X-Content-Type-Options":  "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Content-Type": "text/html; charset=utf-8",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if w := p.visit(http.MethodGet, "/queue/intercom/style.css", nil, nil); w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/css") {
		t.Errorf("the style sheet: status %d, %v", w.Code, w.Header())
	}
}

func TestRiverIsNotFramedAndItsJobsAreNotCached(t *testing.T) {
	q, _ := deadLetters(t)
	for _, prefix := range []string{"", "/queue"} {
		p := newPageTest(q, prefix)
		for path, cacheControl := range map[string]string{"/": "", "/jobs": "", "/robots.txt": "", "/api/jobs?state=discarded": "no-store", "/api/jobs/1": "no-store"} {
			w := p.visit(http.MethodGet, prefix+path, nil, nil)
			got := w.Header()
			if w.Code != http.StatusOK || got.Get("X-Frame-Options") != "DENY" || got.Get("Content-Security-Policy") != "frame-ancestors 'none'" ||
				got.Get("X-Content-Type-Options") != "nosniff" || got.Get("Cache-Control") != cacheControl {
				t.Errorf("%s%s: status %d, %v", prefix, path, w.Code, got)
			}
		}
	}
}

func TestPageLeavesOtherRequestsToTheWebhook(t *testing.T) {
	q, _ := deadLetters(t)
	for _, prefix := range []string{"", "/queue"} {
		p := newPageTest(q, prefix)
		for _, path := range []string{"/", "/intercom", "/intercom/", "/intercom/jobs", "/intercom/change/", "/intercom/changes", "/intercom/Lane"} {
			if w := p.visit(http.MethodPost, prefix+path, nil, nil); w.Code != 0 {
				t.Errorf("POST %s%s: status %d", prefix, path, w.Code)
			}
		}
	}
	if w := newPageTest(q, "").visit(http.MethodHead, "/intercom", nil, nil); w.Code != 0 {
		t.Errorf("HEAD at the root: status %d", w.Code)
	}
	if w := newPageTest(q, "/queue").visit(http.MethodPost, "/intercom/change", nil, nil); w.Code != 0 {
		t.Errorf("POST outside of the prefix: status %d", w.Code)
	}
}
