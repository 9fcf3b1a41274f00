//go:build postgres

package jobdb

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestPostgresServer(t *testing.T) {
	s := startPgServer(t)
	s.run("postgres",
		"CREATE DATABASE queue", "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0",
		"CREATE ROLE worker LOGIN PASSWORD '"+pgPassword+"'", "CREATE ROLE nobody LOGIN PASSWORD '"+pgPassword+"'")

	t.Run("refuses what only a person can mend", func(t *testing.T) { testPostgresRefuses(t, s) })
	t.Run("needs no more rights than to its tables", func(t *testing.T) { testPostgresRights(t, s) })
	t.Run("stores durably whatever the default is", func(t *testing.T) { testPostgresDurable(t, s, s.url("postgres", "queue")) })
	t.Run("opens with a short statement_timeout", func(t *testing.T) { testPostgresTimeout(t, s) })
	t.Run("warns of fsync off", func(t *testing.T) { testPostgresFsync(t, s) })
	t.Run("leaves a read-only server", func(t *testing.T) { testPostgresReadOnly(t, s) })
	t.Run("goes on after a restart", func(t *testing.T) { testPostgresRestart(t, s) })

	bouncer := fmt.Sprintf("postgres://postgres:%s@%s/queue", pgPassword, startPgBouncer(s))
	t.Run("stores durably through PgBouncer", func(t *testing.T) { testPostgresDurable(t, s, bouncer) })
	t.Run("works through PgBouncer", func(t *testing.T) { testPostgresWorks(t, bouncer) })
}

func testPostgresRefuses(t *testing.T, s *pgServer) {
	s.run("queue", `CREATE SCHEMA newer`, `CREATE TABLE newer.river_migration (line text, version bigint, created_at timestamptz DEFAULT now(), PRIMARY KEY (line, version))`,
		`INSERT INTO newer.river_migration VALUES ('main', 8), ('main', 99)`, `CREATE SCHEMA alien`, `CREATE TABLE alien.river_job (id int)`)
	for name, test := range map[string]struct{ url, schema, want string }{
		"a wrong password":        {strings.Replace(s.url("postgres", "queue"), pgPassword, "wrong-"+pgPassword, 1), "", "password authentication failed"},
		"no such database":        {s.url("postgres", "nowhere"), "", "does not exist"},
		"no right to create":      {s.url("nobody", "queue"), "inbox", "permission denied"},
		"tables of a newer one":   {s.url("postgres", "queue"), "newer", "made by a newer version"},
		"tables of another one":   {s.url("postgres", "queue"), "alien", "already exists"},
		"an encoding not UTF-8":   {s.url("postgres", "latin"), "", "encoding is LATIN1"},
		"a URL that is none":      {"postgres://postgres:" + pgPassword + "/x@" + s.address + "/queue", "", "percent-encoded"},
		"a URL with a wrong port": {"postgres://postgres:" + pgPassword + "@127.0.0.1:x/queue", "", "percent-encoded"},
		"a URL without a file":    {s.url("postgres", "queue") + "?sslmode=verify-ca&sslrootcert=/nowhere", "", "/nowhere"},
		"not a URL":               {"password=" + pgPassword + " sslmode=often", "", "percent-encoded"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := OpenPostgres(t.Context(), test.url, test.schema, zap.NewNop())
			if !IsPermanent(err) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v (permanent: %v), want %s", err, IsPermanent(err), test.want)
			}
		})
	}
	t.Run("but not nobody listening", func(t *testing.T) {
		_, err := OpenPostgres(t.Context(), fmt.Sprintf("postgres://postgres:%s@%s/queue", pgPassword, pgFreeAddress(t)), "", zap.NewNop())
		if err == nil || IsPermanent(err) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v (permanent: %v)", err, IsPermanent(err))
		}
	})
}

func testPostgresRights(t *testing.T, s *pgServer) {
	db, err := OpenPostgres(t.Context(), s.url("postgres", "queue"), "rights", zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	s.run("queue", "GRANT USAGE ON SCHEMA rights TO worker", "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA rights TO worker",
		"GRANT USAGE ON ALL SEQUENCES IN SCHEMA rights TO worker",
		"CREATE INDEX river_job_args_index ON rights.river_job USING GIN (args)") // which this role may not drop
	testPostgresCycle(t, pgOpen(t, s.url("worker", "queue"), "rights"), "talk", 0)
}

// testPostgresDurable has a trigger tell what synchronous_commit is during an insert.
func testPostgresDurable(t *testing.T, s *pgServer, url string) {
	for set, want := range map[string]string{"off": "on", "local": "on", "remote_write": "on", "on": "on", "remote_apply": "remote_apply"} {
		t.Run(set, func(t *testing.T) {
			s.run("queue", "DROP SCHEMA IF EXISTS durable CASCADE", "ALTER DATABASE queue SET synchronous_commit = "+set)
			defer s.run("queue", "ALTER DATABASE queue RESET synchronous_commit")
			pgReconnect(s)
			pgWaitFor(t, url+"?default_query_exec_mode=exec") // PgBouncer finds out that its connections are gone
			db := pgOpen(t, url, "durable")
			s.run("queue", "CREATE TABLE durable.commits (setting text)",
				`CREATE FUNCTION durable.note() RETURNS trigger LANGUAGE plpgsql AS
					$$ BEGIN INSERT INTO durable.commits VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$`,
				"CREATE TRIGGER note AFTER INSERT ON durable.river_job FOR EACH STATEMENT EXECUTE FUNCTION durable.note()")
			for i := range 20 {
				if _, err := db.Store(t.Context(), func() []*NewJob { return []*NewJob{pgJob("talk", `{}`, fmt.Sprint("key ", i%7), 0)} }); err != nil {
					t.Fatal(err)
				}
			}
			var settings string
			err := db.working.QueryRow(t.Context(), "SELECT string_agg(DISTINCT setting, ', ') FROM durable.commits").Scan(&settings)
			if err != nil || settings != want {
				t.Errorf("committed with %s, want %s (%v)", settings, want, err)
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
	p := newPgTest(t)
	p.store(pgJob("talk", `{}`, "key", 0))
	before := p.text("SELECT count(*)::text FROM {instances}")
	if stored := p.store(pgJob("talk", `{}`, "key", 0)); !stored[0].Duplicate {
		t.Fatalf("got %+v", stored)
	}
	if got := p.text("SELECT count(*)::text FROM {instances}"); before != "0" || got != "1" {
		t.Errorf("%s rows before, %s after: the duplicate's transaction has written nothing", before, got)
	}
}

func testPostgresTimeout(t *testing.T, s *pgServer) {
	s.run("queue", `CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.15); END $$`,
		"CREATE EVENT TRIGGER slow ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION slow()",
		"ALTER DATABASE queue SET statement_timeout = '100ms'")
	defer s.run("queue", "DROP EVENT TRIGGER slow", "DROP FUNCTION slow()", "ALTER DATABASE queue RESET statement_timeout")
	var opening sync.WaitGroup
	for range 2 { // of which one waits for the other
		opening.Go(func() {
			db, err := OpenPostgres(t.Context(), s.url("postgres", "queue"), "slow", zap.NewNop())
			if err != nil {
				t.Error(err)
				return
			}
			db.Close()
		})
	}
	opening.Wait()
}

func testPostgresFsync(t *testing.T, s *pgServer) {
	core, logs := observer.New(zap.WarnLevel)
	db, err := OpenPostgres(t.Context(), s.url("postgres", "queue"), "fsync", zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if logs.FilterMessageSnippet("fsync off").Len() != 1 {
		t.Errorf("logged %v", logs.All())
	}
}

// The old primary that stays up is read-only for all that is connected to it.
func testPostgresReadOnly(t *testing.T, s *pgServer) {
	db := pgOpen(t, s.url("postgres", "queue"), "readonly")
	s.run("queue", "ALTER DATABASE queue SET default_transaction_read_only = on")
	db.storing.Reset()
	db.working.Reset()
	store := func() error {
		_, err := db.Store(t.Context(), func() []*NewJob { return []*NewJob{pgJob("talk", `{}`, "", 0)} })
		return err
	}
	claim := func() error {
		_, _, err := db.Claim(t.Context(), Claim{Queue: "talk", Token: 1, Limit: 1})
		return err
	}
	for name, use := range map[string]func() error{"Store": store, "Claim": claim} {
		if err := use(); postgresCode(err) != "25006" {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.run("template1", "ALTER DATABASE queue RESET default_transaction_read_only")
	time.Sleep(postgresResetPause)
	_, _ = store(), claim()
	for name, use := range map[string]func() error{"Store": store, "Claim": claim} {
		if err := use(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func testPostgresRestart(t *testing.T, s *pgServer) {
	db := pgOpen(t, s.url("postgres", "queue"), "restart")
	testPostgresCycle(t, db, "talk", 0)
	s.stop()
	if _, err := db.Store(t.Context(), func() []*NewJob { return []*NewJob{pgJob("talk", `{}`, "", 0)} }); err == nil || IsPermanent(err) {
		t.Errorf("stored in a server that is down: %v", err)
	}
	s.start()
	var err error
	for range 2 {
		if _, err = db.Store(t.Context(), func() []*NewJob { return []*NewJob{pgJob("other", `{}`, "", 0)} }); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("not stored after the restart: %v", err)
	}
	testPostgresCycle(t, db, "talk", 1)
}

// testPostgresCycle stores, claims and finishes.
func testPostgresCycle(t testing.TB, db *postgresDB, queue string, round Token) {
	t.Helper()
	ctx := t.Context()
	key := fmt.Sprintf("%s %d", queue, round)
	for i, want := range []bool{false, true} {
		stored, err := db.Store(ctx, func() []*NewJob { return []*NewJob{pgJob(queue, `{"n": 1}`, key, 0), pgJob(queue, `{"n": 2}`, "", 0)} })
		if err != nil || stored[0].Duplicate != want || stored[1].ID == 0 {
			t.Errorf("store %d: %v, %v", i, stored, err)
		}
	}
	token := round*10 + 1
	jobs, _, err := db.Claim(ctx, Claim{Queue: queue, Token: token, Limit: 10, MaxBytes: 1 << 20})
	if err != nil || len(jobs) != 3 {
		t.Fatalf("claimed %v, %v", jobs, err)
	}
	applied, err := db.Finish(ctx, []Outcome{
		{ID: jobs[0].ID, Token: token, State: StateCompleted},
		{ID: jobs[1].ID, Token: token, State: StateAvailable},
		{ID: jobs[2].ID, Token: token, State: StateRetryable, Error: []byte(`{"error": "503"}`)},
	})
	if err != nil || len(applied) != 3 {
		t.Errorf("applied %v, %v", applied, err)
	}
	jobs, _, err = db.Claim(ctx, Claim{Queue: queue, Token: token + 1, Limit: 10, MaxBytes: 1 << 20})
	if err != nil || len(jobs) != 2 {
		t.Errorf("claimed %v, %v", jobs, err)
	}
	for _, job := range jobs {
		if _, err := db.Finish(ctx, []Outcome{{ID: job.ID, Token: token + 1, State: StateDiscarded, Error: []byte(`{"error": "410"}`)}}); err != nil {
			t.Error(err)
		}
	}
}

// testPostgresWorks uses all methods at once, over and over.
func testPostgresWorks(t *testing.T, url string) {
	db := pgOpen(t, url, "bouncer")
	var working sync.WaitGroup
	ctx := t.Context()
	for worker := range 8 {
		working.Go(func() {
			for round := range 5 {
				testPostgresCycle(t, db, fmt.Sprint("lane ", worker), Token(round))
			}
		})
	}
	for name, use := range map[string]func() error{
		"OwnRunning": func() error { _, err := db.OwnRunning(ctx); return err },
		"Beat": func() error {
			_, err := db.Beat(ctx, Presence{Queues: []string{"lane 1"}, Configs: map[string]string{"intercom": "1"}})
			return err
		},
		"Rescue":     func() error { _, err := db.Rescue(ctx); return err },
		"Reclock":    func() error { _, err := db.Reclock(ctx); return err },
		"Queues":     func() error { _, err := db.Queues(ctx, []string{"lane 1", "lane 2"}); return err },
		"QueuesWith": func() error { _, err := db.QueuesWith(ctx, UnfinishedStates); return err },
		"Changes":    func() error { _, err := db.Changes(ctx); return err },
		"Count":      func() error { _, err := db.Count(ctx, StateRetryable); return err },
		"Oldest":     func() error { _, err := db.Oldest(ctx); return err },
		"Expire":     func() error { _, err := db.Expire(ctx, Expiry{Queues: []string{"other"}, Limit: 100}); return err },
	} {
		working.Go(func() {
			for range 10 {
				if err := use(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	working.Wait()
	ui, err := db.UI(ctx, "/queue", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		w := httptest.NewRecorder()
		ui.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/queue/api/jobs?state=discarded&limit=5", nil))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "conversation.user.created") {
			t.Errorf("the UI answers %d: %s", w.Code, w.Body)
		}
	}
}

func TestPostgresExecModes(t *testing.T) {
	schema, _ := pgSchema(t, pgShared)
	for i, mode := range []string{"cache_describe", "cache_statement", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			db := pgOpen(t, pgShared+"?default_query_exec_mode="+mode, schema)
			testPostgresCycle(t, db, mode, Token(i))
			if _, err := db.Beat(t.Context(), Presence{Queues: []string{mode}}); err != nil {
				t.Error(err)
			}
			if _, err := db.Rescue(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := db.Oldest(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := db.Expire(t.Context(), Expiry{Queues: []string{mode}, Limit: 1}); err != nil {
				t.Error(err)
			}
			if _, err := db.Queues(t.Context(), []string{mode}); err != nil {
				t.Error(err)
			}
			if _, err := db.Changes(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPostgresHosts(t *testing.T) {
	for name, test := range map[string]struct {
		url       string
		readWrite bool
	}{
		"one host":                        {"postgres://u@a/db", false},
		"one host with a way out of TLS":  {"postgres://u@a/db?sslmode=prefer", false},
		"two hosts":                       {"postgres://u@a,b/db", true},
		"two ports":                       {"postgres://u@a:1,a:2/db", true},
		"two hosts, of which any will do": {"postgres://u@a,b/db?target_session_attrs=any", false},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := postgresConfig(test.url)
			if err != nil {
				t.Fatal(err)
			}
			if got := config.ConnConfig.ValidateConnect != nil; got != test.readWrite {
				t.Errorf("wants a server that can be written to: %v", got)
			}
		})
	}
}

// The version before left River's tables, two columns of its own, and jobs.
func TestPostgresTakesOverVersionBefore(t *testing.T) {
	schema, pool := pgSchema(t, pgShared)
	for _, sql := range []string{"CREATE SCHEMA " + schema, "CREATE TABLE " + schema + ".intercom_webhook_instance (id text PRIMARY KEY, updated_at timestamptz NOT NULL)",
		"INSERT INTO " + schema + ".intercom_webhook_instance VALUES ('0e8f5a3e-2f5b', now())"} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := migrateRiver(t.Context(), riverpgxv5.New(pool), schema); err != nil {
		t.Fatal(err)
	}
	_, err := pool.Exec(t.Context(), `INSERT INTO `+schema+`.river_job (args, kind, max_attempts, queue, state, attempt, attempted_by, scheduled_at, created_at) VALUES
		('{"n": 1}', 'intercom_notification', 25, 'talk', 'available', 0, NULL, now(), now()),
		('{"n": 2}', 'intercom_notification', 25, 'talk', 'running', 1, '{0e8f5a3e-2f5b}', now(), now()),
		('{"n": 3}', 'intercom_notification', 25, 'talk', 'scheduled', 2, '{0e8f5a3e-2f5b}', now() + interval '1 hour', now() - interval '1 day')`)
	if err != nil {
		t.Fatal(err)
	}
	p := &pgTest{postgresDB: pgOpen(t, pgShared, schema), TB: t, pool: pool}
	jobs, _ := p.claim(Claim{Queue: "talk"})
	if len(jobs) != 2 || string(jobs[0].Args) != `{"n": 3}` || jobs[0].Age < 23*time.Hour || jobs[0].Attempt != 3 || string(jobs[1].Args) != `{"n": 1}` {
		t.Errorf("claimed %+v", jobs)
	}
	if got := p.text("SELECT count(*)::text FROM pg_indexes WHERE schemaname = $1 AND indexdef LIKE '%gin%'", schema); got != "0" {
		t.Errorf("%s GIN indexes are left", got)
	}
	fleet, err := p.Beat(t.Context(), Presence{})
	if err != nil || len(fleet.Others) != 1 {
		t.Errorf("others: %v, %v", fleet.Others, err)
	}
	p.watch.age(GoneAfter)
	if rescued, err := p.Rescue(t.Context()); err != nil || rescued != 1 {
		t.Errorf("rescued %d, %v", rescued, err)
	}
	if job := p.one("talk"); string(job.Args) != `{"n": 2}` || job.Attempt != 1 {
		t.Errorf("claimed %+v", job)
	}
	p.run("UPDATE {s}river_job SET state = 'scheduled' WHERE args->>'n' = '1'") // by one that still runs
	if _, err := p.Rescue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if job := p.one("talk"); string(job.Args) != `{"n": 1}` {
		t.Errorf("claimed %+v", job)
	}
}

// Instances that start together make one database.
func TestPostgresOpensAtOnce(t *testing.T) {
	schema, _ := pgSchema(t, pgShared)
	var opening sync.WaitGroup
	for range 4 {
		opening.Go(func() {
			db, err := OpenPostgres(context.Background(), pgShared, schema, zap.NewNop())
			if err != nil {
				t.Error(err)
				return
			}
			db.Close()
		})
	}
	opening.Wait()
}
