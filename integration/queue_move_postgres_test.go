//go:build postgres

package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// mover takes a queue from one config's database to another's.
type mover struct {
	*process
	t *testing.T
}

// config writes the config of a setup to a file.
func (m mover) config(name string, s setup) (file string) {
	m.t.Helper()
	config, err := m.adapt(s)
	if err != nil {
		m.t.Fatalf("adapting the config: %v", err)
	}
	file = filepath.Join(m.dir, name+".json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		m.t.Fatal(err)
	}
	return file
}

// summary is what export and import print at their end.
type summary struct {
	Exported, Imported, Refused int
	There                       int `json:"already_there"`
	States                      map[string]int
	Strangers                   []string `json:"endpoints_without_handler"`
}

func moveCommand(t *testing.T, args ...string) (s summary) {
	t.Helper()
	r := queueCommand(t, append(args, "--json")...)
	if err := json.Unmarshal([]byte(r.out), &s); err != nil || r.code != 0 {
		t.Fatalf("queue %q: exit code %d: %s%s", args, r.code, r.out, r.errors)
	}
	return s
}

func TestPostgresMove(t *testing.T) {
	m := mover{newProcess(t), t}
	db := newPgDatabase(t, pgShared)
	var down atomic.Bool
	down.Store(true)
	good := newTally(t, 0)
	moody := newAnsweringTally(t, func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.Header().Set("Retry-After", "5")
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	routes := "route conversation.* to " + good.address + "\nroute ticket.* to " + moody.address
	const options = "max_attempts 1000" // so that none dies on a slow machine
	onFile, onServer := m.queued(routes, options), db.queued(routes, options)
	file, server := m.config("file", onFile), m.config("server", onServer)
	export := filepath.Join(m.dir, "queue.ndjson")
	all := 0 // stored
	post := func(topic string, n int) (ids []string) {
		for range n {
			ids = append(ids, m.post(topic))
		}
		all += n
		return ids
	}
	wantDuplicates := func(ids []string) {
		t.Helper()
		for _, id := range ids {
			m.expect(http.StatusOK, signed(notification(topic, id)))
		}
	}

	m.start(onFile)
	delivered, waiting, dead := post(topic, 5), post("ticket.created", 5), post("company.created", 2)
	wantAll(t, append(delivered, waiting...), good, moody)
	m.awaitListed("state=cancelled", dead[1], dead[0])
	queueCommand(t, "export", "--config", file, "--output", export).expect(t, 1, "a Caddy has it open: stop that Caddy, or reload it")

	// to PostgreSQL, while Caddy runs
	m.reload(onServer)
	load := m.burst(topic, 2, 5*time.Millisecond)
	load.waitFor(t, 10)
	if s := moveCommand(t, "export", "--config", file, "--output", export); s.Exported != all {
		t.Errorf("exported %d jobs, want %d", s.Exported, all)
	}
	if s := moveCommand(t, "import", export, "--config", server); s.Imported != all || s.There != 0 || s.States["cancelled"] != len(dead) {
		t.Errorf("imported %+v, want %d", s, all)
	}
	load.waitFor(t, load.answers.Load()+10)
	meanwhile := load.end()
	if all += len(meanwhile); len(load.others) > 0 {
		t.Errorf("answers were %v", load.others)
	}
	down.Store(false)
	completed := func(topic string, n int) {
		t.Helper()
		within(t, longPatience, "all are delivered", func() bool {
			return db.text("SELECT count(*)::text FROM river_job WHERE state = 'completed' AND kind = '"+topic+"'") == strconv.Itoa(n)
		})
	}
	completed(topic, len(delivered)+len(meanwhile))
	completed("ticket.created", len(waiting))
	wantDuplicates(delivered)
	if s := moveCommand(t, "import", export, "--config", server); s.Imported != 0 || s.There != len(delivered)+len(waiting)+len(dead) {
		t.Errorf("imported %+v, want none", s)
	}
	if rows := db.text("SELECT count(DISTINCT tags[2]) || ' of ' || count(*) FROM river_job"); rows != fmt.Sprintf("%d of %d", all, all) {
		t.Errorf("there are %s notifications, want %d", rows, all)
	}

	// and back, while Caddy is stopped
	down.Store(true)
	again := post("ticket.created", 3)
	wantAll(t, again, moody)
	m.stop()
	m.store = filepath.Join(m.dir, "second.db")
	onFile = m.queued(routes, options)
	file = m.config("second", onFile)
	back := filepath.Join(m.dir, "back.ndjson")
	if s := moveCommand(t, "export", "--config", server, "--output", back); s.Exported != all {
		t.Errorf("exported %d jobs, want %d", s.Exported, all)
	}
	if s := moveCommand(t, "import", back, "--config", file); s.Imported != all {
		t.Errorf("imported %+v, want %d", s, all)
	}
	down.Store(false)
	m.start(onFile)
	m.wantMetric(`queue_jobs{lane="ticket",state="completed"}`, float64(len(waiting)+len(again)))
	wantDuplicates(append(delivered, meanwhile...))
	m.wantListed("state=cancelled", dead[1], dead[0])
	wantNoneTwice(t, good)

	renamed := m.config("renamed", db.queued(routes, "name billing"))
	if s := moveCommand(t, "import", export, "--config", renamed); len(s.Strangers) != 1 || s.Strangers[0] != "intercom" {
		t.Errorf("nobody is said to deliver %v, want intercom", s.Strangers)
	}
}

// An import that is killed is repeated.
func TestPostgresMoveIsKilled(t *testing.T) {
	const jobs = 3000
	text := []string{fmt.Sprintf(`{"format":"intercom_webhook queue","version":1,"source":"the test","exported_at":"2026-11-25T01:02:03Z","jobs":%d}`, jobs)}
	for id := range jobs {
		by := fmt.Sprintf(`"origin":"there/%d"`, id+1)
		if id%2 == 0 {
			by = fmt.Sprintf(`"origin":"","unique_key":"%032d"`, id)
		}
		text = append(text, fmt.Sprintf(`{"id":%d,%s,"queue":"support","kind":"contact.created","state":"available","priority":1,"attempt":0,`+
			`"max_attempts":20,"created_at":"2026-11-25T01:02:03Z","scheduled_at":"2026-11-25T01:02:03Z","args":{"id":"notif_%d"}}`, id+1, by, id))
	}
	text = append(text, fmt.Sprintf(`{"exported":%d}`, jobs), "")
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	m := mover{newProcess(t), t}
	export := filepath.Join(m.dir, "queue.ndjson")
	if err := os.WriteFile(export, []byte(strings.Join(text, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	for engine, s := range map[string]setup{
		"SQLite":     m.queued("route * { respond 200 }", ""),
		"PostgreSQL": newPgDatabase(t, pgShared).queued("route * { respond 200 }", ""),
	} {
		t.Run(engine, func(t *testing.T) {
			config := m.config(engine, s)
			cmd := exec.Command(path, "intercom-webhook", "queue", "import", "-", "--config", config)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// more than a pipe holds, so that something is read when the last byte is written
			half := strings.Join(text[:jobs/2], "\n")
			if _, err := io.Copy(in, bufio.NewReader(strings.NewReader(half))); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed

			s := moveCommand(t, "import", export, "--config", config)
			if s.Imported+s.There != jobs || s.There == 0 || s.Imported == 0 || s.States["available"] != jobs {
				t.Errorf("imported %+v, want some of %d to be there already", s, jobs)
			}
			if s = moveCommand(t, "import", export, "--config", config); s.There != jobs {
				t.Errorf("imported %+v, want %d to be there", s, jobs)
			}
			if s = moveCommand(t, "export", "--config", config, "--output", filepath.Join(m.dir, engine)); s.Exported != jobs {
				t.Errorf("%d are there, want %d", s.Exported, jobs)
			}
		})
	}
}
