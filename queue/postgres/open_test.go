//go:build postgres

package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func TestPostgresServer(t *testing.T) {
	s := startPgServer(t)
	s.run("postgres",
		"CREATE DATABASE queue", "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0",
		"CREATE ROLE worker LOGIN PASSWORD '"+pgPassword+"'", "CREATE ROLE nobody LOGIN PASSWORD '"+pgPassword+"'")

	t.Run("refuses what only a person can mend", func(t *testing.T) { testRefuses(t, s) })
	t.Run("leaves the tables of other programs alone", func(t *testing.T) { testForeignTables(t, s) })
	t.Run("needs no more rights than to its tables", func(t *testing.T) { testRights(t, s) })
	t.Run("stores durably whatever the default is", func(t *testing.T) { testDurable(t, s, s.url("postgres", "queue")) })
	t.Run("works whatever a role's settings are", func(t *testing.T) { testRoleSettings(t, s) })
	t.Run("works with three connections", func(t *testing.T) { testFewConnections(t, s) })
	t.Run("opens with a short statement_timeout", func(t *testing.T) { testTimeout(t, s) })
	t.Run("warns of fsync off", func(t *testing.T) { testFsync(t, s) })
	t.Run("leaves a read-only server", func(t *testing.T) { testReadOnly(t, s) })
	t.Run("goes on after a restart", func(t *testing.T) { testRestart(t, s) })

	bouncer := startPgBouncer(s, "transaction", 3)
	t.Run("stores durably through PgBouncer", func(t *testing.T) { testDurable(t, s, bouncer) })
	t.Run("works through PgBouncer", func(t *testing.T) { testWorks(t, bouncer) })
	t.Run("refuses a pooler that cannot serve it", func(t *testing.T) { testPoolers(t, s) })
}

func testRefuses(t *testing.T, s *pgServer) {
	for name, test := range map[string]struct{ url, schema, want string }{
		"a wrong password":         {strings.Replace(s.url("postgres", "queue"), pgPassword, "wrong-"+pgPassword, 1), "", "refuses the user or the password"},
		"no such role":             {s.url("somebody", "queue"), "", "refuses the user or the password"},
		"no such database":         {s.url("postgres", "nowhere"), "", "does not exist"},
		"no right to create":       {s.url("nobody", "queue"), "inbox", "permission denied"},
		"an encoding not UTF-8":    {s.url("postgres", "latin"), "", "encoding is LATIN1"},
		"a URL that is none":       {"postgres://postgres:" + pgPassword + "/x@" + s.address + "/queue", "", "percent-encoded"},
		"a URL without a file":     {s.url("postgres", "queue") + "?sslmode=verify-ca&sslrootcert=/nowhere", "", "sslrootcert"},
		"not a URL":                {"password=" + pgPassword + " sslmode=often", "", "percent-encoded"},
		"a schema that is no name": {s.url("postgres", "queue"), "a.b", "letters, digits and underscores"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), test.url, test.schema, zap.NewNop())
			if !db.IsPermanent(err) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v (permanent: %v), want %s", err, db.IsPermanent(err), test.want)
			}
			// doctor finds what opening would find before it makes tables
			tables := slices.Contains([]string{"no right to create", "an encoding not UTF-8", "a schema that is no name"}, name)
			reached := reach(t.Context(), test.url)
			if tables != (reached == nil) || !tables && (!db.IsPermanent(reached) || !strings.Contains(reached.Error(), test.want)) {
				t.Errorf("reaching it: %v", reached)
			}
			for _, secret := range []string{"hunter2", "somebody"} {
				if strings.Contains(fmt.Sprint(err, reached), secret) {
					t.Errorf("printed %v, %v", err, reached)
				}
			}
		})
	}
	t.Run("but not nobody listening", func(t *testing.T) {
		_, err := Open(t.Context(), fmt.Sprintf("postgres://somebody:%s@%s/queue", pgPassword, pgFreeAddress(t)), "", zap.NewNop())
		if err == nil || db.IsPermanent(err) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "somebody") {
			t.Errorf("got %v (permanent: %v)", err, db.IsPermanent(err))
		}
	})
}

// A schema of another program is left as it is.
func testForeignTables(t *testing.T, s *pgServer) {
	const relations = `SELECT coalesce(string_agg(relname, ' ' ORDER BY relname), '') FROM pg_class WHERE relnamespace = 'alien'::regnamespace`
	for name, test := range map[string]struct{ sql, want string }{
		"River":                     {"CREATE TABLE alien.river_job (id int)", "river_job"},
		"another notification":      {"CREATE TABLE alien.notification (id bigint, body text)", "notification"},
		"another schema_version":    {"CREATE TABLE alien.schema_version (version int)", "schema_version"},
		"the mark of another one":   {"CREATE TABLE alien.schema_version AS SELECT 'other'::text AS program, 1 AS version", "schema_version"},
		"a view":                    {"CREATE VIEW alien.delivery AS SELECT 1 AS id", "delivery"},
		"tables of a newer version": {"CREATE TABLE alien.schema_version AS SELECT '" + program + "'::text AS program, 99 AS version", "newer version"},
	} {
		t.Run(name, func(t *testing.T) {
			s.run("queue", "DROP SCHEMA IF EXISTS alien CASCADE", "CREATE SCHEMA alien", test.sql)
			before := s.text("queue", relations)
			_, err := Open(t.Context(), s.url("postgres", "queue"), "alien", zap.NewNop())
			if !db.IsPermanent(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v (permanent: %v), want %s", err, db.IsPermanent(err), test.want)
			}
			if after := s.text("queue", relations); after != before {
				t.Errorf("it had %s, and now %s", before, after)
			}
		})
	}
}

func testRights(t *testing.T, s *pgServer) {
	openTest(t, s.url("postgres", "queue"), "rights").Close()
	s.run("queue", "GRANT USAGE ON SCHEMA rights TO worker", "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA rights TO worker",
		"GRANT USAGE ON ALL SEQUENCES IN SCHEMA rights TO worker")
	testCycle(t, openTest(t, s.url("worker", "queue"), "rights"), "talk", 0)
}

// testDurable has a trigger tell what synchronous_commit is during an insert.
func testDurable(t *testing.T, s *pgServer, url string) {
	for set, want := range map[string]string{"off": "on", "local": "on", "remote_write": "on", "on": "on", "remote_apply": "remote_apply"} {
		t.Run(set, func(t *testing.T) {
			s.run("queue", "DROP SCHEMA IF EXISTS durable CASCADE", "ALTER DATABASE queue SET synchronous_commit = "+set)
			defer s.run("queue", "ALTER DATABASE queue RESET synchronous_commit")
			pgReconnect(s)
			pgWaitFor(t, url+"?default_query_exec_mode=exec") // PgBouncer finds out that its connections are gone
			d := openTest(t, url, "durable")
			s.run("queue", "CREATE TABLE durable.commits (setting text)",
				`CREATE FUNCTION durable.note() RETURNS trigger LANGUAGE plpgsql AS
					$$ BEGIN INSERT INTO durable.commits VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$`,
				"CREATE TRIGGER note AFTER INSERT ON durable.notification FOR EACH STATEMENT EXECUTE FUNCTION durable.note()")
			for i := range 20 {
				if _, err := d.Store(t.Context(), func() []*db.NewNotification {
					return []*db.NewNotification{newNotification(fmt.Sprint("id ", i%7), "")}
				}); err != nil {
					t.Fatal(err)
				}
			}
			if settings := s.text("queue", "SELECT string_agg(DISTINCT setting, ', ') FROM durable.commits"); settings != want {
				t.Errorf("committed with %s, want %s", settings, want)
			}
		})
	}
}

// pgReconnect ends all sessions, as new ones have other settings.
func pgReconnect(s *pgServer) {
	s.run("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'queue'")
}

// A duplicate is answered like a new one, so its commit must wait as long.
func TestPostgresDuplicateIsWritten(t *testing.T) {
	p := newTestDB(t)
	p.store(newNotification("id", ""))
	p.run("DELETE FROM {s}instance")
	if stored := p.store(newNotification("id", "")); !stored[0].Duplicate {
		t.Fatalf("got %+v", stored)
	}
	if got := p.text("SELECT count(*) FROM {s}instance"); got != "1" {
		t.Errorf("%s rows of instances: the duplicate's transaction has written nothing", got)
	}
}

// Who stores, and who deletes keys, could wait for each other for ever.
func TestPostgresDeletesNoKeyThatAnotherTransactionHas(t *testing.T) {
	p := newTestDB(t)
	p.run("INSERT INTO {s}once VALUES ('a', now() - interval '1 hour'), ('b', now() - interval '1 hour')")
	storing, err := p.work.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer storing.Rollback(context.Background())
	if _, err := storing.Exec(t.Context(), p.work.sql("UPDATE {s}once SET until = now() + interval '1 hour' WHERE key = 'a'")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Expire(t.Context(), db.Expiry{Endpoint: "intercom", KeepDelivered: time.Hour, KeepDead: time.Hour, Limit: 10}); err != nil {
		t.Fatal(err)
	}
	if got := p.text("SELECT string_agg(key, ' ') FROM {s}once"); got != "a" {
		t.Errorf("the keys %q are left, want a", got)
	}
}

// None of the settings that a role may have makes a difference.
func testRoleSettings(t *testing.T, s *pgServer) {
	s.run("queue", "CREATE ROLE odd LOGIN SUPERUSER PASSWORD '"+pgPassword+"'")
	for name, value := range map[string]string{
		"bytea_output": "escape", "DateStyle": "'SQL, DMY'", "IntervalStyle": "sql_standard", "standard_conforming_strings": "off", "TimeZone": "'Asia/Kathmandu'",
		"search_path": "alien", "lock_timeout": "'1ms'", "idle_in_transaction_session_timeout": "'1ms'",
		"extra_float_digits": "-15", "enable_indexscan": "off", "backslash_quote": "off", "array_nulls": "off", "default_toast_compression": "pglz", "lc_messages": "'C'",
	} {
		s.run("queue", "ALTER ROLE odd SET "+name+" = "+value)
	}
	d := openTest(t, s.url("odd", "queue"), "odd")
	at := time.Date(2026, 11, 30, 23, 59, 59, 123456000, time.UTC)
	n := newNotification("id", "\\x00'\"\\\x00\xff")
	n.ReceivedAt = at
	if _, err := d.Store(t.Context(), func() []*db.NewNotification { return []*db.NewNotification{n} }); err != nil {
		t.Fatal(err)
	}
	found, err := d.Find(t.Context(), "intercom", "id", 1)
	if err != nil || len(found) != 1 || string(found[0].Body) != string(n.Body) || !found[0].ReceivedAt.Equal(at) {
		t.Errorf("found %+v, %v", found, err)
	}
	testCycle(t, d, "odd", 0)
	testWorks(t, s.url("odd", "queue"))

	for setting, value := range map[string]string{"default_transaction_read_only": "on", "default_transaction_isolation": "'repeatable read'"} {
		s.run("queue", "ALTER ROLE odd SET "+setting+" = "+value)
		if _, err := Open(t.Context(), s.url("odd", "queue"), "odd", zap.NewNop()); !db.IsPermanent(err) || !strings.Contains(err.Error(), setting) {
			t.Errorf("with %s: got %v (permanent: %v)", setting, err, db.IsPermanent(err))
		}
		s.run("queue", "ALTER ROLE odd RESET "+setting)
	}
}

// A role that may have few connections stores all that comes, and says how many are wanted.
func testFewConnections(t *testing.T, s *pgServer) {
	s.run("queue", "CREATE ROLE few LOGIN PASSWORD '"+pgPassword+"'", "GRANT CREATE ON DATABASE queue TO few")
	for limit := 1; limit <= 5; limit++ {
		s.run("queue", fmt.Sprint("ALTER ROLE few CONNECTION LIMIT ", limit))
		core, logs := observer.New(zap.WarnLevel)
		opened, err := Open(t.Context(), s.url("few", "queue"), "few", zap.New(core))
		if limit < minConnections {
			if !db.IsPermanent(err) || !strings.Contains(err.Error(), "needs 3") {
				t.Errorf("%d connections: got %v (permanent: %v)", limit, err, db.IsPermanent(err))
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var storing sync.WaitGroup
		for n := range 30 {
			storing.Go(func() { testCycle(t, opened, fmt.Sprint("lane ", limit, " ", n), limit) })
			storing.Go(func() {
				if _, err := opened.Heartbeat(t.Context(), db.Presence{}); err != nil {
					t.Errorf("%d connections: %v", limit, err)
				}
			})
		}
		storing.Wait()
		if logs.FilterMessageSnippet("allows fewer connections").Len() != 1 {
			t.Errorf("%d connections: logged %v", limit, logs.All())
		}
		opened.Close()
		s.waitFor("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'few')")
	}
}

func testTimeout(t *testing.T, s *pgServer) {
	s.run("queue", `CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.05); END $$`,
		"CREATE EVENT TRIGGER slow ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION slow()",
		"ALTER DATABASE queue SET statement_timeout = '40ms'")
	defer s.run("queue", "DROP EVENT TRIGGER slow", "DROP FUNCTION slow()", "ALTER DATABASE queue RESET statement_timeout")
	var opening sync.WaitGroup
	for range 2 { // of which one waits for the other
		opening.Go(func() {
			d, err := Open(t.Context(), s.url("postgres", "queue"), "slow", zap.NewNop())
			if err != nil {
				t.Error(err)
				return
			}
			d.Close()
		})
	}
	opening.Wait()
}

func testFsync(t *testing.T, s *pgServer) {
	core, logs := observer.New(zap.WarnLevel)
	d, err := Open(t.Context(), s.url("postgres", "queue"), "fsync", zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if logs.FilterMessageSnippet("fsync off").Len() != 1 {
		t.Errorf("logged %v", logs.All())
	}
}

// The old primary that stays up is read-only for all that is connected to it.
func testReadOnly(t *testing.T, s *pgServer) {
	d := openTest(t, s.url("postgres", "queue"), "readonly")
	s.run("queue", "ALTER DATABASE queue SET default_transaction_read_only = on")
	d.work.pool.Reset()
	store := func() error {
		_, err := d.Store(t.Context(), func() []*db.NewNotification { return []*db.NewNotification{newNotification("", "")} })
		return err
	}
	claim := func() error {
		_, _, err := d.Claim(t.Context(), db.Claim{Lane: db.Lane{Endpoint: "intercom", Name: "talk"}, Token: 1, Limit: 1})
		return err
	}
	for name, use := range map[string]func() error{"Store": store, "Claim": claim} {
		if err := use(); sqlState(err) != "25006" {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.run("template1", "ALTER DATABASE queue RESET default_transaction_read_only")
	time.Sleep(resetPause)
	_, _ = store(), claim()
	for name, use := range map[string]func() error{"Store": store, "Claim": claim} {
		if err := use(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func testRestart(t *testing.T, s *pgServer) {
	d := openTest(t, s.url("postgres", "queue"), "restart")
	testCycle(t, d, "talk", 0)
	s.stop()
	store := func() error {
		_, err := d.Store(t.Context(), func() []*db.NewNotification {
			return []*db.NewNotification{newNotification("", "", db.NewDelivery{Lane: "other"})}
		})
		return err
	}
	if err := store(); err == nil || db.IsPermanent(err) {
		t.Errorf("stored in a server that is down: %v", err)
	}
	s.start()
	err := store()
	if err != nil {
		err = store()
	}
	if err != nil {
		t.Errorf("not stored after the restart: %v", err)
	}
	testCycle(t, d, "later", 0) // the outcomes before may be lost
}

// testWorks uses all methods at once, over and over.
func testWorks(t *testing.T, url string) {
	d := openTest(t, url, "works")
	var working sync.WaitGroup
	ctx := t.Context()
	lanes := fmt.Sprint(time.Now().UnixNano())
	for worker := range 8 {
		working.Go(func() {
			for round := range 5 {
				testCycle(t, d, fmt.Sprint(lanes, " ", worker), round)
			}
		})
	}
	all := db.Filter{Endpoint: "intercom", States: []db.State{db.Dead}, Topic: "conversation.*", Until: time.Now().Add(time.Hour), Notification: "lane 1"}
	for name, use := range map[string]func() error{
		"Held": func() error { _, err := d.Held(ctx); return err },
		"Heartbeat": func() error {
			_, err := d.Heartbeat(ctx, db.Presence{Lanes: []db.Lane{{Endpoint: "intercom", Name: "talk"}}, Configs: map[string]string{"intercom": "1"}})
			return err
		},
		"TakeOver":   func() error { _, err := d.TakeOver(ctx); return err },
		"Backlog":    func() error { _, _, err := d.Backlog(ctx); return err },
		"Expire":     func() error { _, _, err := d.Expire(ctx, db.Expiry{Endpoint: "other", Limit: 100}); return err },
		"Paused":     func() error { _, err := d.Paused(ctx); return err },
		"SetPaused":  func() error { return d.SetPaused(ctx, db.Lane{Endpoint: "intercom", Name: "other"}, true) },
		"List":       func() error { _, _, err := d.List(ctx, all, db.Page{Limit: 10, Newest: true}); return err },
		"Find":       func() error { _, err := d.Find(ctx, "intercom", "lane 1", 10); return err },
		"DeadGroups": func() error { _, err := d.DeadGroups(ctx, "intercom"); return err },
		"Change": func() error {
			_, err := d.Change(ctx, db.Change{Action: db.Send, To: "x", Filter: all, IDs: []int64{1, 2}})
			return err
		},
		"Erase":  func() error { _, err := d.Change(ctx, db.Change{Action: db.Erase, IDs: []int64{1 << 40}}); return err },
		"Import": func() error { _, err := d.Import(ctx, nil); return err },
		"Scrub":  func() error { _, err := d.Scrub(ctx, false); return err },
	} {
		working.Go(func() {
			for range 5 {
				if err := use(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	working.Wait()
}

// A pooler that keeps no transaction together, or has too few connections, is refused.
func testPoolers(t *testing.T, s *pgServer) {
	for name, test := range map[string]struct {
		mode string
		size int
		want string
	}{
		"statement mode": {"statement", 10, "pool_mode is statement"},
		"two sessions":   {"session", 2, "needs 3, and uses up to 8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Open(t.Context(), startPgBouncer(s, test.mode, test.size), "pooled", zap.NewNop())
			if !db.IsPermanent(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v (permanent: %v), want %s", err, db.IsPermanent(err), test.want)
			}
		})
	}
}

// Instances that start together make one database.
func TestPostgresOpensAtOnce(t *testing.T) {
	schema := newTestDB(t).schema
	runOn(t, sharedServer, "DROP SCHEMA "+schema+" CASCADE")
	var opening sync.WaitGroup
	for range 4 {
		opening.Go(func() {
			d, err := Open(context.Background(), sharedServer, schema, zap.NewNop())
			if err != nil {
				t.Error(err)
				return
			}
			d.Close()
		})
	}
	opening.Wait()
}

// Statements are kept where the session is the server's, and nowhere else.
func TestPostgresKeepsStatements(t *testing.T) {
	p := newTestDB(t)
	testCycle(t, p, "talk", 0)
	conn, err := p.work.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	var kept int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_statements", pgx.QueryExecModeExec).Scan(&kept); err != nil || kept == 0 {
		t.Errorf("%d statements are kept, %v", kept, err)
	}
}
