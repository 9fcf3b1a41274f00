package integration

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

const readyURI = "/ready"

// readyStatus returns the status of intercom_ready, which must say nothing about the reason.
func (g *gateway) readyStatus() int {
	g.t.Helper()
	answer := g.send(message{method: http.MethodGet, path: readyURI})
	want := map[int]string{http.StatusOK: "ready\n", http.StatusServiceUnavailable: "not ready\n"}[answer.status]
	if answer.body != want {
		g.t.Errorf("status %d with %q", answer.status, answer.body)
	}
	return answer.status
}

// readyReason returns what the admin endpoint says about the readiness.
func (g *gateway) readyReason() string {
	g.t.Helper()
	answer, err := g.do(func() (*http.Request, error) {
		return http.NewRequest(http.MethodGet, "http://"+g.admin+"/intercom_webhook/ready", nil)
	})
	if err != nil {
		g.t.Fatalf("asking the admin endpoint: %v", err)
	}
	if (answer.status == http.StatusOK) != (answer.body == "{\"ready\":true}\n") {
		g.t.Errorf("status %d with %q", answer.status, answer.body)
	}
	return answer.body
}

// wantReady waits until both say that it is ready, or that it is not.
func (g *gateway) wantReady(ready bool) {
	g.t.Helper()
	for end := time.Now().Add(longPatience); ; time.Sleep(50 * time.Millisecond) {
		status, reason := g.readyStatus(), g.readyReason()
		if (status == http.StatusOK) == ready && strings.Contains(reason, `"ready":true`) == ready {
			return
		}
		if time.Now().After(end) {
			g.t.Fatalf("ready: %d, %s; want %v", status, reason, ready)
		}
	}
}

func TestReady(t *testing.T) {
	ready := "intercom_ready " + readyURI
	g := start(t, setup{admin: true, webhook: "route * { respond 200 }", behind: ready})
	if got := g.readyStatus(); got != http.StatusOK {
		t.Errorf("without a queue: %d", got)
	}
	if got := g.readyReason(); got != "{\"ready\":true}\n" {
		t.Errorf("without a queue: %s", got)
	}
	g.expect(http.StatusMethodNotAllowed, message{method: http.MethodGet, path: "/readiness"})
	g.expect(http.StatusOK, signed(notification(topic, newID())).to(readyURI))

	resetStore(true)
	if err := g.load(setup{admin: true, webhook: "route * { respond 200 }\nqueue fake", behind: ready}); err != nil {
		t.Fatal(err)
	}
	if got := g.readyStatus(); got != http.StatusServiceUnavailable {
		t.Errorf("with a full queue: %d", got)
	}
	if got := g.readyReason(); got != "{\"ready\":false,\"reason\":\"disk is full\"}\n" {
		t.Errorf("with a full queue: %s", got)
	}
	if lines := g.logged(func(e entry) bool { return strings.Contains(e.text("msg"), "not ready") }); len(lines) != 1 || lines[0].text("error") != "disk is full" {
		t.Errorf("logged %v", lines)
	}
	if err := g.load(setup{admin: true, allow: "static 127.0.0.1", webhook: "route * { respond 200 }\nqueue fake\nmax_size 0", behind: ready}); err == nil {
		t.Fatal("a broken config loads")
	}
	resetStore(false)
	if got := g.readyStatus(); got != http.StatusOK {
		t.Errorf("after there is room: %d", got)
	}
}

// While it is shutting down, it is not ready, but still takes notifications.
func TestReadyWhileShuttingDown(t *testing.T) {
	p := newProcess(t)
	s := p.queued("route * { respond 200 }", "")
	s.behind = "intercom_ready " + readyURI
	s.options += "\nshutdown_delay 4s"
	p.start(s)
	p.wantReady(true)
	p.signal(syscall.SIGTERM)
	for end := time.Now().Add(longPatience); p.readyStatus() == http.StatusOK; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("is still ready")
		}
	}
	if got := p.readyReason(); !strings.Contains(got, "caddy is shutting down") {
		t.Errorf("reason %s", got)
	}
	p.post(topic)
	p.wait()
}
