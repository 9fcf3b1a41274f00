package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// longPatience bounds waits for a backlog, or for a retry, on a busy machine.
const longPatience = 90 * time.Second

// programDir has the program in it, once it is built.
var programDir string

// program builds ./cmd/caddy, once for all tests.
var program = sync.OnceValues(func() (string, error) {
	var err error
	if programDir, err = os.MkdirTemp("", "caddy-program-"); err != nil {
		return "", err
	}
	path := filepath.Join(programDir, "caddy")
	if out, err := exec.Command("go", "build", "-o", path, "../cmd/caddy").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w\n%s", err, out)
	}
	return path, nil
})

// process is a gateway in a process of its own, which can be killed and started again
// on the same store.
type process struct {
	*gateway
	store  string // the file
	cmd    *exec.Cmd
	stderr lockedBuffer
	ended  chan struct{}
}

// newProcess prepares a process, which start starts.
func newProcess(t *testing.T) *process {
	t.Helper()
	p := &process{gateway: newGateway(t)}
	p.store = filepath.Join(p.dir, "queue.db")
	p.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
	})
	return p
}

// queued is a setup with a queue in the process's store.
func (p *process) queued(routes, options string) setup {
	return setup{
		admin:   true,
		options: "grace_period 10s",
		webhook: routes + "\nqueue {\npath " + p.store + "\n" + options + "\n}",
	}
}

// launch starts the process, and does not wait for it.
func (p *process) launch(s setup) {
	p.t.Helper()
	config, err := p.adapt(s)
	if err != nil {
		p.t.Fatalf("adapting the config: %v", err)
	}
	p.launchJSON(config)
}

// launchJSON starts the process with a config that is adapted.
func (p *process) launchJSON(config []byte) {
	p.t.Helper()
	path, err := program()
	if err != nil {
		p.t.Fatal(err)
	}
	file := filepath.Join(p.dir, "caddy.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(path, "run", "--config", file)
	p.cmd.Env = append(os.Environ(), "HOME="+p.dir, "XDG_CONFIG_HOME="+p.dir, "XDG_DATA_HOME="+p.dir)
	p.cmd.Stderr = &p.stderr
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.ended = make(chan struct{})
	go func() {
		_ = p.cmd.Wait() // how it ended is asked for later
		close(p.ended)
	}()
}

// start starts the process, and waits until it answers.
func (p *process) start(s setup) {
	p.t.Helper()
	p.launch(s)
	within(p.t, longPatience, "the gateway answers", func() bool {
		select {
		case <-p.ended:
			p.t.Fatalf("the process has ended: %s", p.lastWords())
		default:
		}
		answer, err := p.try(message{method: http.MethodHead})
		return err == nil && answer.status == http.StatusOK
	})
}

// wantRefusal starts a process that must end by itself, and returns the error that it
// ends with.
func (p *process) wantRefusal(s setup) string {
	p.t.Helper()
	p.launch(s)
	if p.wait(); p.cmd.ProcessState.Success() {
		p.t.Error("the process ended without an error")
	}
	return p.lastWords()
}

// lastWords returns the last message of a process that has ended. Caddy writes it to
// its log once it has one, and to stderr before.
func (p *process) lastWords() string {
	if _, err := os.Stat(p.logFile()); err == nil {
		if lines := p.log(); len(lines) > 0 {
			return lines[len(lines)-1].text("msg")
		}
	}
	return p.stderr.String()
}

func (p *process) wait() {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(longPatience):
		p.t.Fatal("the process does not end")
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signalling the process: %v", err)
	}
}

// kill ends the process at once, if it still runs.
func (p *process) kill() {
	p.t.Helper()
	_ = p.cmd.Process.Kill() // it may have ended
	p.wait()
}

// stop ends the process gracefully.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if p.wait(); !p.cmd.ProcessState.Success() {
		p.t.Errorf("stopping: %v: %s", p.cmd.ProcessState, p.lastWords())
	}
}

// reload has the running process load another config.
func (p *process) reload(s setup) {
	p.t.Helper()
	config, err := p.adapt(s)
	if err != nil {
		p.t.Fatalf("adapting the config: %v", err)
	}
	defer func() { p.loaded.Store(time.Now().UnixNano()) }()
	response, err := http.Post("http://"+p.admin+"/load", "application/json", bytes.NewReader(config))
	if err != nil {
		p.t.Fatalf("reloading: %v", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(response.Body)
		p.t.Fatalf("reloading: status %d: %s", response.StatusCode, said)
	}
}

// lines returns the queue's lines in the log at a level whose message has some text.
func (p *process) lines(level, text string) []entry {
	p.t.Helper()
	return p.logged(func(e entry) bool {
		return strings.HasPrefix(e.text("logger"), "http.intercom_webhook.queues") &&
			e.text("level") == level && strings.Contains(e.text("msg"), text)
	})
}

var ids atomic.Int64

// newID returns the id of a notification, of which there is no other.
func newID() string { return fmt.Sprintf("notif_%06d", ids.Add(1)) }

// post sends a new notification, which must be stored, and returns its id.
func (p *process) post(topic string) string {
	p.t.Helper()
	id := newID()
	p.expect(http.StatusOK, signed(notification(topic, id)))
	return id
}

// burst is a load of new notifications from several senders, each on a connection
// that it keeps.
type burst struct {
	topic   string
	stopped chan struct{}
	senders sync.WaitGroup
	answers atomic.Int64

	mu     sync.Mutex
	stored []string       // ids that were answered with 200
	unsure []string       // ids that were not answered
	others map[string]int // what else came of it, and how often
}

// burst begins to send. Each sender waits for the pace between two notifications.
func (p *process) burst(topic string, senders int, pace time.Duration) *burst {
	b := &burst{topic: topic, stopped: make(chan struct{}), others: make(map[string]int)}
	for range senders {
		b.senders.Go(func() {
			for {
				id := newID()
				answer, err := p.try(signed(notification(topic, id)))
				b.note(id, answer.status, err)
				wait := pace
				if err != nil {
					wait = max(pace, 10*time.Millisecond) // it is down
				}
				select {
				case <-b.stopped:
					return
				case <-time.After(wait):
				}
			}
		})
	}
	return b
}

func (b *burst) note(id string, status int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err != nil:
		b.others["no answer"]++
		b.unsure = append(b.unsure, id)
	case status == http.StatusOK:
		b.stored = append(b.stored, id)
		b.answers.Add(1)
	default:
		b.others[fmt.Sprint(status)]++
	}
}

// waitFor waits until so many notifications are answered with 200.
func (b *burst) waitFor(t *testing.T, n int64) {
	t.Helper()
	within(t, longPatience, fmt.Sprintf("%d notifications are stored", n), func() bool { return b.answers.Load() >= n })
}

// end ends the burst, and returns the ids that were answered with 200.
func (b *burst) end() []string {
	close(b.stopped)
	b.senders.Wait()
	return b.stored
}

// resend sends again what a burst that has ended got no answer to, as Intercom does, and
// returns its ids. All of it must be answered with 200 now.
func (b *burst) resend(p *process) []string {
	p.t.Helper()
	for _, id := range b.unsure {
		p.expect(http.StatusOK, signed(notification(b.topic, id)))
	}
	delete(b.others, "no answer")
	return b.unsure
}

// tally is a backend that takes everything, and counts it by the notification's id.
type tally struct {
	address string

	mu    sync.Mutex
	taken map[string]int
}

func newTally(t *testing.T, delay time.Duration) *tally {
	t.Helper()
	return newAnsweringTally(t, func(http.ResponseWriter, *http.Request) { time.Sleep(delay) })
}

// newAnsweringTally is a tally that answers as it is told.
func newAnsweringTally(t *testing.T, answer http.HandlerFunc) *tally {
	t.Helper()
	c := &tally{taken: make(map[string]int)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		c.mu.Lock()
		c.taken[r.Header.Get("X-Intercom-Notification-Id")]++
		c.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	c.address = server.Listener.Addr().String()
	return c
}

// missing returns those of the ids that none of the backends has got.
func missing(ids []string, backends ...*tally) []string {
	var missed []string
	for _, id := range ids {
		n := 0
		for _, c := range backends {
			n += c.count(id)
		}
		if n == 0 {
			missed = append(missed, id)
		}
	}
	return missed
}

func (c *tally) count(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken[id]
}

// wantAll waits until each of the ids has reached one of the backends.
func wantAll(t *testing.T, ids []string, backends ...*tally) {
	t.Helper()
	end := time.Now().Add(longPatience)
	missed := missing(ids, backends...)
	for len(missed) > 0 && time.Now().Before(end) {
		time.Sleep(50 * time.Millisecond)
		missed = missing(missed, backends...)
	}
	if len(missed) > 0 {
		t.Fatalf("%d of %d notifications that were answered with 200 are lost, such as %s", len(missed), len(ids), missed[0])
	}
}

// wantNoneTwice asserts that no notification has reached the backends more than once.
func wantNoneTwice(t *testing.T, backends ...*tally) {
	t.Helper()
	all := make(map[string]int)
	for _, c := range backends {
		c.mu.Lock()
		for id, n := range c.taken {
			all[id] += n
		}
		c.mu.Unlock()
	}
	for id, n := range all {
		if n > 1 {
			t.Errorf("%s was delivered %d times", id, n)
		}
	}
}

// idle waits until nothing is left in the queue that is to be delivered.
func (p *process) idle() {
	p.t.Helper()
	within(p.t, longPatience, "the queue is empty", func() bool {
		return len(p.listed("state=waiting,delivering,retrying&limit=1")) == 0
	})
}

// wantDeliveries waits until so many deliveries of a lane are in a state.
func (p *process) wantDeliveries(lane, state string, n int) {
	p.t.Helper()
	filters := "limit=1000&lane=" + lane + "&state=" + state
	for end := time.Now().Add(longPatience); ; time.Sleep(50 * time.Millisecond) {
		got := len(p.listed(filters))
		if got == n {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("%d deliveries of lane %s are %s, want %d", got, lane, state, n)
		}
	}
}

// wantMetric waits until a series has a value.
func (p *process) wantMetric(name string, value float64) {
	p.t.Helper()
	within(p.t, longPatience, fmt.Sprintf("%s is %v", name, value), func() bool {
		got, there := p.scrape()[name]
		return there && got == value
	})
}

// within waits until a condition holds that may take its time.
func within(t *testing.T, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain for: %s", limit, what)
		}
	}
}
