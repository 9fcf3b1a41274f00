package queue

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

func TestSelectionOfParameters(t *testing.T) {
	now := time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC)
	r := httptest.NewRequest(http.MethodPost, "/?since=2h&lane=support&state=discarded,%20cancelled", strings.NewReader(
		`{"topic":"conversation.*","id":[4711,"12"],"until":"2026-11-25T07:30:00+01:00","error":"502","workspace":"tulip4","notification":"notif_1","cursor":"c12-99","limit":7,"dry_run":true,"rate":0.5,"to":"billing"}`))
	p, err := readParameters(r, changeParameters)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.selection(now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.change(verbRetry, s)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.filter.States, []jobdb.State{jobdb.StateDiscarded, jobdb.StateCancelled}) || !slices.Equal(s.filter.IDs, []int64{4711, 12}) ||
		!s.filter.Since.Equal(now.Add(-2*time.Hour)) || !s.filter.Until.Equal(now.Add(-90*time.Minute)) ||
		s.filter.Error != "502" || s.filter.Workspace != "tulip4" || s.filter.Notification != "notif_1" ||
		s.topic != "conversation.*" || s.cursor != (cursor{12, 99}) || s.limit != 7 || !c.dryRun || c.rate != 0.5 || c.to != "billing" {
		t.Errorf("got %+v", c)
	}
}

// FuzzParameters reads what clients of the admin API send.
func FuzzParameters(f *testing.F) {
	f.Add("state=discarded&since=2h&topic=conversation.*&cursor=l4711", `{"id":[1,"2"],"dry_run":true,"rate":0.5}`)
	f.Add("cursor=c12-99&limit=10&until=2026-11-25T08:00:00Z", "")
	f.Add("a=%zz", `{"a":null}`)
	f.Fuzz(func(t *testing.T, query, body string) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.URL.RawQuery = query
		p, err := readParameters(r, changeParameters)
		if err != nil {
			return
		}
		s, err := p.selection(time.Now())
		if err != nil {
			return
		}
		c, err := p.change(verbRetry, s)
		if err != nil {
			return
		}
		if again, err := parseCursor(s.cursor.String()); err != nil || again != s.cursor {
			t.Errorf("the cursor %v is read as %v (%v)", s.cursor, again, err)
		}
		if s.topic != "" && topicpattern.Check(s.topic) != nil {
			t.Errorf("the topic %q is taken", s.topic)
		}
		if s.limit < 0 || c.rate < 0 || c.rate > maxRate || slices.ContainsFunc(s.filter.IDs, func(id int64) bool { return id < 1 }) {
			t.Errorf("%+v is taken", c)
		}
		for _, state := range s.filter.States {
			if !slices.Contains(countedStates, state) {
				t.Errorf("the state %q is taken", state)
			}
		}
	})
}
