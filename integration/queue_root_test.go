//go:build root

package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// run runs a command of the system, which must succeed.
func run(t *testing.T, command string, args ...string) {
	t.Helper()
	if out, err := exec.Command(command, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", command, args, err, out)
	}
}

// mount mounts a file system on a new folder, until the end of the test.
func mount(t *testing.T, args ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	run(t, "mount", append(args, dir)...)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

// mountImage mounts a file as a disk. Nothing but fsync makes its file system write
// to it for as long as a test takes, so that what is in the file at any time is what a
// disk would have had without power.
func mountImage(t *testing.T, image string) (dir string) {
	t.Helper()
	return mount(t, "-t", "ext4", "-o", "loop,commit=3600", image)
}

// A power cut at any moment loses nothing that was answered with 200, though deliveries,
// which do not wait for the disk, write to the same file.
func TestQueueLosesNothingInAPowerCut(t *testing.T) {
	for cut := range 5 {
		t.Run(fmt.Sprint("cut ", cut+1), func(t *testing.T) {
			image, copied := filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "disk")
			overwrite(t, image, nil)
			if err := os.Truncate(image, 512<<20); err != nil {
				t.Fatal(err)
			}
			run(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
			store := filepath.Join(mountImage(t, image), "store", "queue.db")
			refusing := answering(t, http.StatusServiceUnavailable)
			p := newProcess(t)
			p.store = store
			p.start(p.queued("route * to "+refusing.address, ""))
			load := p.burst(topic, 32, 0)
			load.waitFor(t, int64(200+300*cut))
			p.signal(syscall.SIGSTOP)
			copySparse(t, image, copied)
			p.kill()
			stored := load.end()

			store = filepath.Join(mountImage(t, copied), "store", "queue.db")
			b := newTally(t, 0)
			q := newProcess(t)
			q.store = store
			q.start(q.queued("route * to "+b.address, ""))
			wantAll(t, stored, b)
			attempts := len(refusing.all())
			if attempts == 0 {
				t.Error("nothing was being delivered at the cut")
			}
			t.Logf("%d stored, %d attempts to deliver, 0 lost", len(stored), attempts)
		})
	}
}

// copySparse copies a file, but not its holes.
func copySparse(t *testing.T, from, to string) {
	t.Helper()
	source, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	block, hole := make([]byte, 1<<20), make([]byte, 1<<20)
	var at int64
	for {
		n, err := io.ReadFull(source, block)
		if n > 0 && !bytes.Equal(block[:n], hole[:n]) {
			if _, err := target.WriteAt(block[:n], at); err != nil {
				t.Fatal(err)
			}
		}
		if at += int64(n); err != nil {
			break // the size is checked below
		}
	}
	info, err := source.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if at != info.Size() {
		t.Fatalf("copied %d of %d bytes", at, info.Size())
	}
	if err := target.Truncate(at); err != nil {
		t.Fatal(err)
	}
}

// A full disk is answered with 503, and never with 200 for what is not stored. Once
// there is room, all goes on without a restart.
func TestQueueOnAFullDisk(t *testing.T) {
	var up atomic.Bool
	b := newTally(t, 0)
	failing := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	dir := mount(t, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
	ballast := filepath.Join(dir, "ballast")
	overwrite(t, ballast, make([]byte, 10<<20))
	p := newProcess(t)
	p.store = filepath.Join(dir, "queue.db")
	p.start(p.queued("route conversation.* to "+b.address+"\nroute contact.* to "+failing.address, ""))

	conversations := p.burst(topic, 4, 0)
	contacts := p.burst("contact.user.created", 2, 5*time.Millisecond)
	within(t, longPatience, "the disk is full", func() bool { return conversations.count("503") >= 200 && contacts.count("503") >= 20 })
	stored := conversations.end()
	waiting := contacts.end()
	for _, load := range []*burst{conversations, contacts} {
		load.mu.Lock()
		for other, n := range load.others {
			if other != "503" {
				t.Errorf("%d were answered with %s", n, other)
			}
		}
		load.mu.Unlock()
	}
	t.Logf("%d stored, %d refused", len(stored)+len(waiting), conversations.count("503")+contacts.count("503"))

	time.Sleep(3 * time.Second) // in which it is tried several times to note what came of the deliveries
	remove(t, ballast)
	up.Store(true)
	within(t, patience, "there is room again", func() bool {
		answer, err := p.try(signed(notification(topic, newID())))
		return err == nil && answer.status == http.StatusOK
	})
	stored = append(stored, p.post(topic))
	wantAll(t, stored, b)
	p.idle()
	arrived := make(map[string]bool)
	for _, got := range failing.all() {
		arrived[got.header.Get("X-Intercom-Notification-Id")] = true
	}
	for _, id := range waiting {
		if !arrived[id] {
			t.Errorf("%s is lost", id)
		}
	}
}

// count returns how often something else than 200 came of the burst.
func (b *burst) count(other string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.others[other]
}
