//go:build postgres

package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// mover takes a queue from one config's database to another's.
type mover struct{ *process }

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

// wantMoved moves, and asserts what the command says.
func (m mover) wantMoved(from, to string, parts ...string) {
	m.t.Helper()
	queueCommand(m.t, "move", "--from", from, "--to", to).expect(m.t, 0, parts...)
}

func TestPostgresMove(t *testing.T) {
	m := mover{newProcess(t)}
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
	onFile, onServer := m.queued(routes, ""), db.queued(routes, "")
	file, server := m.config("file", onFile), m.config("server", onServer)
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
	m.awaitListed("state=dead", dead...)
	m.awaitListed("state=delivered", delivered...)
	queueCommand(t, "move", "--from", file, "--to", server).expect(t, 1, "a Caddy has it open: stop that Caddy, or reload it")

	// to PostgreSQL, while Caddy runs
	m.reload(onServer)
	load := m.burst(topic, 2, 5*time.Millisecond)
	load.waitFor(t, 10)
	m.wantMoved(file, server, fmt.Sprintf("Moved %d notifications with %[1]d deliveries", all))
	load.waitFor(t, load.answers.Load()+10)
	meanwhile := load.end()
	if all += len(meanwhile); len(load.others) > 0 {
		t.Errorf("answers were %v", load.others)
	}
	down.Store(false)
	m.wantDeliveries("conversation", "delivered", len(delivered)+len(meanwhile))
	m.wantDeliveries("ticket", "delivered", len(waiting))
	wantDuplicates(delivered)
	m.wantMoved(file, server, "There is nothing to move")
	if rows := db.text("SELECT count(DISTINCT notification_id) || ' of ' || count(*) FROM notification"); rows != fmt.Sprintf("%d of %d", all, all) {
		t.Errorf("there are %s notifications, want %d", rows, all)
	}

	// and back, to a new file
	down.Store(true)
	again := post("ticket.created", 3)
	wantAll(t, again, moody)
	m.store = filepath.Join(m.dir, "second.db")
	onFile = m.queued(routes, "")
	file = m.config("second", onFile)
	queueCommand(t, "move", "--from", server, "--to", file).expect(t, 1, "uses it: stop that Caddy, or reload it")
	m.reload(onFile)
	m.wantMoved(server, file, fmt.Sprintf("Moved %d notifications", all))
	down.Store(false)
	m.wantDeliveries("ticket", "delivered", len(waiting)+len(again))
	wantDuplicates(append(delivered, meanwhile...))
	m.wantListed("state=dead", dead...)
	wantNoneTwice(t, good)
	m.stop()

	renamed := m.config("renamed", db.queued(routes, "name billing"))
	m.wantMoved(file, renamed, `No handler of the new config has the endpoint "intercom"`)
}

// A move that is killed goes on when it is run again.
func TestPostgresMoveIsKilled(t *testing.T) {
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	m := mover{newProcess(t)}
	db := newPgDatabase(t, pgShared)
	onFile, onServer := m.queued("route * to "+nobody, ""), db.queued("route * to "+nobody, "")
	file, server := m.config("file", onFile), m.config("server", onServer)
	m.start(onServer) // makes the tables
	m.post(topic)
	m.stop()
	m.start(onFile)
	load := m.burst(topic, 16, 0)
	load.waitFor(t, 5000)
	stored := load.end()
	m.stop()

	arrived := func() int {
		n, err := strconv.Atoi(db.text("SELECT count(*)::text FROM notification"))
		if err != nil {
			t.Fatal(err)
		}
		return n - 1
	}
	cmd := exec.Command(path, "intercom-webhook", "queue", "move", "--from", file, "--to", server)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(longPatience); arrived() == 0; {
		if time.Now().After(end) {
			t.Fatal("nothing is moved")
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if n := arrived(); n == len(stored) {
		t.Errorf("all %d were moved before the kill, so nothing was tested", n)
	}

	m.wantMoved(file, server, "Moved ")
	m.wantMoved(file, server, "There is nothing to move")
	if n := arrived(); n != len(stored) {
		t.Errorf("%d notifications have arrived, want %d", n, len(stored))
	}
}
