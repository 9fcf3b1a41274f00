package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A delivery that the end of the process cuts off is no attempt, however often that
// happens, so that nothing is discarded because of it.
func TestQueueCountsNoAttemptThatAKillCutsOff(t *testing.T) {
	for _, c := range []struct{ kills, maxAttempts int }{{1, 1}, {20, 3}} {
		t.Run(fmt.Sprintf("%d kills, max_attempts %d", c.kills, c.maxAttempts), func(t *testing.T) {
			const n = 8
			var back atomic.Bool
			b := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
				if !back.Load() {
					hang(w, r)
				}
			})
			p := newProcess(t)
			s := p.queued("route * as all to "+b.address, fmt.Sprintf("max_attempts %d", c.maxAttempts))
			p.start(s)
			for range n {
				p.post(topic)
			}
			for kill := range c.kills {
				within(t, longPatience, "all are being delivered", func() bool { return len(b.all()) >= (kill+1)*n })
				p.kill()
				back.Store(kill+1 == c.kills)
				p.start(s)
			}
			p.wantDeliveries("all", "delivered", n)
			b.wantCount(t, (c.kills+1)*n)
			for _, got := range b.all() {
				if attempt := got.header.Get("X-Intercom-Attempt"); attempt != "1" {
					t.Fatalf("attempt %s, want 1", attempt)
				}
			}
			if lines := p.lines("warn", "dead letter"); len(lines) > 0 {
				t.Errorf("dead letters: %v", lines)
			}
		})
	}
}

// A lane that a reload removes or changes while a delivery hangs keeps no other lane, and
// not the reload, waiting.
func TestQueueReloadWaitsForNoDelivery(t *testing.T) {
	hanging, good := newBackend(t, hang), newTally(t, 0)
	p := newProcess(t)
	p.start(p.queued("route conversation.* as hanging to "+hanging.address+"\nroute * as good to "+good.address, "workers 2"))
	for range 5 { // more than the lane has workers for
		p.post(topic)
	}
	eventually(t, "deliveries hang", func() bool { return len(hanging.all()) == 2 })
	for name, s := range map[string]setup{
		"its workers are changed": p.queued("route conversation.* as hanging to "+hanging.address+"\nroute * as good to "+good.address, "workers 4"),
		"it is renamed":           p.queued("route conversation.* as another to "+hanging.address+"\nroute * as good to "+good.address, ""),
		"it is removed":           p.queued("route * as good to "+good.address, ""),
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			p.reload(s)
			id := p.post("ticket.created")
			wantAll(t, []string{id}, good)
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("the other lane waited %s", took)
			}
		})
	}
}

// A step back of the clock puts a retry off by the step at most.
func TestQueueStartsAfterTheClockWasSetBack(t *testing.T) {
	b := newAnsweringTally(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Intercom-Attempt") == "1" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	p := newProcess(t)
	s := p.queued("route * as all to "+b.address, "")
	p.start(s)
	var stored []string
	for range 5 {
		stored = append(stored, p.post(topic))
	}
	wantAll(t, stored, b)
	p.kill()
	const step = 5 * time.Second
	execute(t, p.store, fmt.Sprintf(`UPDATE delivery SET stored_at = stored_at + %d, age_from = age_from + %[1]d, due_at = due_at + %[1]d`, step.Microseconds()))
	p.start(s)
	p.wantDeliveries("all", "delivered", len(stored))
}

// Caddy starts though the folder of the file cannot be made, and stores once it can be.
func TestQueueStartsWithoutItsFolder(t *testing.T) {
	t.Run("at the start", func(t *testing.T) {
		p, b := newProcess(t), newTally(t, 0)
		disk := filepath.Join(p.dir, "disk")
		if err := os.Symlink(filepath.Join(p.dir, "unmounted", "disk"), disk); err != nil {
			t.Fatal(err)
		}
		p.store = filepath.Join(disk, "queue.db")
		p.start(p.queued("route * to "+b.address, ""))
		p.expect(http.StatusServiceUnavailable, signed(notification(topic, newID())))
		wantStoringAgain(t, p, b, func() { makeFolder(t, filepath.Join(p.dir, "unmounted", "disk")) })
	})
	t.Run("at a reload", func(t *testing.T) {
		p, b := newProcess(t), newTally(t, 0)
		p.start(setup{admin: true, webhook: "route * to " + b.address})
		disk := filepath.Join(p.dir, "disk")
		if err := os.Symlink(filepath.Join(p.dir, "unmounted", "disk"), disk); err != nil {
			t.Fatal(err)
		}
		p.store = filepath.Join(disk, "queue.db")
		p.reload(p.queued("route * to "+b.address, ""))
		p.expect(http.StatusServiceUnavailable, signed(notification(topic, newID())))
		wantStoringAgain(t, p, b, func() { makeFolder(t, filepath.Join(p.dir, "unmounted", "disk")) })
	})
}

func makeFolder(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

// wantStoringAgain mends what is wrong, and asserts that notifications are stored and
// delivered within 10 seconds of that.
func wantStoringAgain(t *testing.T, p *process, b *tally, mend func()) {
	t.Helper()
	mend()
	id := newID()
	within(t, 10*time.Second, "notifications are stored again", func() bool {
		answer, err := p.try(signed(notification(topic, id)))
		return err == nil && answer.status == http.StatusOK
	})
	wantAll(t, []string{id}, b)
}

// largeBodies are bodies whose JSON is longest where it is escaped for HTML.
func largeBody(id string) []byte {
	return bytes.Replace(notification(topic, id), []byte(`"links":{}`),
		fmt.Appendf(nil, `"links":{"text":"%s"}`, strings.Repeat("<", 4<<20-1024)), 1)
}

// Many large bodies at once stay within the memory that is set aside for them, and those
// that find no room are refused at once.
func TestQueueBoundsTheMemoryOfLargeBodies(t *testing.T) {
	const n = 40
	b := newBackend(t, nil)
	p := newProcess(t)
	p.start(p.queued("route * as all to "+b.address, ""))
	bodies := make(map[string][]byte)
	for range n {
		id := newID()
		bodies[id] = largeBody(id)
	}
	var mu sync.Mutex
	var stored []string
	answers := make(map[int]int)
	var senders sync.WaitGroup
	for id, body := range bodies {
		senders.Go(func() {
			answer, err := p.try(signed(body))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("no answer: %v", err)
			}
			if answers[answer.status]++; answer.status == http.StatusOK {
				stored = append(stored, id)
			}
		})
	}
	senders.Wait()
	if len(stored) == 0 || answers[http.StatusOK]+answers[http.StatusServiceUnavailable] != n {
		t.Errorf("answers by status: %v, want 200 and 503 only", answers)
	}
	// A notification that was answered 503 at the deadline may have been stored after all.
	within(t, longPatience, "all that was stored has been delivered", func() bool {
		got := make(map[string]bool)
		for _, one := range b.all() {
			got[one.header.Get("X-Intercom-Notification-Id")] = true
		}
		return !slices.ContainsFunc(stored, func(id string) bool { return !got[id] })
	})
	for _, one := range b.all() {
		if id := one.header.Get("X-Intercom-Notification-Id"); !bytes.Equal(one.body, bodies[id]) {
			t.Errorf("the body of %s has changed", id)
		}
	}
	most := p.mostMemory()
	t.Logf("answers by status: %v; most memory %d MiB", answers, most>>20)
	if most > 512<<20 {
		t.Errorf("%d MiB of memory at most, want 512", most>>20)
	}
}

// mostMemory returns the most memory that the process has had, in bytes.
func (p *process) mostMemory() (size int64) {
	p.t.Helper()
	for line := range strings.Lines(string(content(p.t, fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid)))) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &size); err == nil {
			return size << 10
		}
	}
	p.t.Fatal("the system does not tell the memory of the process")
	return 0
}

// One file has one name, also if its folder is a symbolic link.
func TestQueueInAFolderThatIsALink(t *testing.T) {
	p, b := newProcess(t), newTally(t, 0)
	folder := filepath.Join(p.dir, "folder")
	makeFolder(t, folder)
	if err := os.Symlink(folder, filepath.Join(p.dir, "link")); err != nil {
		t.Fatal(err)
	}
	p.store = filepath.Join(p.dir, "link", "queue.db")
	p.start(p.queued("route * as one to "+b.address, ""))
	stored := []string{p.post(topic)}
	p.reload(p.queued("route * as two to "+b.address, ""))
	stored = append(stored, p.post(topic))
	p.store = filepath.Join(folder, "queue.db")
	p.reload(p.queued("route * as three to "+b.address, ""))
	stored = append(stored, p.post(topic))
	wantAll(t, stored, b)

	second := newProcess(t)
	second.store = filepath.Join(p.dir, "link", "queue.db")
	wantText(t, second.wantRefusal(second.queued("route * to "+b.address, "")), "another process uses it")
	p.idle()
	wantNoneTwice(t, b)
}

// What keeps a second Caddy off a file is not a name that somebody can remove.
func TestQueueRefusesASecondProcessWithoutTheLockFile(t *testing.T) {
	p, b := newProcess(t), newTally(t, 0)
	p.start(p.queued("route * to "+b.address, ""))
	remove(t, p.store+".lock")

	second := newProcess(t)
	second.store = p.store
	wantText(t, second.wantRefusal(second.queued("route * to "+b.address, "")), p.store, "another process uses it")
	wantAll(t, []string{p.post(topic)}, b)
}

// Nothing is answered with 200 that is stored in a file which nobody would find again.
func TestQueueWhoseFilesAreRemovedStoresNothing(t *testing.T) {
	for name, suffix := range map[string]string{"the database": "", "its log": "-wal"} {
		t.Run(name, func(t *testing.T) {
			p, b := newProcess(t), newTally(t, 0)
			p.start(p.queued("route * to "+b.address, ""))
			wantAll(t, []string{p.post(topic)}, b)
			remove(t, p.store+suffix)
			for range 5 {
				p.expect(http.StatusServiceUnavailable, signed(notification(topic, newID())))
			}
			if lines := p.logged(func(e entry) bool {
				return e.ours() && e.text("level") != "debug" && strings.Contains(fmt.Sprint(e), "moved or deleted while in use")
			}); len(lines) == 0 {
				t.Error("the log does not say why")
			}
		})
	}
}
