package web

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/history"
)

func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"Grüße, ça va? 🌷\n\tx": "Grüße, ça va? 🌷\n\tx",
		"👩\u200d🚒":             "👩\u200d🚒",
		"a\x00\x1b\r\x7fb":     `a\x00\x1b\r\x7fb`,
		"a\u202eb\ufeff\u2066": `a\u202eb\ufeff\u2066`,
		"\xff":                 "\ufffd",
		"'":                    "'",
	} {
		if got := plain(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestTimesAndNumbersInWords(t *testing.T) {
	for got, want := range map[string]string{
		number(0): "0", number(999): "999", number(1000): "1,000", number(1234567): "1,234,567",
		plural(1, "delivery", "deliveries"): "1 delivery", plural(2000, "delivery", "deliveries"): "2,000 deliveries",
		took(0): "–", took(1234 * time.Microsecond): "1.2 ms", took(480 * time.Millisecond): "480 ms", took(1500 * time.Millisecond): "1.5 s",
		took(30 * time.Second): "30 s", span(90 * time.Second): "1 min 30 s", span(2*time.Hour + 5*time.Second): "2 h", span(50 * time.Hour): "2 d 2 h",
		ago(time.Now()): "under 1 min ago", age(0): "–", age(3700): "1 h 1 min", ago(time.Now().Add(-90 * time.Second)): "1 min ago", ago(time.Now().Add(-49 * time.Hour)): "2 d 1 h ago",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestCharts(t *testing.T) {
	var s history.Series
	for range 1234 {
		s.Count(time.Now(), history.Accepted)
	}
	s.Took(time.Now(), history.Delivered, 20*time.Millisecond)
	s.Took(time.Now(), history.Failed, 90*time.Second)
	hour := history.Hour(&s)
	for name, c := range map[string]struct{ svg, wants string }{
		"rates":   {string(rates(hour)), "1,234 accepted, 1 delivered, 1 failed</title>|>2,000</text>|>1,000</text>|<rect class=\"failed\""},
		"empty":   {string(rates(history.Hour())), "0 accepted, 0 delivered, 0 failed</title>|>5</text>"},
		"times":   {string(latencies(hour, .95, 0)), " p95 1 min |>1 ms</text>|>100 s</text>|<path class=\"slow\""},
		"limit":   {string(latencies(history.Hour(), .99, 500*time.Millisecond)), "p50 –, p99 –|class=\"limit\"|>500 ms</text>|>1 s</text>"},
		"a spark": {string(spark(hour)), "In the last hour: 1 delivered, 1 failed</title>"},
	} {
		for want := range strings.SplitSeq(c.wants, "|") {
			if !strings.Contains(c.svg, want) {
				t.Errorf("%s: no %q in %s", name, want, c.svg)
			}
		}
		if strings.Contains(c.svg, "NaN") || strings.Contains(c.svg, "Inf") {
			t.Errorf("%s: %s", name, c.svg)
		}
	}
	if again := string(latencies(hour, .95, 0)); again != string(latencies(hour, .95, 0)) {
		t.Error("the same chart is drawn in different ways, and refreshed in vain")
	}
}

func TestSecretsOfRequestsAreNotShown(t *testing.T) {
	l := &life{First: &adminapi.Details{Request: &adminapi.Request{Host: "hooks.example", URI: "/it's", Header: map[string][]string{
		"Authorization": {"Basic c2VjcmV0"}, "Cookie": {"c2VjcmV0"}, "X-Api-Key": {"c2VjcmV0"}, "X-Auth-Token": {"c2VjcmV0"},
		"X-Hub-Signature": {"sha1=00"}, "User-Agent": {"a", "b"},
	}}}}
	text := ""
	for _, h := range l.Headers() {
		text += h.Name + "=" + h.Value + "|"
	}
	if want := "Authorization=(not shown)|Cookie=(not shown)|User-Agent=a|User-Agent=b|X-Api-Key=(not shown)|X-Auth-Token=(not shown)|X-Hub-Signature=sha1=00|"; text != want {
		t.Errorf("%s, want %s", text, want)
	}
	for _, c := range l.Commands() {
		text += c.Text
	}
	if strings.Contains(text, "c2VjcmV0") || !strings.Contains(text, `'https://hooks.example/it'\''s' \`) {
		t.Errorf("the commands are %s", text)
	}
}

func TestDrawingOfALife(t *testing.T) {
	at := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	d := adminapi.Details{
		Delivery: adminapi.Delivery{
			Lane: "<script>\x1b and a long name of a lane", State: "delivered", StoredAt: at.Add(time.Millisecond), FinishedAt: at.Add(2 * time.Hour), Seconds: .2,
			Status: 200,
		},
		History: []adminapi.Attempt{{At: at.Add(time.Second), Seconds: .5, Status: 502, Error: "<b>", Upstream: "<i>"}},
		Request: &adminapi.Request{ReceivedAt: at},
	}
	l := newLife([]adminapi.Details{d, {Delivery: adminapi.Delivery{Lane: "b", State: "waiting", StoredAt: at}, Request: d.Request}}, false)
	if a := l.Deliveries[0].Attempts; len(a) != 2 || a[0].Wait != 499*time.Millisecond || a[1].Status != 200 || a[1].Error != "" {
		t.Errorf("the attempts are %+v", a)
	}
	svg := string(l.Drawing())
	for _, want := range []string{
		"attempt 1: status 502, 500 ms, &lt;i&gt;</title>", "attempt 2: status 200, 200 ms, </title>", ">&lt;script&gt;\\x1b and a lo…</text>", ">delivered</text>", ">waiting</text>", ">+1 h</text>",
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %q in %s", want, svg)
		}
	}
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "<script") {
		t.Error(svg)
	}
}
