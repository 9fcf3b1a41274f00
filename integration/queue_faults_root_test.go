//go:build root

package integration

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An fsync that fails is told once, and then the system takes for written what is not.
// So nothing is answered with 200 until a whole checkpoint has succeeded, and a power cut
// then loses none of it.
func TestQueueAfterAFailedSync(t *testing.T) {
	for name, fails := range map[string]func(t *testing.T, p *process) (stored []string){
		"of the log": func(t *testing.T, p *process) []string {
			load := p.burst(topic, 8, 0)
			within(t, longPatience, "an fsync has failed", func() bool { return load.count("503") >= 40 })
			stored := load.end()
			load.mu.Lock()
			defer load.mu.Unlock()
			for other, n := range load.others {
				if other != "503" {
					t.Errorf("%d were answered with %s", n, other)
				}
			}
			return stored
		},
		// ext4 wrote the pages of the next try into blocks that read as zeros after a power cut,
		// although the fsync of that try succeeded
		"of the database": func(t *testing.T, p *process) []string {
			_, lines := p.adminAsk(http.MethodPost, "/deliveries/erase?topic=none.none") // moves the log into the database
			if len(lines) == 0 || lines[len(lines)-1]["error"] == nil {
				t.Errorf("the log was moved, although there is no room: %v", lines)
			}
			p.expect(http.StatusServiceUnavailable, signed(notification(topic, newID())))
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) { testFailedSync(t, fails) })
	}
}

func testFailedSync(t *testing.T, fails func(t *testing.T, p *process) []string) {
	outer := mount(t, "-t", "tmpfs", "-o", "size=160m", "tmpfs")
	image, copied := filepath.Join(outer, "disk"), filepath.Join(t.TempDir(), "disk")
	overwrite(t, image, nil)
	run(t, "fallocate", "-l", "96M", image)
	run(t, "mkfs.ext4", "-q", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", image)
	run(t, "fallocate", "-l", "96M", image) // what mkfs has made holes of
	disk := mountImage(t, image)
	// a loop device takes a write of several pages for done if there was room for the first
	source, err := exec.Command("findmnt", "--noheadings", "--output", "SOURCE", disk).Output()
	if err != nil {
		t.Fatal(err)
	}
	limit := filepath.Join("/sys/block", filepath.Base(strings.TrimSpace(string(source))), "queue", "max_sectors_kb")
	if err := os.WriteFile(limit, []byte("4"), 0o600); err != nil {
		t.Fatal(err)
	}
	failing := answering(t, http.StatusServiceUnavailable)
	p := newProcess(t)
	p.store = filepath.Join(disk, "store", "queue.db")
	p.start(p.queued("route * to "+failing.address, ""))
	var stored []string
	for range 200 {
		stored = append(stored, p.post(topic))
	}

	// the disk has room, but what it stands on has none, except for what is in use: else
	// the file system would stop for good, as it cannot write its journal
	run(t, "fstrim", disk)
	ballast := filepath.Join(outer, "ballast")
	fill(t, ballast)
	stored = append(stored, fails(t, p)...)
	remove(t, ballast)

	within(t, 10*time.Second, "notifications are stored again", func() bool {
		id := newID()
		answer, err := p.try(signed(notification(topic, id)))
		if err == nil && answer.status == http.StatusOK {
			stored = append(stored, id)
			return true
		}
		return false
	})
	if lines := p.logged(func(e entry) bool { return strings.Contains(e.text("msg"), "is on the disk again") }); len(lines) == 0 {
		t.Error("it stores again, and the log tells of no whole checkpoint")
	}
	for range 40 {
		stored = append(stored, p.post(topic))
	}
	p.signal(syscall.SIGSTOP)
	copySparse(t, image, copied)
	p.kill()

	b := newTally(t, 0)
	store := filepath.Join(mountImage(t, copied), "store", "queue.db")
	q := newProcess(t)
	q.store = store
	q.start(q.queued("route * to "+b.address, ""))
	wantAll(t, stored, b)
	t.Logf("%d stored, 0 lost", len(stored))
}

// fill makes a file that takes all room that is left.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for block := make([]byte, 1<<16); err == nil && len(block) > 0; {
		if _, err = file.Write(block); err != nil && len(block) > 1 {
			block, err = block[:len(block)/2], nil
		}
	}
}

// Caddy starts and reloads on a full disk, and stores once there is room.
func TestQueueStartsOnAFullDisk(t *testing.T) {
	for name, made := range map[string]bool{"a new file": false, "a file that is there": true} {
		t.Run(name, func(t *testing.T) {
			dir := mount(t, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
			p, b := newProcess(t), newTally(t, 0)
			p.store = filepath.Join(dir, "queue.db")
			s := p.queued("route * to "+b.address, "")
			if made {
				p.start(s)
				wantAll(t, []string{p.post(topic)}, b)
				p.stop()
			}
			ballast := filepath.Join(dir, "ballast")
			fill(t, ballast)
			p.start(s)
			for range 3 {
				p.expect(http.StatusServiceUnavailable, signed(notification(topic, newID())))
			}
			p.reload(p.queued("route * as other to "+b.address, ""))
			p.expect(http.StatusServiceUnavailable, signed(notification(topic, newID())))
			wantStoringAgain(t, p, b, func() { remove(t, ballast) })
		})
	}
}

// A file that only a person can mend refuses the config, so that nobody takes it for one
// that is on its way back.
func TestQueueRefusesAFileWithoutRights(t *testing.T) {
	dir := mount(t, "-t", "tmpfs", "-o", "size=16m", "tmpfs")
	store := filepath.Join(dir, "queue.db")
	overwrite(t, store, nil)
	run(t, "chattr", "+i", store)
	t.Cleanup(func() { run(t, "chattr", "-i", store) })
	p := newProcess(t)
	p.store = store
	wantText(t, p.wantRefusal(p.queued("route * to "+nobody, "")), store, "not permitted")
}
