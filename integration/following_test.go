package integration

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// linesOf returns the log's lines about one notification, by its id, as they are written. It
// omits the access log, and the events.
func (g *gateway) linesOf(id string) (lines []string) {
	g.t.Helper()
	text, err := os.ReadFile(g.logFile())
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `"id":"`+id+`"`) && strings.Contains(line, `"logger":"http.`) && !strings.Contains(line, `"logger":"http.log.access`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// keys returns the names of the fields of a line, in their order.
func keys(t *testing.T, line string) (names []string) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(line))
	decoder.UseNumber()
	for i := -1; ; i++ { // all lines are flat
		token, err := decoder.Token()
		if err != nil {
			return names
		}
		if name, ok := token.(string); ok && i%2 == 0 {
			names = append(names, name)
		}
	}
}

func decoded(t *testing.T, line string) entry {
	t.Helper()
	var e entry
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return e
}

// wantLine asserts some fields of a line.
func wantLine(t *testing.T, line string, want entry) {
	t.Helper()
	got := decoded(t, line)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %v, want %v, in %s", name, got[name], value, line)
		}
	}
	if d, ok := got["duration"].(float64); !ok || d <= 0 {
		t.Errorf("no duration in %s", line)
	}
}

func TestANotificationCanBeFollowedThroughTheLog(t *testing.T) {
	backend := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		topic, first := r.Header.Get("X-Intercom-Topic"), r.Header.Get("X-Intercom-Attempt") == "1"
		if topic == "ticket.created" || topic == "contact.created" && first {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	g := start(t, setup{webhook: "route ticket.* as dead to " + backend.address + "\nroute * as talk to " + backend.address +
		"\nqueue {\npath " + filepath.Join(t.TempDir(), "queue.db") + "\nmax_attempts 2\n}"})
	before := g.scrape()
	post := func(topic string) string {
		id := newID()
		g.expect(200, signed(notification(topic, id)).to("/"+id))
		return id
	}
	smooth, late, dead := post("company.created"), post("contact.created"), post("ticket.created")
	within(t, longPatience, "all have ended", func() bool {
		return len(g.linesOf(smooth)) >= 1 && len(g.linesOf(late)) >= 2 && len(g.linesOf(dead)) >= 3
	})

	for _, id := range []string{smooth, late, dead} {
		if arrival := g.access("/" + id).tag(); arrival.text("id") != id || arrival.text("app_id") != "tulip4" {
			t.Errorf("access log: %v", arrival)
		}
	}
	lines := g.linesOf(smooth)
	wantLine(t, lines[0], entry{"level": "debug", "msg": "notification was delivered", "lane": "talk", "attempt": 1.0, "status": 200.0, "upstream": backend.address})
	if len(lines) != 1 {
		t.Errorf("%d lines of one that was delivered at once, want 1", len(lines))
	}

	failure := entry{
		"level": "info", "msg": "notification was not delivered", "topic": "contact.created", "app_id": "tulip4", "lane": "talk", "attempt": 1.0,
		"upstream": backend.address, "status": 500.0, "error": "backend answered 500",
	}
	lines = g.linesOf(late)
	wantLine(t, lines[0], failure)
	if retry, _ := decoded(t, lines[0])["retry_in"].(float64); retry <= 0 {
		t.Errorf("no retry_in in %s", lines[0])
	}
	wantLine(t, lines[1], entry{"level": "info", "msg": "notification was delivered", "topic": "contact.created", "lane": "talk", "attempt": 2.0, "status": 200.0})
	if len(lines) != 2 {
		t.Errorf("%d lines of one that was delivered at the second attempt, want 2", len(lines))
	}

	lines = g.linesOf(dead)
	wantLine(t, lines[0], entry{"level": "info", "attempt": 1.0, "lane": "dead"})
	wantLine(t, lines[1], entry{"level": "info", "attempt": 2.0, "lane": "dead", "retry_in": nil})
	wantLine(t, lines[2], entry{"level": "warn", "attempt": 2.0, "lane": "dead", "topic": "ticket.created", "error": "backend answered 500"})
	if !strings.Contains(lines[2], "dead letter") || len(lines) != 3 {
		t.Errorf("lines of a dead letter:\n%s", strings.Join(lines, ""))
	}

	grown := g.scrape().since(before)
	for name, want := range map[string]float64{
		`dead_letters_total{lane="dead",topic="ticket.created"}`: 1,
		`queue_wait_seconds_count{lane="dead"}`:                  1,
		`queue_wait_seconds_count{lane="talk"}`:                  2,
		`backend_seconds_count{lane="dead"}`:                     2,
		`backend_seconds_count{lane="talk"}`:                     3,
	} {
		if grown[name] != want {
			t.Errorf("%s grew by %v, want %v", name, grown[name], want)
		}
	}

	// Without the queue, the lines have the same fields.
	queued := keys(t, g.linesOf(late)[0])
	if err := g.load(setup{webhook: "route * as talk to " + answering(t, 500).address}); err != nil {
		t.Fatal(err)
	}
	id := newID()
	g.expect(502, signed(notification("contact.created", id)))
	lines = g.linesOf(id)
	if len(lines) != 1 {
		t.Fatalf("%d lines without a queue, want 1", len(lines))
	}
	failure["level"], failure["answered"] = "warn", 502.0
	delete(failure, "upstream")
	wantLine(t, lines[0], failure)
	if direct := keys(t, lines[0]); !slices.Equal(direct[:len(direct)-1], queued[:len(queued)-2]) {
		t.Errorf("the fields are %q without a queue, and %q with one", direct, queued)
	}

	text, err := os.ReadFile(g.logFile())
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		ours := bytes.Contains(line, []byte(`"logger":"http.intercom_webhook`)) || bytes.Contains(line, []byte(`"logger":"`+module))
		for _, confidential := range []string{secret, "sha1=", "Grüße"} {
			if ours && bytes.Contains(line, []byte(confidential)) {
				t.Errorf("%q is in %s", confidential, line)
			}
		}
	}
}

func TestWhatIsVerifiedIsTimed(t *testing.T) {
	g := start(t, setup{webhook: "route conversation.* { respond 200 }"})
	last := func() float64 { return g.scrape()["last_verified_timestamp_seconds"] }
	before := last()
	if before == 0 {
		t.Error("there is no time before the first notification")
	}
	g.expect(401, message{body: body})
	g.expect(200, message{method: http.MethodHead})
	if got := last(); got != before {
		t.Error("what is not verified was timed")
	}
	g.expect(200, signed(ping))
	if got := last(); got <= before {
		t.Errorf("%v became %v with a ping", before, got)
	}
}
