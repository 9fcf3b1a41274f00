package integration

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// ended is what a command printed, and how it ended.
type ended struct {
	out, errors string
	code        int
}

// queueCommand runs "caddy intercom-webhook queue" against the gateway.
func (g *gateway) queueCommand(args ...string) ended {
	g.t.Helper()
	return queueCommand(g.t, append(args, "--address", g.admin)...)
}

func queueCommand(t *testing.T, args ...string) ended {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"intercom-webhook", "queue"}, args...)...)
	var out, errors bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errors
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return ended{out.String(), errors.String(), cmd.ProcessState.ExitCode()}
}

// queueLines runs a command with --json, and returns the lines of its answer.
func (g *gateway) queueLines(args ...string) []map[string]any {
	g.t.Helper()
	r := g.queueCommand(append(args, "--json")...)
	if r.code != 0 {
		g.t.Fatalf("queue %q: exit code %d: %s", args, r.code, r.errors)
	}
	var lines []map[string]any
	for line := range strings.Lines(r.out) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			g.t.Fatalf("queue %q: %v in %s", args, err, line)
		}
		lines = append(lines, object)
	}
	return lines
}

func (r ended) expect(t *testing.T, code int, parts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	for _, part := range parts {
		if !strings.Contains(r.out+r.errors, part) {
			t.Errorf("got no %q in:\n%s%s", part, r.out, r.errors)
		}
	}
}

func TestQueueCommands(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	crm := newAnsweringTally(t, func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			io.WriteString(w, "no \x1b[31mdatabase")
		}
	})
	support := newTally(t, 0)
	g := start(t, setup{
		admin:   true,
		webhook: "route contact.* as crm to " + crm.address + "\nroute conversation.* as support to " + support.address + "\n" + queueIn(t.TempDir()),
	})
	post := func(topic string) string {
		id := newID()
		g.expect(http.StatusOK, signed(notification(topic, id)))
		return id
	}
	takes := func(tally *tally, id string) {
		t.Helper()
		within(t, longPatience, "the backend takes "+id, func() bool { return tally.count(id) > 0 })
	}

	talk := post("conversation.user.created")
	unrouted := post("company.created")
	var contacts []string
	for range 3 {
		contacts = append(contacts, post("contact.created"))
	}
	takes(support, talk)
	within(t, longPatience, "dead letters", func() bool {
		return len(g.queueLines("list", "--state", "dead")) == 4 && len(g.queueLines("list", "--state", "delivered")) == 1
	})

	t.Run("look", func(t *testing.T) {
		within(t, longPatience, "the counts", func() bool { return strings.Contains(g.queueCommand("status", "--check").errors, "4 dead letters") })
		g.queueCommand("status", "--check").expect(t, 1, "LANE", "crm", "support", "total")
		g.queueCommand("list", "--topic", "contact.*", "--since", "1h", "--error", "502", "--lane", "crm", "--workspace", "tulip4").
			expect(t, 0, "LAST ERROR", "contact.created", "dead (attempts)", "backend answered 502")
		g.queueCommand("list", "--lane", "crn").expect(t, 2, "did you mean crm?")
		if n := len(g.queueLines("list", "--limit", "2")); n != 2 {
			t.Errorf("listed %d deliveries of the newest 2", n)
		}
		g.queueCommand("show", contacts[0], "--body", "--headers").
			expect(t, 0, contacts[0], "502 Bad Gateway from "+crm.address, `no \x1b[31mdatabase`, "X-Hub-Signature: sha1=", `  "topic": "contact.created"`, "Grüße, ça va? 🌷")
		shown := g.queueLines("show", contacts[0])
		if request, _ := shown[0]["request"].(map[string]any); len(shown) != 1 || request["body"] != string(notification("contact.created", contacts[0])) {
			t.Errorf("shown as %v", shown)
		}
		g.queueCommand("show", unrouted).expect(t, 0, "dead (unrouted)")
		g.queueCommand("show", "987654321").expect(t, 1)
	})

	t.Run("ask first", func(t *testing.T) {
		g.queueCommand("retry", "--state", "dead").expect(t, 2, "--yes")
		g.queueCommand("erase", "--yes").expect(t, 2, "nothing is selected")
		g.queueCommand("retry", "--state", "dead", "--since", "noon", "--yes").expect(t, 2, "noon")
		g.queueCommand("retry", "--state", "dead", "--dry-run").expect(t, 0, "4 deliveries to retry")
		if dead := g.queueLines("list", "--state", "dead"); len(dead) != 4 {
			t.Errorf("%d are dead after a dry run, want 4", len(dead))
		}
	})

	t.Run("retry", func(t *testing.T) {
		down.Store(false)
		g.queueCommand("retry", "--topic", "contact.*", "--yes").expect(t, 0, "retried 3 deliveries")
		for _, id := range contacts {
			takes(crm, id)
		}
		g.queueCommand("retry", unrouted, "--to", "support", "--yes").expect(t, 0, "sent 1 delivery to lane support")
		takes(support, unrouted)
	})

	t.Run("resend", func(t *testing.T) {
		before := support.count(talk)
		g.queueCommand("resend", talk, "--yes").expect(t, 0, "resent 1 delivery")
		within(t, longPatience, "the backend gets it again", func() bool { return support.count(talk) == before+1 })
		g.queueCommand("resend", "--lane", "support", "--topic", "conversation.*", "--to", "crm", "--yes").expect(t, 0, "sent 1 delivery to lane crm")
		takes(crm, talk)
	})

	t.Run("pause", func(t *testing.T) {
		g.queueCommand("pause", "crm").expect(t, 0, "paused lane crm")
		waiting := post("contact.updated")
		within(t, longPatience, "the lane shows what waits", func() bool {
			for _, lane := range g.queueLines("status") {
				if deliveries, _ := lane["deliveries"].(map[string]any); lane["lane"] == "crm" && lane["state"] == "paused" && deliveries["waiting"] == 1.0 {
					return true
				}
			}
			return false
		})
		if crm.count(waiting) != 0 {
			t.Error("delivered on a paused lane")
		}
		g.queueCommand("resume", "crm").expect(t, 0, "resumed lane crm")
		takes(crm, waiting)
	})

	t.Run("drop and erase", func(t *testing.T) {
		within(t, longPatience, "all are delivered", func() bool {
			return len(g.queueLines("list", "--state", "waiting,delivering,retrying")) == 0
		})
		number := strconv.FormatFloat(g.queueLines("list", "--notification", contacts[1])[0]["number"].(float64), 'f', -1, 64)
		g.queueCommand("drop", number, "--state", "delivered", "--yes").expect(t, 0, "dropped 1 delivery")
		g.queueCommand("erase", contacts[0], "--yes").expect(t, 0, "erased 1 delivery")
		for _, id := range contacts[:2] {
			g.queueCommand("show", id).expect(t, 1, id)
		}
		g.queueCommand("erase", contacts[0], "--yes").expect(t, 1, "there is no such notification")
	})
}

func TestQueueCommandsWithoutAQueue(t *testing.T) {
	g := newGateway(t)
	g.admin = "unix/" + filepath.Join(t.TempDir(), "admin.sock")
	g.queueCommand("status").expect(t, 1, "no Caddy answers at "+g.admin)
	if err := g.load(setup{admin: true, webhook: "route * { respond 200 }"}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"status"}, {"list"}, {"show", "1"}, {"retry", "--state", "dead", "--yes"}, {"pause", "crm"}} {
		r := g.queueCommand(args...)
		r.expect(t, 1, "queue")
		if n := strings.Count(r.errors, "\n"); n != 1 || r.out != "" {
			t.Errorf("%q printed %d errors, want 1:\n%s%s", args, n, r.errors, r.out)
		}
	}
	g.queueCommand("stauts").expect(t, 2, "did you mean status?")
}
