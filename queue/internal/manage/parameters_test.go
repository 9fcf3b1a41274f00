package manage

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func TestSelectionOfParameters(t *testing.T) {
	now := time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC)
	p, err := ParseParameters("since=2h&lane=support&state=dead,%20retrying&state=waiting&reason=age&topic=conversation.*&until=2026-11-25T07:30:00%2B01:00&"+
		"error=502&workspace=tulip4&notification=notif_1&notification=12,13&cursor=1-12-1764500000000000&limit=7&dry_run=true&rate=0.5&to=billing", ChangeParameters)
	if err != nil {
		t.Fatal(err)
	}
	p.Set("status", "503,5xx")
	p.Set("finished_since", "2026-11-25 06:30:00 UTC")
	p.Set("finished_until", "2026-11-25 08:30:00.25+01")
	c, err := read(p, Retry, now)
	if err != nil {
		t.Fatal(err)
	}
	want := db.Filter{
		States: []db.State{db.Dead, db.Retrying, db.Waiting}, Reasons: []db.Reason{db.Age}, Topic: "conversation.*", Lane: "support",
		Workspace: "tulip4", Since: now.Add(-2 * time.Hour), Until: now.Add(-90 * time.Minute), Error: "502", Statuses: []int{503, 5},
		FinishedSince: now.Add(-90 * time.Minute), FinishedUntil: now.Add(-30*time.Minute + 250*time.Millisecond),
	}
	c.Filter.FinishedUntil = c.Filter.FinishedUntil.UTC()
	c.Filter.Since, c.Filter.Until = c.Filter.Since.UTC(), c.Filter.Until.UTC()
	if fmt.Sprint(c.Filter) != fmt.Sprint(want) {
		t.Errorf("filter %+v, want %+v", c.Filter, want)
	}
	if !slices.Equal(c.Notifications, []string{"notif_1", "12", "13"}) || (c.Cursor != Cursor{1, 12, time.UnixMicro(1764500000000000)}) ||
		c.Limit != 7 || !c.DryRun || c.Rate != 0.5 || c.To != "billing" || c.Whole {
		t.Errorf("got %+v", c)
	}
}

func TestParametersThatAreRefused(t *testing.T) {
	for query, want := range map[string]string{
		"topics=a":                       `"topics": there is no such parameter; the parameters are endpoint, state,`,
		"topic=":                         `"topic" has no value: leave it out, or give it one`,
		"state=":                         `"state" has no value`,
		"state=dead,":                    `state "dead,": a value is empty`,
		"notification=a,,b":              `notification "a,,b": a value is empty`,
		"lane=a&lane=b":                  `"lane" is given more than once`,
		"lane=%ff":                       `"lane" is not text`,
		"lane=a%00":                      `"lane" is not text`,
		"lane=%zz":                       "the query is malformed",
		"state=ded":                      `state "ded": there is no such state; they are waiting, delivering, retrying, delivered and dead; did you mean dead?`,
		"reason=old":                     `reason "old": there is no such reason; they are attempts, age, refused, unrouted and cancelled`,
		"topic=a*":                       `topic pattern "a*": a * must be a whole segment`,
		"since=yesterday":                `since "yesterday": give a time as in 2026-11-25T08:00:00Z, or how long ago it is, as in 2h or 3d`,
		"until=-2h":                      `until "-2h": give a time`,
		"lane=a&limit=0":                 `limit "0": give a number from 1`,
		"lane=a&cursor=1":                "cursor: give one that an earlier answer",
		"lane=a&cursor=0-12":             "cursor: give one that an earlier answer", // of a list
		"lane=a&cursor=0-012-3":          "cursor: give one that an earlier answer",
		"status=4x":                      `status: "4x" is no status: give one such as 410, or 4xx for all that begin with 4`,
		"status=6xx":                     `status: "6xx" is no status`,
		"status=4":                       `status: "4" is no status`,
		"status=502,":                    `status "502,": a value is empty`,
		"since=2026-11-25+08:00:00":      `since "2026-11-25 08:00:00": give a time`, // without a zone
		"lane=a&order=oldest":            `"order": there is no such parameter`,
		"limit=7":                        "retry needs a filter, such as state=dead",
		"endpoint=a&dry_run=true&rate=1": "retry needs a filter, such as state=dead",
		"lane=a&dry_run=yes":             `dry_run "yes": give true or false`,
		"lane=a&rate=0":                  `rate "0": give how many deliveries a second`,
		"lane=a&rate=NaN":                `rate "NaN": give how many deliveries a second`,
		"lane=a&whole=true":              "retry has no parameter whole: only erase rewrites the file",
	} {
		p, err := ParseParameters(query, ChangeParameters)
		if err == nil {
			_, err = read(p, Retry, time.Now())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", query, err, want)
		}
	}
	if _, err := read(url.Values{"lane": {"a"}, "to": {"billing"}}, Drop, time.Now()); err == nil || !strings.Contains(err.Error(), "drop has no parameter to") {
		t.Errorf("drop to a lane: error %v", err)
	}
	if _, err := parseCursor("0-12-1764500000000000", false); err == nil {
		t.Error("a list takes the cursor of a change")
	}
}

func TestTimesAreReadAsTheyArePrinted(t *testing.T) {
	want := time.Date(2026, 11, 30, 7, 19, 51, 0, time.UTC)
	for _, text := range []string{
		"2026-11-30T07:19:51Z", "2026-11-30T08:19:51+01:00", "2026-11-30T07:19:51.000Z", // admin API, command line
		"2026-11-30 07:19:51 UTC",                                                           // pages
		"2026-11-30 08:19:51+01", "2026-11-30 07:19:51.000+00", "2026-11-30 12:49:51+05:30", // psql
	} {
		for _, name := range []string{"since", "until", "finished_since", "finished_until"} {
			r := &reader{Values: url.Values{name: {text}}}
			if got := r.time(name); r.err != nil || !got.Equal(want) {
				t.Errorf("%s of %s is %s (%v), want %s", text, name, got, r.err, want)
			}
		}
	}
}

func TestAListMayBeginWithTheOldest(t *testing.T) {
	for order, want := range map[string]bool{"": false, "newest": false, "oldest": true} {
		c, err := read(url.Values{"order": {order}}, "", time.Now())
		if order == "" {
			c, err = read(nil, "", time.Now())
		}
		if err != nil || c.Oldest != want {
			t.Errorf("%q: %v (%v)", order, c.Oldest, err)
		}
	}
	if _, err := read(url.Values{"order": {"up"}}, "", time.Now()); err == nil {
		t.Error("another order is taken")
	}
}

// FuzzParameters reads what clients of the admin API send.
func FuzzParameters(f *testing.F) {
	f.Add("state=dead&since=2h&topic=conversation.*&cursor=0-4711-1764500000000000&dry_run=true&rate=0.5")
	f.Add("notification=1,2&limit=10&until=2026-11-25T08:00:00Z")
	f.Add("a=%zz")
	f.Fuzz(func(t *testing.T, query string) {
		p, err := ParseParameters(query, ChangeParameters)
		if err != nil {
			return
		}
		c, err := read(p, Erase, time.Now())
		if err != nil {
			return
		}
		if again, err := parseCursor(c.Cursor.String(), true); err != nil || again != c.Cursor {
			t.Errorf("the cursor %v is read as %v (%v)", c.Cursor, again, err)
		}
		if c.Filter.Topic != "" && topicpattern.Check(c.Filter.Topic) != nil {
			t.Errorf("the topic %q is taken", c.Filter.Topic)
		}
		if c.Limit < 0 || c.Rate < 0 || c.Rate > maxRate || slices.Contains(c.Notifications, "") {
			t.Errorf("%+v is taken", c)
		}
		for _, state := range c.Filter.States {
			if !slices.Contains(db.States, state) {
				t.Errorf("the state %q is taken", state)
			}
		}
		if values, err := url.ParseQuery(p.Encode()); err != nil || fmt.Sprint(values) != fmt.Sprint(p) {
			t.Errorf("the log has %v instead of %v", values, p)
		}
	})
}
