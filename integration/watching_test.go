package integration

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var labelName = regexp.MustCompile(`([a-z_]+)="`)

func TestMetricsAreNamedAsDocumented(t *testing.T) {
	g := start(t, setup{
		webhook: "route conversation.* { respond 200 }",
		allow:   "static 127.0.0.1\nallow " + newPublisher(t, publishedAddress).source("us", ""),
	})
	g.expect(200, good)
	g.expect(401, message{body: body})
	eventually(t, "the first refresh", func() bool { return len(g.scrape().of("ip_ranges_refresh_total")) > 0 })

	got := make(map[string]bool)
	for name := range g.scrape() {
		metric, labels, _ := strings.Cut(name, "{")
		for _, label := range labelName.FindAllStringSubmatch(labels, -1) {
			metric += " " + label[1]
		}
		got[metric] = true
	}
	// those of the queue come with it
	want := []string{
		"answer_seconds_bucket le", "answer_seconds_count", "answer_seconds_sum",
		"backend_responses_total code lane",
		"backend_seconds_bucket lane le", "backend_seconds_count lane", "backend_seconds_sum lane",
		"consecutive_errors",
		"ip_ranges region",
		"ip_ranges_age_seconds region",
		"ip_ranges_refresh_total region result",
		"lane_info kind lane",
		"last_verified_timestamp_seconds",
		"notifications_total outcome topic",
		"refused_total reason",
		"secret_matches_total secret",
	}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("metrics\n%q\nwant\n%q", names, want)
	}
	for _, bound := range []string{"0.5", "5"} { // Intercom's limits, in seconds
		if !slices.Contains(slices.Collect(maps.Keys(g.scrape())), fmt.Sprintf("answer_seconds_bucket{le=%q}", bound)) {
			t.Errorf("answer_seconds has no bucket up to %s s", bound)
		}
	}
}

// Topics are chosen outside, and each label value is kept forever.
func TestLabelsAreBounded(t *testing.T) {
	g := start(t, setup{webhook: "route invented.* { respond 200 }\nroute * as rest { respond 200 }"})
	before := g.scrape()
	for i := range 20 {
		g.expect(200, signed(notification(fmt.Sprintf("invented.topic_%d", i), "notif_1")))
	}
	g.expect(200, good)
	want := series{
		`notifications_total{outcome="delivered",topic="other"}`:                     20,
		`notifications_total{outcome="delivered",topic="conversation.user.replied"}`: 1,
		`backend_responses_total{code="200",lane="invented"}`:                        20,
		`backend_responses_total{code="200",lane="rest"}`:                            1,
	}
	grown := g.scrape().since(before)
	got := grown.of("notifications_total")
	maps.Copy(got, grown.of("backend_responses_total"))
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

// The lane of an endpoint with another name has one name in all metrics and logs.
func TestALaneOfANamedQueueHasOneName(t *testing.T) {
	g := start(t, setup{webhook: "route * as named { respond 200 }\nqueue {\npath " + filepath.Join(t.TempDir(), "queue.db") + "\nname billing\n}"})
	started := g.scrape()
	for name := range started {
		if strings.Contains(name, `lane="named"`) {
			t.Errorf("%s lacks the name of the queue", name)
		}
	}
	if got, ok := started[`backend_responses_total{code="error",lane="billing|named"}`]; !ok || got != 0 {
		t.Errorf("the backend's errors do not start at 0")
	}
	g.expect(200, good)
	eventually(t, "the delivery", func() bool {
		grown := g.scrape().since(started)
		return grown[`queue_attempts_total{lane="billing|named",result="delivered"}`] == 1 &&
			grown[`backend_responses_total{code="200",lane="billing|named"}`] == 1 &&
			grown[`backend_seconds_count{lane="billing|named"}`] == 1
	})
	if lane := g.access("/").tag().text("lane"); lane != "billing|named" {
		t.Errorf("the access log has the lane %q", lane)
	}
}

func TestMetricsSurviveAReload(t *testing.T) {
	g := start(t, setup{webhook: "route * { respond 200 }"})
	g.expect(200, good)
	g.expect(401, message{body: body})
	before := g.scrape()
	for _, webhook := range []string{"route * { respond 201 }", "", "route * { respond 202 }"} {
		if err := g.load(setup{webhook: webhook, behind: "respond 200"}); err != nil {
			t.Fatal(err)
		}
		after := g.scrape()
		for name, value := range before {
			if name == "consecutive_errors" || strings.HasPrefix(name, "lane_info") {
				continue // may fall, and is of the running config
			}
			if got, ok := after[name]; !ok || got < value {
				t.Errorf("%s was %v before the reload, and is %v now (there: %t)", name, value, got, ok)
			}
		}
		g.expect(200, good)
		if got := g.scrape().since(after)["answer_seconds_count"]; got != 1 {
			t.Errorf("observed %v answers after the reload, want 1", got)
		}
	}
}

func TestRefusalsDoNotFloodTheLog(t *testing.T) {
	g := start(t, setup{webhook: "route * { respond 200 }"})
	before, begin := g.scrape(), time.Now()
	for range 50 {
		g.expect(401, message{body: body})
		g.expect(405, message{method: "GET"})
	}
	atMost := int(time.Since(begin).Seconds()) + 2 // the first and the last second may be begun ones
	for _, c := range []struct {
		reason string
		status float64
	}{{"signature_missing", 401}, {"method", 405}} {
		if got := g.scrape().since(before)[fmt.Sprintf("refused_total{reason=%q}", c.reason)]; got != 50 {
			t.Errorf("counted %v times %s, want 50", got, c.reason)
		}
		lines := g.warnings(c.reason)
		if len(lines) == 0 || len(lines) > atMost {
			t.Errorf("%d warnings of %s, want 1 to %d", len(lines), c.reason, atMost)
			continue
		}
		line := lines[0]
		if line.text("reason") != c.reason || line["status"] != c.status || line.text("client_ip") != "127.0.0.1" || line.text("error") == "" {
			t.Errorf("the warning is %v", line)
		}
	}
}

func TestFailuresAreLoggedWithWhatTheBackendSaid(t *testing.T) {
	g := start(t, setup{webhook: "route * as talk to " + answering(t, 410).address})
	g.expect(502, good)
	lines := g.warnings("not delivered")
	if len(lines) != 1 {
		t.Fatalf("%d warnings, want 1", len(lines))
	}
	line := lines[0]
	if line["status"] != 410.0 || line["answered"] != 502.0 || line.text("lane") != "talk" || line.text("topic") != topic {
		t.Errorf("the warning is %v", line)
	}
}

func TestConsecutiveErrors(t *testing.T) {
	g := start(t, setup{webhook: "route conversation.* { respond 200 }\nroute * { respond 500 }\napp_requests { respond 500 }"})
	streak := func() float64 {
		t.Helper()
		value, ok := g.scrape()["consecutive_errors"]
		if !ok {
			t.Fatal("there is no such metric")
		}
		return value
	}
	warned := func() (at []any) {
		t.Helper()
		for _, line := range g.warnings("many error answers") {
			at = append(at, line["consecutive_errors"])
		}
		return at
	}
	failing := signed(notification("ticket.created", "notif_1"))

	g.expect(200, good)
	if got := streak(); got != 0 {
		t.Fatalf("consecutive_errors is %v after a good answer", got)
	}
	for range 3 {
		g.expect(502, failing)
	}
	if got := streak(); got != 3 {
		t.Errorf("consecutive_errors is %v after 3 failures", got)
	}
	g.expect(200, signed(ping))
	if got := streak(); got != 0 {
		t.Errorf("consecutive_errors is %v after a ping", got)
	}

	for i := range 950 {
		if answer := g.send(failing); answer.status != 502 {
			t.Fatalf("failure %d: status %d, want 502", i, answer.status)
		}
	}
	if got := streak(); got != 950 {
		t.Errorf("consecutive_errors is %v after 950 failures", got)
	}
	if got, want := fmt.Sprint(warned()), "[500 900]"; got != want {
		t.Errorf("warned at %s, want %s", got, want)
	}
	if err := g.load(setup{webhook: "route conversation.* { respond 200 }"}); err != nil {
		t.Fatal(err)
	}
	if got := streak(); got != 950 {
		t.Errorf("consecutive_errors is %v after a reload", got)
	}
	g.expect(200, good)
	if got := streak(); got != 0 {
		t.Errorf("consecutive_errors is %v after a good answer", got)
	}
}

// Strangers must not be able to make Intercom's streak look bad, or good.
func TestStrangersDoNotCountAsConsecutiveErrors(t *testing.T) {
	for name, allow := range map[string]string{"by their method": "", "by their address": "static 192.0.2.1"} {
		t.Run(name, func(t *testing.T) {
			start(t, setup{webhook: "route * { respond 500 }"}).expect(502, good) // so that there is a streak
			g := start(t, setup{allow: allow})
			before := g.scrape()["consecutive_errors"]
			g.expect(200, message{method: "HEAD"})
			g.expect(405, message{method: "GET"})
			if allow != "" {
				g.expect(403, good)
			}
			if got := g.scrape()["consecutive_errors"]; got != before || got == 0 {
				t.Errorf("consecutive_errors went from %v to %v", before, got)
			}
		})
	}
}
