//go:build postgres

package integration

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// pgShared is the PostgreSQL that .ci/postgres starts. Each test has a database of
	// its own in it.
	pgShared = "127.0.0.1:5432"

	// pgPassword is in the URLs, though nobody asks for it, and must be nowhere else.
	pgPassword = "hunter2-of-the-postgres-tests"
)

func TestPostgresStoresAndDelivers(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	b := newBackend(t, nil)
	p := startPgProcess(t, db.queued("route conversation.* as talk to "+b.address, "schema inbox"))

	id := p.post(topic)
	within(t, longPatience, "the notification is delivered", func() bool { return len(b.all()) > 0 })
	got, want := b.only(t), notification(topic, id)
	if !bytes.Equal(got.body, want) {
		t.Errorf("the backend got %q, want %q", got.body, want)
	}
	for name, want := range map[string]string{
		hubHeader:                    hubSignature(want, secret),
		"X-Intercom-Topic":           topic,
		"X-Intercom-Notification-Id": id,
		"X-Intercom-Attempt":         "1",
	} {
		if got := got.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	within(t, longPatience, "the delivery is noted", func() bool {
		return db.text("SELECT string_agg(lane || ' ' || state, ', ') FROM inbox.delivery") == "talk delivered"
	})
	if got := db.text("SELECT count(*)::text FROM pg_tables WHERE schemaname NOT IN ('inbox', 'pg_catalog', 'information_schema')"); got != "0" {
		t.Errorf("%s tables are outside of the schema", got)
	}
}

func TestPostgresLosesNothingWhenCaddyIsKilled(t *testing.T) {
	const kills, perKill = 5, 100
	db := newPgDatabase(t, pgShared)
	b := newTally(t, 20*time.Millisecond)
	s := db.queued("route * to "+b.address, "")
	p := startPgProcess(t, s)

	load := p.burst(topic, 8, 0)
	for i := range int64(kills) {
		load.waitFor(t, (i+1)*perKill)
		p.kill()
		p.start(s)
	}
	load.waitFor(t, (kills+1)*perKill)
	wantAll(t, load.end(), b)
	db.wantAllDelivered()
}

func TestPostgresStoppedAndStarted(t *testing.T) {
	server := startPgServer(t)
	db := newPgDatabase(t, server.address)
	var holding, failing atomic.Bool
	b := newAnsweringTally(t, func(w http.ResponseWriter, r *http.Request) {
		for holding.Load() && r.Context().Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		if failing.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	p := startPgProcess(t, db.queued("route conversation.* as good to "+b.address+"\nroute ticket.* as bad to "+b.address, ""))
	var stored []string
	for range 20 {
		stored = append(stored, p.post(topic))
	}
	holding.Store(true)
	running := p.post(topic)
	failed := p.post("ticket.created")
	within(t, longPatience, "deliveries are running", func() bool { return b.count(running) > 0 && b.count(failed) > 0 })
	stored = append(stored, running, failed)

	server.stop()
	for range 20 {
		began := time.Now()
		p.expect(http.StatusServiceUnavailable, signed(notification(topic, newID())))
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("answered after %s, when Intercom has given up", took)
		}
	}
	// what comes of the deliveries cannot be written down yet
	failing.Store(true)
	holding.Store(false)
	within(t, longPatience, "the heartbeat has failed, too", func() bool {
		return len(p.lines("error", "the queue's database cannot be reached")) > 0
	})
	failing.Store(false)
	server.start()

	within(t, longPatience, "notifications are stored again", func() bool {
		id := newID()
		answer := p.send(signed(notification(topic, id)))
		if answer.status == http.StatusOK {
			stored = append(stored, id)
		}
		return answer.status == http.StatusOK
	})
	for range 20 {
		stored = append(stored, p.post(topic))
	}
	wantAll(t, stored, b)
	db.wantAllDelivered()
	if b.count(failed) < 2 {
		t.Error("a delivery that failed during the outage was not tried again")
	}
	for _, text := range []string{"the queue's database cannot be reached", "the queue's database can be reached again"} {
		within(t, longPatience, "a line in the log: "+text, func() bool {
			return len(p.lines("error", text))+len(p.lines("info", text)) == 1
		})
	}
}

// PostgreSQL starts anew by itself when one of its processes is killed, as for want of
// memory. It then empties its unlogged tables, so the heartbeats must not be in one.
func TestPostgresCrashMakesNobodyLookGone(t *testing.T) {
	server := startPgServer(t)
	db := newPgDatabase(t, server.address)
	slow, quick := newTally(t, 20*time.Second), newTally(t, 0)
	startPgProcess(t, db.queued("route * to "+quick.address, ""))
	p := startPgProcess(t, db.queued("route * to "+slow.address, ""))
	within(t, longPatience, "the slow instance is delivering", func() bool {
		p.post(topic)
		return slow.total() >= 3
	})
	// or else one that is cut in two by the stop takes longer than its time limit
	within(t, longPatience, "all of it is with the backend", func() bool {
		return db.text("SELECT (count(*) = "+strconv.Itoa(slow.total()+quick.total())+")::text FROM delivery") == "true"
	})

	db.mayJudgeOthers()
	p.signal(syscall.SIGSTOP) // so that it cannot be the first to say that it is alive
	server.crash(db)
	time.Sleep(10 * time.Second) // in which the other one does, and looks who is gone
	p.signal(syscall.SIGCONT)
	db.wantAllDelivered()
	wantNoneTwice(t, slow, quick)
}

func TestPostgresInstancesShareTheWork(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	var hanging atomic.Bool
	one := newAnsweringTally(t, func(_ http.ResponseWriter, r *http.Request) {
		if hanging.Load() {
			<-r.Context().Done()
		}
	})
	two := newTally(t, 5*time.Millisecond)
	first := startPgProcess(t, db.queued("route * to "+one.address, ""))
	second := startPgProcess(t, db.queued("route * to "+two.address, ""))

	var stored []string
	for range 100 {
		stored = append(stored, first.post(topic), second.post(topic))
	}
	wantAll(t, stored, one, two)
	wantNoneTwice(t, one, two)
	if one.total() == 0 || two.total() == 0 {
		t.Errorf("the first instance delivered %d, the second %d: both should some", one.total(), two.total())
	}

	hanging.Store(true)
	before := one.total()
	var after []string
	within(t, longPatience, "the first instance is delivering", func() bool {
		after = append(after, first.post(topic), second.post(topic))
		return one.total() >= before+5
	})
	first.kill()
	killed := time.Now()
	wantAll(t, after, two)
	took := time.Since(killed)
	t.Logf("what the first instance was delivering was taken up after %s", took)
	if took > time.Minute {
		t.Errorf("it was taken up after %s", took)
	}
	if len(second.lines("warn", "took over the deliveries of an instance that is gone")) == 0 {
		t.Error("the log does not say that deliveries were taken up")
	}
}

// The same ids come to two instances at once, in opposite orders, so that each has in
// its transactions what the other one waits for.
func TestPostgresInstancesStoreDuplicatesOnce(t *testing.T) {
	const ids, stride = 480, 48
	db := newPgDatabase(t, pgShared)
	b := newTally(t, 0)
	s := db.queued("route * to "+b.address, "")
	instances := []*process{startPgProcess(t, s), startPgProcess(t, s)}

	all := make([]string, ids)
	for i := range all {
		all[i] = newID()
	}
	var refused atomic.Int32
	for range 3 { // the first time none is stored, later all are
		var senders sync.WaitGroup
		for backwards, p := range instances {
			var next atomic.Int32
			for range stride {
				senders.Go(func() {
					for n := int(next.Add(1)) - 1; n < ids; n = int(next.Add(1)) - 1 {
						if backwards == 1 {
							n = n/stride*stride + stride - 1 - n%stride
						}
						answer, err := p.try(signed(notification(topic, all[n])))
						if err != nil || answer.status != http.StatusOK {
							refused.Add(1)
						}
					}
				})
			}
		}
		senders.Wait()
	}
	if n := refused.Load(); n > 0 {
		lines := slices.Concat(instances[0].notStored(), instances[1].notStored())
		t.Errorf("%d of %d were not answered with 200, such as %v", n, 6*ids, lines)
	}
	wantAll(t, all, b)
	db.wantAllDelivered()
	wantNoneTwice(t, b)
	if got := db.text("SELECT count(*)::text FROM notification"); got != strconv.Itoa(ids) {
		t.Errorf("%s notifications are stored, want %d", got, ids)
	}
}

func TestPostgresReloadsUnderLoadDeliverExactlyOnce(t *testing.T) {
	const reloads, perReload = 8, 100
	db := newPgDatabase(t, pgShared)
	one, two := newTally(t, 10*time.Millisecond), newTally(t, 0)
	setups := []setup{
		db.queued("route conversation.* as talk to "+one.address, "workers 4"),
		db.queued("route conversation.* as chat to "+two.address+"\nroute * to "+one.address, "workers 8"),
		db.queued("route * as talk to "+one.address, "lane talk {\nworkers 2\n}"),
	}
	p := startPgProcess(t, setups[0])
	p.client.Transport.(*http.Transport).DisableKeepAlives = true // as in TestReloadUnderLoad
	load := p.burst(topic, 8, 0)
	for i := range reloads {
		load.waitFor(t, int64(i+1)*perReload)
		p.reload(setups[(i+1)%len(setups)])
	}
	stored := load.end()
	stored = append(stored, load.resend(p)...)
	if len(load.others) > 0 {
		t.Errorf("not all were answered with 200: %v", load.others)
	}
	if n := len(load.unsure); n > 8*reloads {
		t.Errorf("%d were not answered, want at most one of each sender at a reload", n)
	}
	wantAll(t, stored, one, two)
	db.wantAllDelivered()
	wantNoneTwice(t, one, two)
}

// What is taken from the queue in the last moment before a stop is delivered, or left
// for the next process, which need not wait for it.
func TestPostgresGracefulStopsUnderLoadDeliverExactlyOnce(t *testing.T) {
	const stops, perStop = 8, 50
	db := newPgDatabase(t, pgShared)
	b := newTally(t, 0)
	s := db.queued("route * to "+b.address, "")
	p := startPgProcess(t, s)
	load := p.burst(topic, 8, 0)
	for i := range int64(stops) {
		load.waitFor(t, (i+1)*perStop)
		p.stop()
		if got := db.text("SELECT string_agg(DISTINCT state, ', ') FROM delivery WHERE state NOT IN ('waiting', 'delivered')"); got != "" {
			t.Errorf("after stop %d there are deliveries that are %s", i+1, got)
		}
		p.start(s)
	}
	wantAll(t, load.end(), b)
	db.wantAllDelivered()
	wantNoneTwice(t, b)
}

// Only what was stored must be durable: a claim or a finish that is lost is made again.
func TestPostgresCommitsDurablyWhateverTheServersDefaultIs(t *testing.T) {
	for level, want := range map[string]string{"off": "on", "local": "on", "remote_write": "on", "on": "on", "remote_apply": "remote_apply"} {
		t.Run(level, func(t *testing.T) {
			db := newPgDatabase(t, pgShared)
			b := newTally(t, 0)
			s := db.queued("route * to "+b.address, "")
			p := startPgProcess(t, s) // makes the tables
			p.post(topic)
			p.stop()
			db.exec("ALTER DATABASE " + db.name + " SET synchronous_commit = " + level)
			db.pool.Reset()
			if got := db.text("SHOW synchronous_commit"); got != level {
				t.Fatalf("the default is %s, want %s", got, level)
			}
			db.noteCommits()

			p.start(s)
			for range 20 {
				p.post(topic)
			}
			db.wantAllDelivered()
			db.wantCommits(want)
		})
	}
}

// Where somebody else makes the tables, a role will do that may only use them.
func TestPostgresRoleWithoutRightsToCreate(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	b := newTally(t, 0)
	p := startPgProcess(t, db.queued("route * to "+b.address, ""))
	p.post(topic) // it is up
	db.wantAllDelivered()
	p.stop()
	role := db.name + "_user"
	db.exec("CREATE ROLE " + role + " LOGIN")
	t.Cleanup(func() {
		db.exec("DROP OWNED BY " + role)
		db.exec("DROP ROLE " + role)
	})
	db.exec("GRANT USAGE ON SCHEMA intercom_webhook TO " + role)
	db.exec("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA intercom_webhook TO " + role)
	db.exec("GRANT USAGE ON ALL SEQUENCES IN SCHEMA intercom_webhook TO " + role)

	p.start(pgQueued("route * to "+b.address, strings.Replace(db.url(), "postgres@", role+"@", 1), ""))
	wantAll(t, []string{p.post(topic)}, b)
	db.wantAllDelivered()
}

func TestPostgresBadInput(t *testing.T) {
	db, newer, foreign := newPgDatabase(t, pgShared), newPgDatabase(t, pgShared), newPgDatabase(t, pgShared)
	made := startPgProcess(t, newer.queued("route * { respond 200 }", ""))
	made.post(topic)
	made.stop()
	newer.exec("UPDATE schema_version SET version = 999")
	foreign.exec("CREATE SCHEMA intercom_webhook CREATE TABLE customers (name text)")
	ascii := db.name + "_ascii"
	db.exec("CREATE DATABASE " + ascii + " ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	t.Cleanup(func() { db.exec("DROP DATABASE " + ascii + " WITH (FORCE)") })
	powerless := db.name + "_powerless"
	db.exec("CREATE ROLE " + powerless + " LOGIN PASSWORD '" + pgPassword + "'")
	t.Cleanup(func() { db.exec("DROP ROLE " + powerless) })
	db.exec("REVOKE CREATE ON SCHEMA public FROM PUBLIC") // as it is from PostgreSQL 15 on
	before := newer.tables() + foreign.tables()
	t.Setenv("PG_TEST_PASSWORD", pgPassword)
	const password = "{env.PG_TEST_PASSWORD}"
	url := func(user, address, database string) string {
		return "postgres://" + user + ":" + password + "@" + address + "/" + database
	}
	inTheConfig := strings.NewReplacer(password, pgPassword)

	for name, bad := range map[string]struct{ url, options, want string }{
		"the password is in the config":      {inTheConfig.Replace(url("postgres", pgShared, "nonesuch")), "", `database "nonesuch" does not exist`},
		"there is no such database":          {url("postgres", pgShared, "nonesuch"), "", `database "nonesuch" does not exist`},
		"there is no such role":              {url("nonesuch", pgShared, db.name), "", "the server refuses the user"},
		"the role may not create tables":     {url(powerless, pgShared, db.name), "schema public", "permission denied for schema public"},
		"the role may not create the schema": {url(powerless, pgShared, db.name), "schema s", "in schema s: ERROR: permission denied for database"},
		"a variable is not set":              {url("postgres", "{env.PG_TEST_UNSET}", db.name), "", "no value for a placeholder"},
		"the tables are of a newer version":  {url("postgres", pgShared, newer.name), "", "newer version of this program"},
		"the tables are another program's":   {url("postgres", pgShared, foreign.name), "", "what this program has not made (such as customers)"},
		"the URL names no database":          {"postgres://postgres:" + password + "@" + pgShared, "", "database"},
		"the encoding is not UTF-8":          {url("postgres", pgShared, ascii), "", "encoding is SQL_ASCII: create one with UTF8"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t)
			said := p.wantRefusal(pgQueued("route * { respond 200 }", bad.url, bad.options))
			if !strings.Contains(said, bad.want) || strings.Contains(said, pgPassword) {
				t.Errorf("the error is %q, want it to say %q, and not the password", said, bad.want)
			}
			if !strings.Contains(bad.url, pgPassword) { // or else Caddy tells it at DEBUG, with all of the config
				p.wantSecret(pgPassword)
			}
		})
	}
	if after := newer.tables() + foreign.tables(); after != before {
		t.Errorf("the databases that were refused have the tables %s now, they had %s", after, before)
	}

	t.Run("a reload that fails leaves the queue running", func(t *testing.T) {
		b := newTally(t, 0)
		p := startPgProcess(t, pgQueued("route * to "+b.address, url("postgres", pgShared, db.name), ""))
		bad, err := p.adapt(pgQueued("route * to "+b.address, url("postgres", pgShared, "nonesuch"), ""))
		if err != nil {
			t.Fatal(err)
		}
		if answer := p.ask(http.MethodPost, "/load", bad); answer.status != http.StatusBadRequest ||
			!strings.Contains(answer.body, "does not exist") || strings.Contains(answer.body, pgPassword) {
			t.Errorf("status %d, %s; want an error of the database, without the password", answer.status, answer.body)
		}
		wantAll(t, []string{p.post(topic)}, b)
		if config := p.ask(http.MethodGet, "/config/", nil).body; !strings.Contains(config, password) || strings.Contains(config, pgPassword) {
			t.Errorf("the config is shown as %s, want it with the placeholder", config)
		}
		p.wantSecret(pgPassword)
	})
}

// A database that is merely away, at the start or at a reload, takes nothing else down.
func TestPostgresAwayAtFirst(t *testing.T) {
	t.Setenv("PG_TEST_PASSWORD", pgPassword)
	for name, password := range map[string]string{"the password is in the config": pgPassword, "the password is a placeholder": "{env.PG_TEST_PASSWORD}"} {
		t.Run(name, func(t *testing.T) {
			server := startPgServer(t)
			server.stop()
			there, away := newTally(t, 0), newTally(t, 0)
			db := newPgDatabase(t, pgShared)
			elsewhere := pgQueued("route * to "+away.address, "postgres://postgres:"+password+"@"+server.address+"/postgres", "")

			p := startPgProcess(t, elsewhere)
			p.wantAway()
			server.start()
			wantAll(t, []string{p.wantStoredAgain(10 * time.Second)}, away)

			p.reload(db.queued("route * to "+there.address, ""))
			wantAll(t, []string{p.post(topic)}, there)
			server.stop()
			p.reload(elsewhere)
			p.wantAway()
			server.start()
			wantAll(t, []string{p.wantStoredAgain(10 * time.Second)}, away)

			for _, text := range []string{"the queue's database cannot be reached: notifications are answered 503", "the queue's database can be reached"} {
				if len(p.lines("warn", text))+len(p.lines("info", text)) == 0 {
					t.Errorf("the log does not say that %s", text)
				}
			}
			if password != pgPassword { // or else Caddy tells it at DEBUG, with all of the config
				p.wantSecret(pgPassword)
				return
			}
			for _, line := range p.logged(func(e entry) bool { return strings.HasPrefix(e.text("logger"), "http.intercom_webhook") }) {
				if strings.Contains(fmt.Sprint(line), pgPassword) {
					t.Errorf("the log has the password: %v", line)
				}
			}
		})
	}
}

// ----- processes -----

// wantAway asserts that all is as ever but for notifications, while the database is away.
func (p *process) wantAway() {
	p.t.Helper()
	p.expect(http.StatusOK, message{method: http.MethodHead})
	p.expect(http.StatusServiceUnavailable, signed(notification(topic, newID())))
	if len(p.scrape()) == 0 {
		p.t.Error("the other site does not answer")
	}
}

// wantStoredAgain returns the id of the first notification that is stored, which must be
// soon.
func (p *process) wantStoredAgain(limit time.Duration) (id string) {
	p.t.Helper()
	within(p.t, limit, "notifications are stored again", func() bool {
		id = newID()
		answer, err := p.try(signed(notification(topic, id)))
		return err == nil && answer.status == http.StatusOK
	})
	return id
}

// pgQueued is a setup with a queue in PostgreSQL.
func pgQueued(routes, url, options string) setup {
	return setup{
		admin:   true,
		options: "grace_period 10s",
		webhook: routes + "\nqueue postgres " + url + " {\n" + options + "\n}",
	}
}

func startPgProcess(t *testing.T, s setup) *process {
	t.Helper()
	p := newProcess(t)
	p.start(s)
	return p
}

// ask sends a request to the admin API.
func (p *process) ask(method, path string, body []byte) reply {
	p.t.Helper()
	r, err := http.NewRequest(method, "http://"+p.admin+path, bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := p.client.Do(r)
	if err != nil {
		p.t.Fatalf("asking the admin API: %v", err)
	}
	answer, err := readReply(response)
	if err != nil {
		p.t.Fatalf("reading the answer of the admin API: %v", err)
	}
	return answer
}

// notStored returns why notifications could not be stored.
func (p *process) notStored() []string {
	p.t.Helper()
	var why []string
	for _, line := range p.logged(func(e entry) bool { return e.text("msg") == "notification could not be stored" }) {
		why = append(why, line.text("error"))
	}
	return why
}

// wantSecret asserts that the process has told nobody of something.
func (p *process) wantSecret(text string) {
	p.t.Helper()
	log, err := os.ReadFile(p.logFile())
	if err != nil {
		p.t.Fatal(err)
	}
	if said := string(log) + p.stderr.String(); strings.Contains(said, text) {
		p.t.Errorf("the process says %q in:\n%s", text, said)
	}
}

// total returns how many notifications have come.
func (c *tally) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.taken)
}

// ----- databases -----

// pgDatabase is a database that is dropped when the test ends.
type pgDatabase struct {
	t             *testing.T
	address, name string
	pool          *pgxpool.Pool
}

var pgDatabases atomic.Int32

func newPgDatabase(t *testing.T, address string) *pgDatabase {
	t.Helper()
	db := &pgDatabase{t: t, address: address, name: fmt.Sprintf("intercom_test_%d_%d", os.Getpid(), pgDatabases.Add(1))}
	maintenance := "postgres://postgres@" + address + "/postgres"
	run := func(sql string) {
		ctx, cancel := context.WithTimeout(context.Background(), longPatience)
		defer cancel()
		conn, err := pgx.Connect(ctx, maintenance)
		if err != nil {
			t.Fatalf("connecting to PostgreSQL, which .ci/postgres starts: %v", err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	run("CREATE DATABASE " + db.name)
	t.Cleanup(func() { run("DROP DATABASE " + db.name + " WITH (FORCE)") })
	db.connect()
	return db
}

func (db *pgDatabase) connect() {
	db.t.Helper()
	config, err := pgxpool.ParseConfig(db.url())
	if err != nil {
		db.t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["search_path"] = "intercom_webhook, public"
	if db.pool, err = pgxpool.NewWithConfig(db.t.Context(), config); err != nil {
		db.t.Fatal(err)
	}
	db.t.Cleanup(db.pool.Close)
}

func (db *pgDatabase) url() string { return "postgres://postgres@" + db.address + "/" + db.name }

// queued is a setup with a queue in the database.
func (db *pgDatabase) queued(routes, options string) setup {
	return pgQueued(routes, db.url(), options)
}

func (db *pgDatabase) exec(sql string) {
	db.t.Helper()
	if _, err := db.pool.Exec(context.Background(), sql); err != nil {
		db.t.Fatalf("%s: %v", sql, err)
	}
}

// text returns the one value that a query finds, "" for NULL.
func (db *pgDatabase) text(sql string) string {
	db.t.Helper()
	var value *string
	if err := db.pool.QueryRow(context.Background(), sql).Scan(&value); err != nil {
		db.t.Fatalf("%s: %v", sql, err)
	}
	if value == nil {
		return ""
	}
	return *value
}

// tables returns the names of all tables.
func (db *pgDatabase) tables() string {
	db.t.Helper()
	return db.text("SELECT string_agg(schemaname || '.' || tablename, ' ' ORDER BY 1) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')")
}

// mayJudgeOthers makes all instances believe that their heartbeats have been steady for long,
// so that each takes over what those leave that it takes for gone.
func (db *pgDatabase) mayJudgeOthers() {
	db.t.Helper()
	db.exec("UPDATE instance SET steady_since = steady_since - interval '1 minute'")
}

// noteCommits makes the database note with which synchronous_commit notifications are
// inserted.
func (db *pgDatabase) noteCommits() {
	db.t.Helper()
	db.exec(`CREATE TABLE public.seen (level text)`)
	db.exec(`CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$`)
	db.exec(`CREATE TRIGGER look AFTER INSERT ON notification FOR EACH ROW EXECUTE FUNCTION public.look()`)
}

func (db *pgDatabase) wantCommits(level string) {
	db.t.Helper()
	if got := db.text("SELECT string_agg(DISTINCT level, ', ') FROM public.seen"); got != level {
		db.t.Errorf("notifications were inserted with synchronous_commit %s, want %s", got, level)
	}
}

// wantAllDelivered waits until all deliveries are.
func (db *pgDatabase) wantAllDelivered() {
	db.t.Helper()
	within(db.t, longPatience, "all are delivered", func() bool {
		return db.text("SELECT bool_and(state = 'delivered')::text FROM delivery") == "true"
	})
}

// pgServer is a PostgreSQL of one test, which may stop it.
type pgServer struct {
	t            *testing.T
	bin, dir     string
	port         string
	address      string
	user         *syscall.Credential // as it refuses to be root; nil if this process is not
	server       *exec.Cmd
	serverOutput bytes.Buffer
}

// startPgServer starts a server with databases of its own.
func startPgServer(t *testing.T) *pgServer {
	t.Helper()
	s := newPgServer(t)
	if output, err := s.command("initdb", "-D", s.dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, output)
	}
	s.start()
	return s
}

// newPgServer prepares a server, which has no data yet.
func newPgServer(t *testing.T) *pgServer {
	t.Helper()
	installed, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(installed) == 0 {
		t.Fatal("PostgreSQL is not installed, which .ci/postgres does")
	}
	s := &pgServer{t: t, bin: filepath.Dir(installed[len(installed)-1]), port: freePort(t)}
	s.address = "127.0.0.1:" + s.port
	if s.dir, err = os.MkdirTemp("", "postgres"); err != nil { // t.TempDir is for root only
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	if os.Geteuid() == 0 {
		postgres, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(postgres.Uid)
		gid, _ := strconv.Atoi(postgres.Gid)
		if err := os.Chown(s.dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		s.user = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	t.Cleanup(func() {
		if s.server != nil && s.server.ProcessState == nil {
			_ = s.server.Process.Signal(syscall.SIGQUIT)
			_ = s.server.Wait()
		}
	})
	return s
}

// database is the one that each server has.
func (s *pgServer) database() *pgDatabase {
	s.t.Helper()
	db := &pgDatabase{t: s.t, address: s.address, name: "postgres"}
	db.connect()
	return db
}

func (s *pgServer) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user}
	return cmd
}

// start starts the server, and returns when it answers.
func (s *pgServer) start() {
	s.t.Helper()
	s.server = s.command("postgres", "-D", s.dir, "-p", s.port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
	s.server.Stdout, s.server.Stderr = &s.serverOutput, &s.serverOutput
	if err := s.server.Start(); err != nil {
		s.t.Fatalf("starting PostgreSQL: %v", err)
	}
	s.waitUntilReady()
}

func (s *pgServer) waitUntilReady() {
	s.t.Helper()
	within(s.t, longPatience, "PostgreSQL answers", func() bool {
		conn, err := pgx.Connect(s.t.Context(), "postgres://postgres@"+s.address+"/postgres")
		if err != nil {
			return false
		}
		conn.Close(s.t.Context())
		return true
	})
}

// stop has the server hang up on everybody, and end.
func (s *pgServer) stop() {
	s.t.Helper()
	if err := s.server.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Fatalf("stopping PostgreSQL: %v", err)
	}
	if err := s.server.Wait(); err != nil {
		s.t.Fatalf("stopping PostgreSQL: %v: %s", err, s.serverOutput.String())
	}
}

// kill ends the server's main process at once, and so all others.
func (s *pgServer) kill() {
	s.t.Helper()
	if err := s.server.Process.Kill(); err != nil {
		s.t.Fatalf("killing PostgreSQL: %v", err)
	}
	_ = s.server.Wait() // it was killed
}

// crash kills the process of one of the server's connections, and returns when the
// server answers again.
func (s *pgServer) crash(db *pgDatabase) {
	s.t.Helper()
	pid, err := strconv.Atoi(db.text("SELECT pg_backend_pid()::text"))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.t.Fatalf("killing a process of PostgreSQL: %v", err)
	}
	time.Sleep(time.Second) // in which it notices
	s.waitUntilReady()
	db.pool.Reset()
}
