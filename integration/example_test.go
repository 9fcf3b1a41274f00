package integration

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// TestExample does what the README tells a newcomer to do, on ports that are free.
func TestExample(t *testing.T) {
	dir := t.TempDir()
	caddy, err := program()
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../example.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	config := string(example)
	for _, port := range []string{"8080", "9001", "9002"} {
		config = strings.ReplaceAll(config, ":"+port, ":"+freePort(t))
	}
	endpoint := regexp.MustCompile(`http://localhost:\d+/intercom`).FindString(config)
	backends := regexp.MustCompile(`to 127\.0\.0\.1:(\d+)`).FindAllStringSubmatch(config, -1)
	file := filepath.Join(dir, "example.Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}

	run := exec.Command(caddy, "run", "--config", file)
	run.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir, "CADDY_ADMIN=127.0.0.1:"+freePort(t))
	var log lockedBuffer
	run.Stderr = &log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = run.Process.Kill()
		_ = run.Wait()
	})
	eventually(t, "the gateway runs", func() bool { return strings.Contains(log.String(), "serving initial configuration") })

	send := func(args ...string) (string, error) {
		out, err := exec.Command(caddy, append([]string{"intercom-webhook", "send"}, args...)...).Output()
		return string(out), err
	}
	for topic, backend := range map[string]string{
		"conversation.user.replied": backends[0][1],
		"contact.user.created":      backends[1][1],
		"job.completed":             backends[2][1],
	} {
		out, err := send(topic, endpoint, "--secret", "demo-secret")
		if err != nil || !strings.HasPrefix(out, "200 OK in ") {
			t.Errorf("sending %s: %v\n%s", topic, err, out)
		}
		line := regexp.MustCompile(`handled request.*"backend": ` + backend + `\b.*`)
		eventually(t, topic+" reaches "+backend, func() bool {
			for _, match := range line.FindAllString(log.String(), -1) {
				if strings.Contains(match, `"topic": "`+topic+`"`) {
					return true
				}
			}
			return false
		})
	}

	ui, err := http.Get(strings.TrimSuffix(endpoint, "/intercom") + "/queue")
	if err != nil {
		t.Fatal(err)
	}
	ui.Body.Close()
	if ui.StatusCode != http.StatusOK {
		t.Errorf("the web UI answers %d", ui.StatusCode)
	}

	out, err := send("conversation.user.replied", endpoint, "--secret", "another")
	if err == nil || !strings.HasPrefix(out, "401 Unauthorized in ") {
		t.Errorf("sending with another secret: %v\n%s", err, out)
	}
}

// lockedBuffer takes a log while it is read.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
