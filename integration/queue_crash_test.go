package integration

import (
	"bytes"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A process that is killed at any moment of a burst loses nothing that it has answered
// with 200, however often.
func TestQueueLosesNothingWhenKilled(t *testing.T) {
	const kills = 30
	p, b := newProcess(t), newTally(t, 50*time.Millisecond) // slower than what arrives
	s := p.queued("route * to "+b.address, "")
	var stored []string
	for range kills {
		p.start(s)
		load := p.burst(topic, 16, time.Millisecond)
		load.waitFor(t, 1)
		time.Sleep(rand.N(300 * time.Millisecond))
		p.kill()
		stored = append(stored, load.end()...)
	}
	left := len(missing(stored, b))
	p.start(s)
	wantAll(t, stored, b)
	t.Logf("killed %d times: %d stored, of which %d were not delivered at the last kill, 0 lost", kills, len(stored), left)
	if left == 0 {
		t.Error("the last kill interrupted nothing, so nothing was to be recovered")
	}
}

// What was under way to a backend when the process was killed is taken up soon.
func TestQueueTakesUpInterruptedDeliveries(t *testing.T) {
	const n = 8
	var back atomic.Bool
	b := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if !back.Load() {
			hang(w, r)
		}
	})
	p := newProcess(t)
	s := p.queued("route * to "+b.address, "")
	p.start(s)
	for range n {
		p.post(topic)
	}
	eventually(t, "all deliveries run", func() bool { return len(b.all()) == n })
	p.kill()
	back.Store(true)

	restarted := time.Now()
	p.start(s)
	within(t, longPatience, "all interrupted deliveries are taken up", func() bool { return len(b.all()) == 2*n })
	took := time.Since(restarted).Round(time.Millisecond)
	if t.Logf("taken up %s after the restart", took); took > 10*time.Second {
		t.Error("that is over 10s")
	}
	for _, got := range b.all()[n:] {
		if attempt := got.header.Get("X-Intercom-Attempt"); attempt != "1" {
			t.Errorf("attempt %q, want 1: an interrupted one does not count", attempt)
		}
	}
	p.idle()
	b.wantCount(t, 2*n)
}

// A notification that Intercom sends again is known, also by the next process.
func TestQueueKnowsDuplicatesAfterARestart(t *testing.T) {
	for name, end := range map[string]func(*process){"killed": (*process).kill, "stopped": (*process).stop} {
		t.Run(name, func(t *testing.T) {
			p, b := newProcess(t), newTally(t, 0)
			s := p.queued("route * to "+b.address, "")
			p.start(s)
			again := p.post(topic)
			wantAll(t, []string{again}, b)
			p.idle() // that it was delivered may be known to the backend alone until then
			end(p)

			p.start(s)
			p.expect(http.StatusOK, signed(notification(topic, again)))
			wantAll(t, []string{p.post(topic)}, b)
			p.idle()
			wantNoneTwice(t, b)
			p.wantMetric(`notifications_total{outcome="duplicate",topic="`+topic+`"}`, 1)
		})
	}
}

// A graceful stop lets the deliveries end that run, so that the next process delivers
// the others and none twice.
func TestQueueStopsGracefullyUnderLoad(t *testing.T) {
	p, b := newProcess(t), newTally(t, time.Second)
	s := p.queued("route * to "+b.address, "workers 64")
	p.start(s)
	load := p.burst(topic, 8, 20*time.Millisecond)
	load.waitFor(t, 200)
	p.stop()
	stored := load.end()
	left := len(missing(stored, b))
	if left == 0 {
		t.Error("nothing was left for the next process")
	}

	p.start(s)
	wantAll(t, stored, b)
	p.idle()
	wantNoneTwice(t, b)
	t.Logf("%d stored, %d delivered by the second process", len(stored), left)
}

// Two processes on one file would deliver everything twice, so the second is refused.
func TestQueueRefusesASecondProcess(t *testing.T) {
	p, b := newProcess(t), newTally(t, 0)
	p.start(p.queued("route * to "+b.address, ""))

	second := newProcess(t)
	second.store = p.store
	wantText(t, second.wantRefusal(second.queued("route * to "+b.address, "")), p.store, "another process uses it")

	wantAll(t, []string{p.post(topic)}, b)
}

// A file that is no store of this program, or a broken one, is refused and left as it
// is.
func TestQueueRefusesFiles(t *testing.T) {
	cases := map[string]struct {
		file func(t *testing.T, path string) // made from a good store
		says string
	}{
		"of another program": {says: "another program", file: func(t *testing.T, path string) {
			remove(t, path)
			execute(t, path, "CREATE TABLE customers (name TEXT)", "INSERT INTO customers VALUES ('Ada')")
		}},
		"of another program, with a log": {says: "another program", file: func(t *testing.T, path string) {
			remove(t, path)
			execute(t, path, "PRAGMA journal_mode = WAL", "CREATE TABLE customers (name TEXT)", "INSERT INTO customers VALUES ('Ada')")
		}},
		"of garbage": {says: "not a database", file: func(t *testing.T, path string) {
			overwrite(t, path, bytes.Repeat([]byte("These are my shopping lists. "), 1000))
		}},
		"truncated in the middle": {says: "malformed", file: func(t *testing.T, path string) {
			whole := content(t, path)
			overwrite(t, path, whole[:len(whole)/2])
		}},
		"of a newer version": {says: "newer version", file: func(t *testing.T, path string) {
			execute(t, path, "UPDATE schema_version SET version = 9999")
		}},
	}
	p, b := newProcess(t), newTally(t, 0)
	p.start(p.queued("route * to "+b.address, ""))
	load := p.burst(topic, 4, time.Millisecond)
	load.waitFor(t, 100)
	wantAll(t, load.end(), b)
	p.stop()
	good := content(t, p.store)

	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t)
			overwrite(t, p.store, good)
			c.file(t, p.store)
			before := content(t, p.store)
			wantText(t, p.wantRefusal(p.queued("route * to "+b.address, "")), p.store, c.says)
			if !bytes.Equal(content(t, p.store), before) {
				t.Error("the file was changed")
			}
		})
	}
}

func wantText(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("the process does not say %q:\n%s", want, text)
		}
	}
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func overwrite(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// execute runs statements on an SQLite database, as another program would. The driver
// comes with the queue.
func execute(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// A backend gets the request that came in, not one like it.
func TestQueueDeliversExactlyTheRequest(t *testing.T) {
	b := newBackend(t, nil)
	p := newProcess(t)
	p.start(p.queued("route * to "+b.address, ""))
	bodies := map[string][]byte{
		"text":     bytes.Replace(notification(topic, newID()), []byte("Grüße"), []byte(`😀 <&> \ud83c\udf37 \u0000`), 1),
		"no UTF-8": bytes.Replace(notification(topic, newID()), []byte("Grüße"), []byte("Gr\xfc\xdfe"), 1),
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			const uri = "/intercom/a%20b%2Fc?x=1&y=%2F&y=z%F0%9F%98%80"
			header := http.Header{
				hubHeader:         {hubSignature(body, secret)},
				"Content-Type":    {"application/json; charset=utf-8"},
				"User-Agent":      {"intercom-webhooks"},
				"X-Many":          {"one", "two, three"},
				"X-Latin":         {"caf\xe9 \xff"},
				"X-Emoji":         {"🌷"},
				"Accept-Encoding": {"br"},
			}
			r, err := http.NewRequest(http.MethodPost, "http://127.0.0.1:"+p.port+uri, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Host, r.Header = "hooks.example.com", header.Clone()
			response, err := p.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if answer, err := readReply(response); err != nil || answer.status != http.StatusOK {
				t.Fatalf("status %d, error %v", answer.status, err)
			}
			var got received
			eventually(t, "the delivery", func() bool {
				for _, one := range b.all() {
					if bytes.Equal(one.body, body) {
						got = one
					}
				}
				return got.method != ""
			})
			if got.method != http.MethodPost || got.uri != uri || got.host != "hooks.example.com" || got.length != int64(len(body)) {
				t.Errorf("got %s %s of %s with %d bytes", got.method, got.uri, got.host, got.length)
			}
			header.Set("X-Intercom-Attempt", "1")
			header.Set("X-Intercom-Topic", topic)
			for name, want := range header {
				if !slices.Equal(got.header[name], want) {
					t.Errorf("%s: got %q, want %q", name, got.header[name], want)
				}
			}
		})
	}
}

// The store has personal data in it, which only its owner may read.
func TestQueueKeepsItsFilesPrivate(t *testing.T) {
	p, b := newProcess(t), newTally(t, 0)
	p.store = filepath.Join(p.dir, "new", "folder", "queue.db")
	p.start(p.queued("route * to "+b.address, ""))
	wantAll(t, []string{p.post(topic)}, b)
	files, err := filepath.Glob(filepath.Join(p.dir, "new", "folder", "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("files %v, error %v", files, err)
	}
	for _, file := range append(files, filepath.Dir(p.store)) {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if mode := fmt.Sprintf("%o", info.Mode().Perm()); mode[1:] != "00" {
			t.Errorf("%s has mode %s", file, mode)
		}
	}
}
