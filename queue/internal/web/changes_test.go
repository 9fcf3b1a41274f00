package web

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
)

func TestFewChangesRunAtOnce(t *testing.T) {
	p := &pages{changes: new(changes)}
	for range maxRunningChanges {
		c := &change{Began: time.Now()}
		c.Verb, c.ID = manage.Retry, 4711
		if err := p.changes.add(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.changes.add(new(change)); err == nil || manage.Status(err) != http.StatusTooManyRequests {
		t.Errorf("error %v", err)
	}
	w := httptest.NewRecorder()
	if err := p.serveChanges(w, nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`<meta http-equiv="refresh" content="2">`, "retry delivery <b>4711</b>", "0 found; it goes on"} {
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

func TestAFormOfAGroup(t *testing.T) {
	c, err := changeOf(url.Values{"verb": {"retry"}, "endpoint": {"intercom"}, "topic": {"a.b"}, "lane": {"support"}, "reason": {"age"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.What != "topic=a.b&lane=support&reason=age" || c.Filter.Reasons[0] != db.Age || len(c.Filter.States) != 1 || c.Filter.States[0] != db.Dead {
		t.Errorf("the change is %+v", c)
	}
}
