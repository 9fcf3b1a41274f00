package browser

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-intercom/caddy-intercom-webhook"
	_ "github.com/caddy-intercom/caddy-intercom-webhook/queue"
)

const (
	secret = "5e7c0ffee-of-the-browser-tests"

	// patience bounds every wait for something that must happen.
	patience = 10 * time.Second
)

// startGateway starts a Caddy whose queue has one lane, support, in which one failed
// attempt makes a dead letter. It returns the address of its only site, which has the web
// UI under /queue.
func startGateway(t *testing.T, backend string) (base string) {
	t.Helper()
	return launch(t, t.TempDir(), "max_attempts 1", "route * as support to "+backend)
}

// launch starts a Caddy with routes, whose queue is in a file of a folder, in place of the one that runs.
func launch(t *testing.T, dir, options, routes string) (base string) {
	t.Helper()
	address := freeAddress(t)
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(fmt.Appendf(nil, `
{
	admin off
	persist_config off
	storage file_system %s
	grace_period 2s
}
http://%s {
	intercom_queue_ui /queue
	intercom_webhook /intercom {
		client_secret %s
		allow static 127.0.0.1
		%s
		queue {
			path %s/queue.db
			%s
		}
	}
}
`, dir, address, secret, routes, dir, options), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
	})
	if err := caddy.Load(config, true); err != nil {
		t.Fatalf("loading the config: %v", err)
	}
	return "http://" + address
}

// launchWith starts a Caddy whose queue has these rows already.
func launchWith(t *testing.T, rows []row, options, routes string) (base string) {
	t.Helper()
	dir := t.TempDir()
	launch(t, dir, options, routes) // makes the tables
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/queue.db", rows)
	return launch(t, dir, options, routes)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func notification(topic, id string) []byte {
	return fmt.Appendf(nil, `{"type":"notification_event","app_id":"tulip4","data":{"item":{"body":"<p>Grüße, ça va? 🌷</p>"}},`+
		`"id":%q,"topic":%q,"delivery_attempts":1,"created_at":1780000001}`, id, topic)
}

// postNotification sends a signed notification, which must be stored.
func postNotification(t *testing.T, url string, body []byte) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write(body)
	request.Header.Set("X-Hub-Signature", "sha1="+hex.EncodeToString(mac.Sum(nil)))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("the notification was answered %d, want 200", answer.StatusCode)
	}
}

// awaitDeadLetter waits until the UI lists a notification as a dead letter.
func awaitDeadLetter(t *testing.T, ui, id string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get(ui + "/deliveries?state=dead")
		if err != nil {
			t.Fatal(err)
		}
		list, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(list), id) {
			return
		}
	}
	t.Fatalf("%s did not become a dead letter within %s", id, patience)
}

// hostileAnswer is what a backend answers that is not mended.
const hostileAnswer = "</pre><script>document.title='owned'</script>\x1b[31m"

// backend records what it gets. It answers 503 until it is mended, and then 200.
type backend struct {
	address string
	mended  atomic.Bool

	mu  sync.Mutex
	got []received
}

type received struct {
	header http.Header
	body   []byte
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	b := new(backend)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		b.mu.Lock()
		b.got = append(b.got, received{r.Header.Clone(), body})
		b.mu.Unlock()
		if !b.mended.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, hostileAnswer)
		}
	}))
	t.Cleanup(server.Close)
	b.address = server.Listener.Addr().String()
	return b
}

func (b *backend) all() []received {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

func (b *backend) wantCount(t *testing.T, want int) {
	t.Helper()
	if got := len(b.all()); got != want {
		t.Errorf("the backend got %d requests, want %d", got, want)
	}
}
