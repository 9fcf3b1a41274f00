package web

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
)

func TestFewChangesRunAtOnce(t *testing.T) {
	p := &pages{changes: new(changes)}
	for range maxRunningChanges {
		c := new(change)
		c.Verb, c.ID = manage.Retry, 4711
		if err := p.changes.add(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.changes.add(new(change)); err == nil || manage.Status(err) != http.StatusTooManyRequests {
		t.Errorf("error %v", err)
	}
	w := httptest.NewRecorder()
	if err := p.serveChanges(w, httptest.NewRequest(http.MethodGet, "/changes", nil)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`<noscript><meta http-equiv="refresh" content="2"></noscript>`, "Retry: delivery 4711", "0 found; it goes on", `action="/stop"`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%q is not on the page: %s", want, w.Body)
		}
	}
}

// A long change was forgotten after 20 later ones, and so more than 4 could run.
func TestARunningChangeIsRemembered(t *testing.T) {
	all := new(changes)
	long := new(change)
	if err := all.add(long); err != nil {
		t.Fatal(err)
	}
	for range maxShownChanges + 1 {
		c := new(change)
		if err := all.add(c); err != nil {
			t.Fatal(err)
		}
		c.Running = false
	}
	if n := len(all.list); n != maxShownChanges+1 || all.list[n-1] != long {
		t.Errorf("%d changes are remembered, and the one that runs is not the oldest of them", n)
	}
}

// What a person stops says who did it, and is not forgotten.
func TestAChangeIsStopped(t *testing.T) {
	p := &pages{changes: new(changes), who: func(*http.Request) string { return "ops" }}
	c := new(change)
	if err := p.changes.add(c); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	c.stop = stop
	for _, number := range []string{"0", "2", "x", ""} {
		push(t, p, number)
		if ctx.Err() != nil {
			t.Fatalf("%q has stopped it", number)
		}
	}
	push(t, p, "1")
	if err := context.Cause(ctx); err == nil || err.Error() != "ops has stopped it" {
		t.Errorf("the cause is %v", err)
	}
}

func push(t *testing.T, p *pages, number string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/stop", strings.NewReader("change="+number))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if err := p.serveStop(httptest.NewRecorder(), r); err != nil {
		t.Fatal(err)
	}
}
