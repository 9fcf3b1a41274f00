package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// developerHub is Intercom while the secret of an app is changed there: it sends
// notifications all the time, each signed with the secret of that moment.
type developerHub struct {
	g       *gateway
	stopped chan struct{}
	senders sync.WaitGroup
	taken   atomic.Int64 // answered with 200

	mu       sync.Mutex
	secret   string
	underWay map[string]int // by secret
	refused  map[string]int // by what came of it
}

func newDeveloperHub(t *testing.T, g *gateway, secret string) *developerHub {
	d := &developerHub{
		g: g, stopped: make(chan struct{}), secret: secret,
		underWay: make(map[string]int), refused: make(map[string]int),
	}
	for range 4 {
		d.senders.Go(func() {
			for {
				select {
				case <-d.stopped:
					return
				default:
					d.notify()
				}
			}
		})
	}
	t.Cleanup(func() {
		d.end()
	})
	return d
}

// notify sends a notification, and again if there is no answer, as Intercom does.
func (d *developerHub) notify() {
	d.mu.Lock()
	secret := d.secret
	d.underWay[secret]++
	d.mu.Unlock()
	m := notification(topic, newID())
	answer, err := d.g.try(message{body: m}.with(hubHeader, hubSignature(m, secret)))
	for end := time.Now().Add(longPatience); err != nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		answer, err = d.g.try(message{body: m}.with(hubHeader, hubSignature(m, secret)))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.underWay[secret]--
	if err == nil && answer.status == http.StatusOK {
		d.taken.Add(1)
	} else {
		d.refused[fmt.Sprint(secret, " ", answer.status, " ", err)]++
	}
}

// change makes another secret that of the app.
func (d *developerHub) change(secret string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.secret = secret
}

// waitForMore waits until some more notifications are answered with 200.
func (d *developerHub) waitForMore(t *testing.T) {
	t.Helper()
	goal := d.taken.Load() + 50
	within(t, longPatience, "more notifications are taken", func() bool { return d.taken.Load() >= goal })
}

// waitUntilUnused waits until nothing more is signed with a secret, as a metric tells.
func (d *developerHub) waitUntilUnused(t *testing.T, secret, metric string) {
	t.Helper()
	within(t, longPatience, "the old secret is not used any more", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.underWay[secret] == 0
	})
	before := d.g.scrape()[metric]
	d.waitForMore(t)
	if after := d.g.scrape()[metric]; before == 0 || after != before {
		t.Errorf("%s was %v, and is %v", metric, before, after)
	}
}

func (d *developerHub) end() {
	select {
	case <-d.stopped:
	default:
		close(d.stopped)
	}
	d.senders.Wait()
}

// wantNoneRefused ends the sending.
func (d *developerHub) wantNoneRefused(t *testing.T) {
	t.Helper()
	if d.end(); len(d.refused) > 0 {
		t.Errorf("%d were taken, but some were not: %v", d.taken.Load(), d.refused)
	}
}

func (g *gateway) wantWithdrawn(secret string) {
	g.t.Helper()
	old := message{body: body}.with(hubHeader, hubSignature(body, secret))
	eventually(g.t, "the old secret is refused", func() bool { return g.send(old).status == http.StatusUnauthorized })
}

// slowly answers after notifications have been under way for a while.
func slowly(http.ResponseWriter, *http.Request) { time.Sleep(20 * time.Millisecond) }

// What docs/operations.md says under "Changing the secret", with a file.
func TestSecretInAFileIsChangedWithoutARefusal(t *testing.T) {
	const first, second = "hidden-first-secret", "hidden-second-secret"
	write := func(t *testing.T, path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rename := func(t *testing.T, from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for name, put := range map[string]func(t *testing.T, path, content string){
		"written in place": write,
		"replaced": func(t *testing.T, path, content string) {
			write(t, path+"~", content)
			rename(t, path+"~", path)
		},
		"gone for a moment": func(t *testing.T, path, content string) {
			write(t, path+".new", content)
			if err := os.Rename(path, path+"~"); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			rename(t, path+".new", path)
		},
		"behind a link as in Kubernetes": func(t *testing.T, path, content string) {
			dir := filepath.Dir(path)
			version, err := os.MkdirTemp(dir, "..")
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(version, filepath.Base(path)), content)
			data := filepath.Join(dir, "..data")
			if err := os.Symlink(filepath.Base(version), data+"_tmp"); err != nil {
				t.Fatal(err)
			}
			rename(t, data+"_tmp", data)
			if err := os.Symlink(filepath.Join("..data", filepath.Base(path)), path); err != nil && !os.IsExist(err) {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secrets")
			put(t, path, first+"\n")
			g := start(t, setup{secrets: "{file." + path + "}", webhook: "route * to " + newBackend(t, slowly).address})
			readAgain := func(secrets float64) {
				t.Helper()
				eventually(t, "the file is read again", func() bool {
					return len(g.logged(func(e entry) bool {
						return e.ours() && e.text("level") == "info" && strings.Contains(e.text("msg"), "was read again") && e["secrets"] == secrets
					})) == 1
				})
			}
			before := g.scrape()
			hub := newDeveloperHub(t, g, first)
			hub.waitForMore(t)

			put(t, path, second+"\n"+first+"\n")
			readAgain(2)
			hub.waitForMore(t)

			hub.change(second)
			hub.waitUntilUnused(t, first, `secret_matches_total{secret="2"}`)

			put(t, path, second+"\n")
			readAgain(1)
			g.wantWithdrawn(first)
			hub.waitForMore(t)
			hub.wantNoneRefused(t)

			matches := g.scrape().since(before).of("secret_matches_total")
			if len(matches) != 2 {
				t.Errorf("counted %v", matches)
			}
			log, err := os.ReadFile(g.logFile())
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(log), "hidden-") {
				t.Error("a secret is in the log")
			}
		})
	}
}

// What docs/operations.md says under "Changing the secret", with variables. A reload could not
// do that: a process keeps the environment that it was started with.
func TestSecretInAVariableIsChangedWithoutARefusal(t *testing.T) {
	const first, second = "first-secret", "second-secret"
	route := "route * to " + newBackend(t, slowly).address
	p := newProcess(t)
	t.Setenv("GATEWAY_TEST_SECRET", first)
	p.start(setup{secrets: "{env.GATEWAY_TEST_SECRET}", webhook: route})
	hub := newDeveloperHub(t, p.gateway, first)
	hub.waitForMore(t)

	t.Setenv("GATEWAY_TEST_NEW_SECRET", second)
	p.stop()
	p.start(setup{secrets: "{env.GATEWAY_TEST_NEW_SECRET} {env.GATEWAY_TEST_SECRET}", webhook: route})
	hub.waitForMore(t)

	hub.change(second)
	hub.waitUntilUnused(t, first, `secret_matches_total{secret="2"}`)

	t.Setenv("GATEWAY_TEST_SECRET", second)
	p.stop()
	p.start(setup{secrets: "{env.GATEWAY_TEST_SECRET}", webhook: route})
	p.wantWithdrawn(first)
	hub.waitForMore(t)
	hub.wantNoneRefused(t)
}
