//go:build root

package integration

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// On a full disk it is not ready, though nothing is being stored that would fail.
func TestReadyOnAFullDisk(t *testing.T) {
	dir := mount(t, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
	p := newProcess(t)
	p.store = filepath.Join(dir, "queue.db")
	s := p.queued("route * { respond 200 }", "")
	s.behind = "intercom_ready " + readyURI
	p.start(s)
	p.wantReady(true)
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	p.wantReady(false)
	if got := p.readyReason(); !strings.Contains(got, "full") {
		t.Errorf("reason %s", got)
	}
	p.expect(http.StatusServiceUnavailable, signed(notification(topic, newID())))
	remove(t, ballast)
	p.wantReady(true)
	p.post(topic)
}
