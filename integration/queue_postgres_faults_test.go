//go:build postgres

package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Replies of PostgreSQL that say that a transaction is committed. A statement is told
// by the tag of its result and by the columns of its rows, or by their size.
var (
	pgStored   = pgCommitted("SELECT", func(row []byte) bool { return len(row) == 2+4+8+4+8+4+1 && firstNumber(row) < 100 }) // place in the batch, id, and whether it is a twin
	pgClaimed  = pgEndOfClaim
	pgFinished = pgCommitted("SELECT", func(row []byte) bool { return len(row) == 2+4+8 && firstNumber(row) >= 100 }) // id of a delivery
)

// firstNumber returns the first column of a row, which is a bigint.
func firstNumber(row []byte) int64 { return int64(binary.BigEndian.Uint64(row[2+4:])) }

// pgEndOfClaim matches the end of the reply to a claim, alone of which has requests in it. The rest of the reply may have come before: it is larger than the server's buffer.
func pgEndOfClaim(reply []byte) bool {
	return bytes.Contains(reply, []byte(`"remote_addr"`)) && bytes.HasSuffix(reply, []byte("Z\x00\x00\x00\x05I")) // ReadyForQuery, idle
}

// pgCommitted matches the whole reply to a transaction whose last statement has this tag and
// returned such rows. The statement before it sets a limit of time.
func pgCommitted(tag string, hasRow func([]byte) bool) func(reply []byte) bool {
	return func(reply []byte) bool {
		matches := false
		var rows, others int
		for len(reply) >= 5 {
			size := 1 + int(binary.BigEndian.Uint32(reply[1:]))
			if len(reply) < size {
				return false
			}
			switch body := reply[5:size]; reply[0] {
			case 'D': // DataRow
				if hasRow(body) {
					rows++
				} else {
					others++
				}
			case 'C': // CommandComplete
				matches = bytes.HasPrefix(body, []byte(tag)) && rows > 0 && others == 0
				rows, others = 0, 0
			case 'Z': // ReadyForQuery
				return matches && body[0] == 'I'
			}
			reply = reply[size:]
		}
		return false
	}
}

func TestPostgresLostReplies(t *testing.T) {
	const cuts = 21
	db := newPgDatabase(t, pgShared)
	network := startPgProxy(t, pgShared)
	b := newTally(t, 100*time.Millisecond) // so that there is a backlog, and claims
	p := startPgProcess(t, db.behind(network, "route * to "+b.address))
	load := p.burst(topic, 8, 10*time.Millisecond)
	// Alone, because the reply to the release can be lost, too, and then nothing is logged.
	network.lose(t, pgClaimed)
	within(t, 30*time.Second, "the log says that claims were released", func() bool {
		return len(p.lines("warn", "released deliveries that were claimed for this Caddy without its knowing")) > 0
	})
	for i := range cuts {
		network.lose(t, []func([]byte) bool{pgClaimed, pgFinished, pgStored}[i%3])
	}
	stored := load.end()
	if load.others["503"] == 0 {
		t.Error("no reply of a store was lost")
	}
	wantAll(t, stored, b)
	within(t, 30*time.Second, "nothing is running that nobody delivers", func() bool {
		return db.text("SELECT count(*)::text FROM delivery WHERE state <> 'delivered'") == "0"
	})
	wantNoneTwice(t, b)
}

// A finish that is written again, since its reply was lost, must not change what came
// after it.
func TestPostgresLostRepliesOfFinishes(t *testing.T) {
	const cuts = 15
	db := newPgDatabase(t, pgShared)
	network := startPgProxy(t, pgShared)
	var seen sync.Map
	b := newAnsweringTally(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(20 * time.Millisecond)
		if _, again := seen.LoadOrStore(r.Header.Get("X-Intercom-Notification-Id"), true); !again {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	p := startPgProcess(t, db.behind(network, "route * to "+b.address))
	load := p.burst(topic, 4, 20*time.Millisecond)
	for range cuts {
		network.lose(t, pgFinished)
	}
	stored := load.end()
	wantAll(t, stored, b)
	db.wantAllDelivered()
	for _, id := range stored {
		if n := b.count(id); n != 2 {
			t.Errorf("%s was delivered %d times, want one attempt that failed and one that did not", id, n)
		}
	}
	if got := db.text("SELECT count(*)::text FROM delivery AS d WHERE attempts <> 2 OR (SELECT count(*) FROM attempt AS a WHERE a.delivery = d.id) <> 1"); got != "0" {
		t.Errorf("%s deliveries do not have two attempts, of which one failed", got)
	}
}

// Two Caddys with different configs, as in every rolling deploy.
func TestPostgresRollingDeploy(t *testing.T) {
	for name, routes := range map[string]struct{ before, after string }{
		"a lane more": {
			before: "route conversation.* as talk to %[1]s",
			after:  "route conversation.* as talk to %[1]s\nroute ticket.* as tick to %[2]s",
		},
		"the same lanes": {
			before: "route conversation.* as talk to %[1]s\nroute contact.* as rest to %[1]s",
			after:  "route conversation.* as talk to %[1]s\nroute contact.* ticket.* as rest to %[2]s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			const each = 100
			db := newPgDatabase(t, pgShared)
			var holding atomic.Bool
			holding.Store(true)
			hold := func(http.ResponseWriter, *http.Request) {
				for holding.Load() {
					time.Sleep(5 * time.Millisecond)
				}
			}
			talk, tickets := newAnsweringTally(t, hold), newAnsweringTally(t, hold)
			before := startPgProcess(t, db.queued(fmt.Sprintf(routes.before, talk.address, tickets.address), ""))
			after := startPgProcess(t, db.queued(fmt.Sprintf(routes.after, talk.address, tickets.address), ""))

			var talks, created []string
			for range each {
				talks = append(talks, before.post(topic), after.post(topic))
				created = append(created, before.post("ticket.created"), after.post("ticket.created"))
			}
			holding.Store(false)
			wantAll(t, talks, talk)
			before.stop()
			wantAll(t, created, tickets)
			for _, id := range created {
				if talk.count(id) > 0 {
					t.Errorf("%s was delivered to the wrong backend", id)
				}
			}
			db.wantAllDelivered() // and none is cancelled
			wantNoneTwice(t, talk, tickets)
		})
	}
}

// Neither of two Caddys takes the other one for dead while the server stalls for both.
func TestPostgresStallMakesNobodyLookGone(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	network := startPgProxy(t, pgShared)
	one, two := newTally(t, 300*time.Millisecond), newTally(t, 300*time.Millisecond)
	first := startPgProcess(t, db.behind(network, "route * to "+one.address))
	second := startPgProcess(t, db.behind(network, "route * to "+two.address))

	var stored []string
	for range 150 {
		stored = append(stored, first.post(topic), second.post(topic))
	}
	network.Stall(bothWays)
	time.Sleep(time.Second) // what was on its way has arrived
	// as after 42 s, before which each would have taken up what the other one leaves
	db.exec("UPDATE instance SET beat_at = beat_at - interval '42 seconds', steady_since = steady_since - interval '2 minutes'")
	network.Cut() // or else the heartbeats that wait would all arrive at once
	network.Resume()
	wantAll(t, stored, one, two)
	db.wantAllDelivered()
	wantNoneTwice(t, one, two)
}

func TestPostgresBehindPgBouncer(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	db.exec("ALTER DATABASE " + db.name + " SET synchronous_commit = off")
	b := newTally(t, 5*time.Millisecond)
	s := pgQueued("route * to "+b.address, "postgres://postgres@"+startPgBouncer(t, pgShared)+"/"+db.name, "")
	instances := []*process{startPgProcess(t, s), startPgProcess(t, s)}
	db.noteCommits()
	var stored []string
	for _, load := range []*burst{instances[0].burst(topic, 8, 0), instances[1].burst(topic, 8, 0)} {
		load.waitFor(t, 300)
		stored = append(stored, load.end()...)
		if len(load.others) > 0 {
			t.Errorf("not all were answered with 200: %v", load.others)
		}
	}
	wantAll(t, stored, b)
	db.wantAllDelivered()
	wantNoneTwice(t, b)
	db.wantCommits("on")
	for _, p := range instances {
		p.stop()
		if lines := p.logged(func(e entry) bool {
			return e.text("level") == "error" && strings.HasPrefix(e.text("logger"), "http.intercom_webhook")
		}); len(lines) > 0 {
			t.Errorf("the log has errors: %v", lines)
		}
	}
}

// The address of the primary leads to another server, while the old one stays up,
// read-only, with all connections to it.
func TestPostgresOldPrimaryStaysUp(t *testing.T) {
	primary, standby := startPgPair(t)
	db := primary.database()
	network := startPgProxy(t, primary.address)
	b := newTally(t, 20*time.Millisecond)
	p := startPgProcess(t, db.behind(network, "route * to "+b.address))
	load := p.burst(topic, 8, 10*time.Millisecond)
	load.waitFor(t, 200)

	db.exec("ALTER SYSTEM SET default_transaction_read_only = on")
	db.exec("SELECT pg_reload_conf()")
	standby.awaitAllOf(db)
	db = standby.promote()
	network.Retarget(standby.address)
	moved := time.Now()
	load.waitFor(t, load.answers.Load()+200)
	took := time.Since(moved)
	t.Logf("stored again after %s", took)
	if took > 10*time.Second {
		t.Errorf("stored again after %s", took)
	}
	wantAll(t, load.end(), b)
	db.wantAllDelivered()
	wantNoneTwice(t, b)
}

func TestPostgresFailover(t *testing.T) {
	primary, standby := startPgPair(t)
	b := newTally(t, 20*time.Millisecond)
	both := "postgres://postgres@" + primary.address + "," + standby.address + "/postgres"
	p := startPgProcess(t, pgQueued("route * to "+b.address, both, ""))
	load := p.burst(topic, 8, 10*time.Millisecond)
	load.waitFor(t, 200)

	primary.kill()
	killed := time.Now()
	db := standby.promote()
	load.waitFor(t, load.answers.Load()+1)
	took := time.Since(killed)
	t.Logf("stored again after %s", took)
	if took > 15*time.Second {
		t.Errorf("stored again after %s", took)
	}
	load.waitFor(t, load.answers.Load()+200)
	wantAll(t, load.end(), b)
	db.wantAllDelivered()
}

func TestPostgresEndpointIsRenamed(t *testing.T) {
	const left = 7
	db := newPgDatabase(t, pgShared)
	p := startPgProcess(t, db.queued("route * as talk to "+nobody, ""))
	var stored []string
	for range left {
		stored = append(stored, p.post(topic))
	}
	p.stop()

	b := newTally(t, 0)
	p.start(db.queued("route * as talk to "+b.address, "name other"))
	const warning = "notifications wait for an endpoint that no config has"
	warned := func() []entry {
		return p.logged(func(e entry) bool { return strings.HasPrefix(e.text("msg"), warning) })
	}
	within(t, longPatience, "a warning of the old endpoint", func() bool { return len(warned()) > 0 })
	line := warned()[0]
	if got := fmt.Sprint(line["endpoint"], " ", line["waiting"]); got != fmt.Sprint("intercom ", left) {
		t.Errorf("the warning is of %s, want intercom %d", got, left)
	}
	if b.total() > 0 {
		t.Error("what belongs to another endpoint was delivered")
	}
	db.exec("UPDATE notification SET endpoint = 'other' WHERE endpoint = 'intercom'; UPDATE delivery SET endpoint = 'other' WHERE endpoint = 'intercom'")
	wantAll(t, stored, b)
	db.wantAllDelivered()
	wantNoneTwice(t, b)
}

// ----- networks and servers -----

// pgProxy stands between Caddy and PostgreSQL.
type pgProxy struct{ *tcpProxy }

func startPgProxy(t *testing.T, address string) pgProxy {
	t.Helper()
	proxy, err := startTCPProxy(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	return pgProxy{proxy}
}

// lose waits until a reply that matches is lost.
func (p pgProxy) lose(t *testing.T, matches func([]byte) bool) {
	t.Helper()
	p.DropReplies(matches)
	for end := time.Now().Add(longPatience); p.Dropped() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no reply was lost")
		}
	}
	p.Resume()
}

// behind is a setup with a queue in the database as seen through a proxy, which must be
// able to read what passes.
func (db *pgDatabase) behind(network pgProxy, routes string) setup {
	return pgQueued(routes, "postgres://postgres@"+network.Addr()+"/"+db.name+"?sslmode=disable", "")
}

// startPgPair starts a primary that commits nothing without its standby.
func startPgPair(t *testing.T) (primary, standby *pgServer) {
	t.Helper()
	primary, standby = startPgServer(t), newPgServer(t)
	if output, err := standby.command("pg_basebackup", "-h", "127.0.0.1", "-p", primary.port, "-U", "postgres", "-D", standby.dir,
		"-R", "--checkpoint", "fast", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("pg_basebackup: %v: %s", err, output)
	}
	standby.start()
	db := primary.database()
	db.exec("ALTER SYSTEM SET synchronous_standby_names = '*'")
	db.exec("SELECT pg_reload_conf()")
	within(t, longPatience, "the standby is synchronous", func() bool {
		return db.text("SELECT max(sync_state) FROM pg_stat_replication") == "sync"
	})
	return primary, standby
}

// promote makes a primary of a standby.
// awaitAllOf returns when the standby has had for a second all that a primary which is
// read-only by now has written. What became of deliveries is committed asynchronously: a
// standby that lacks the last of it lets them be made again.
func (s *pgServer) awaitAllOf(primary *pgDatabase) {
	s.t.Helper()
	standby := s.database()
	equal := 0
	within(s.t, longPatience, "the standby has caught up", func() bool {
		time.Sleep(100 * time.Millisecond)
		equal++
		if primary.text("SELECT pg_current_wal_insert_lsn()::text") != standby.text("SELECT pg_last_wal_replay_lsn()::text") {
			equal = 0
		}
		return equal == 10
	})
}

func (s *pgServer) promote() *pgDatabase {
	s.t.Helper()
	db := s.database()
	if got := db.text("SELECT pg_promote()::text"); got != "true" {
		s.t.Fatalf("promoting the standby: %s", got)
	}
	return db
}

// startPgBouncer starts Debian's PgBouncer, with its own settings but for the mode. It
// has fewer connections than Caddy, so that each is used for many of its sessions.
func startPgBouncer(t *testing.T, server string) (address string) {
	t.Helper()
	s := newPgServer(t) // for its folder and its user
	s.bin = "/"
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		t.Fatal("PgBouncer is not installed, which .ci/postgres does")
	}
	host, port, _ := strings.Cut(server, ":")
	config, users := filepath.Join(s.dir, "pgbouncer.ini"), filepath.Join(s.dir, "users.txt")
	for path, text := range map[string]string{
		users: "\"postgres\" \"\"\n",
		config: "[databases]\n* = host=" + host + " port=" + port + "\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = " + s.port +
			"\nunix_socket_dir =\nauth_type = trust\nauth_file = " + users + "\npool_mode = transaction\ndefault_pool_size = 3\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bouncer := s.command(path, config)
	if err := bouncer.Start(); err != nil {
		t.Fatalf("starting PgBouncer: %v", err)
	}
	t.Cleanup(func() {
		_ = bouncer.Process.Kill()
		_ = bouncer.Wait()
	})
	within(t, longPatience, "PgBouncer listens", func() bool {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return s.address
}
