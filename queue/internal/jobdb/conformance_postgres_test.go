//go:build postgres

package jobdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/tcpproxy"
)

func init() {
	postgresClock = func() time.Time { return time.Now().Add(time.Duration(passedTime.Load())) }
}

const (
	suiteServer = "127.0.0.1:5432" // which .ci/postgres starts
	suiteURL    = "postgres://postgres@%s/postgres?sslmode=disable"
)

func TestPostgresConforms(t *testing.T) {
	schema := newPostgresSchema(t)
	conform(t, engine{
		create:  func(t *testing.T) database { return schema.empty(t) },
		shared:  true,
		refused: postgresRefusedJobs,
		broken:  postgresBroken,
	})
}

// postgresRefusedJobs and postgresBroken are the engine's part of the suite.
var (
	postgresRefusedJobs = map[string]func(j *NewJob){
		"arguments that are cut":          func(j *NewJob) { j.Args = j.Args[:len(j.Args)-1] },
		"arguments that are empty":        func(j *NewJob) { j.Args = nil },
		"arguments with a NUL":            func(j *NewJob) { j.Args = []byte(`{"body": "\u0000"}`) },
		"arguments with half a character": func(j *NewJob) { j.Args = []byte(`{"body": "\ud83d"}`) },
		"arguments that are not UTF-8":    func(j *NewJob) { j.Args = []byte("{\"body\": \"\xff\"}") },
		"a tag with a NUL":                func(j *NewJob) { j.Tags = []string{"a\x00b"} },
		"a tag that is too long":          func(j *NewJob) { j.Tags = []string{strings.Repeat("t", 256)} },
	}

	postgresBroken = []brokenValue{
		{"errors in two dimensions", "errors", "ARRAY[ARRAY['{}'::jsonb]]"},
		{"attempted_by in two dimensions", "attempted_by", "ARRAY[ARRAY['x']]"},
		{"attempted_by with NULL", "attempted_by", "ARRAY[NULL]::text[]"},
		{"metadata that are a number", "metadata", "'5'"},
		{"metadata that are an array", "metadata", "'[]'"},
		{"metadata with another age", "metadata", `'{"age_from": {"a": 1}}'`},
		{"arguments that are no object", "args", "'null'"},
	}
)

// postgresSchema is a schema that is dropped when the test ends.
type postgresSchema struct {
	name string
	pool *pgxpool.Pool
}

func newPostgresSchema(t *testing.T) *postgresSchema {
	t.Helper()
	config, err := pgxpool.ParseConfig(fmt.Sprintf(suiteURL, suiteServer))
	if err != nil {
		t.Fatal(err)
	}
	s := &postgresSchema{name: fmt.Sprintf("conformance_%d", rand.Uint64())}
	config.ConnConfig.RuntimeParams["search_path"] = s.name
	config.MaxConns = 4
	if s.pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := s.pool.Exec(context.Background(), "DROP SCHEMA IF EXISTS "+s.name+" CASCADE"); err != nil {
			t.Error(err)
		}
		s.pool.Close()
	})
	return s
}

// empty deletes all that is in the schema. That is quicker than to make a new one.
func (s *postgresSchema) empty(t *testing.T) *postgresSchema {
	t.Helper()
	var exists bool
	if err := s.pool.QueryRow(t.Context(), "SELECT to_regclass('river_job') IS NOT NULL").Scan(&exists); err != nil {
		t.Fatal(err)
	}
	if exists {
		s.exec(t, "TRUNCATE river_job, river_queue, intercom_webhook_instance RESTART IDENTITY")
	}
	return s
}

func (s *postgresSchema) open(t *testing.T) *instance {
	t.Helper()
	i, _ := s.openThrough(t)
	return i
}

// openThrough returns the proxy between the instance and the server as well.
func (s *postgresSchema) openThrough(t *testing.T) (*instance, *tcpproxy.Proxy) {
	t.Helper()
	proxy, err := tcpproxy.Start(suiteServer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	logger, logs := newLogs()
	db, err := OpenPostgres(t.Context(), fmt.Sprintf(suiteURL, proxy.Addr()), s.name, logger)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	i := &instance{DB: db, logs: logs, lose: func() { proxy.DropReplies(committed) }, heal: proxy.Resume}
	ended := false
	i.die = func() {
		if !ended {
			ended = true
			proxy.Close()
			db.Close() // cannot tell anybody
		}
	}
	t.Cleanup(i.die)
	return i, proxy
}

// committed reports whether a reply tells of the end of a statement and its transaction.
// Replies that only describe a statement tell of neither.
func committed(reply []byte) bool {
	completed := false
	for len(reply) >= 5 {
		size := 1 + int(binary.BigEndian.Uint32(reply[1:]))
		if len(reply) < size {
			return false
		}
		switch body := reply[5:size]; reply[0] {
		case 'C': // CommandComplete
			completed = !bytes.HasPrefix(body, []byte("BEGIN"))
		case 'Z': // ReadyForQuery
			if completed && body[0] == 'I' {
				return true
			}
		}
		reply = reply[size:]
	}
	return false
}

func (s *postgresSchema) exec(t *testing.T, statement string) {
	t.Helper()
	if _, err := s.pool.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func (s *postgresSchema) rows(t *testing.T) []row {
	t.Helper()
	found, err := s.pool.Query(t.Context(), `SELECT id, queue, kind, state::text, args::text, coalesce(encode(unique_key, 'hex'), ''),
		CASE WHEN array_ndims(attempted_by) = 1 AND array_position(attempted_by, NULL) IS NULL THEN to_json(attempted_by)::text ELSE '[]' END,
		to_json(tags)::text, attempt, max_attempts,
		CASE array_ndims(errors) WHEN 1 THEN cardinality(errors) WHEN 2 THEN -1 ELSE 0 END,
		extract(epoch FROM scheduled_at - clock_timestamp())::float8, finalized_at IS NOT NULL
		FROM river_job ORDER BY id`)
	if err != nil {
		t.Fatalf("reading the rows: %v", err)
	}
	rows, err := pgx.CollectRows(found, func(r pgx.CollectableRow) (row, error) {
		var id int64
		var text [7]string
		var attempt, maxAttempts, errorCount int
		var due float64
		var finalized bool
		if err := r.Scan(&id, &text[0], &text[1], &text[2], &text[3], &text[4], &text[5], &text[6],
			&attempt, &maxAttempts, &errorCount, &due, &finalized); err != nil {
			return row{}, err
		}
		return newRow(id, text, attempt, maxAttempts, errorCount, due, finalized)
	})
	if err != nil {
		t.Fatalf("reading the rows: %v", err)
	}
	return rows
}

func (s *postgresSchema) shift(t *testing.T, by time.Duration, where string, columns ...string) {
	t.Helper()
	interval := fmt.Sprintf("interval '%d microseconds'", by.Microseconds())
	if slices.Contains(columns, "scheduled_at") { // which the engine compares with this one
		s.exec(t, `UPDATE river_job SET metadata = metadata || jsonb_build_object('age_from',
				to_char(((metadata ->> 'age_from')::timestamptz + `+interval+`) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
			WHERE metadata ->> 'age_from' IS NOT NULL AND `+where)
	}
	for _, column := range columns {
		s.exec(t, "UPDATE river_job SET "+column+" = "+column+" + "+interval+" WHERE "+column+" IS NOT NULL AND "+where)
	}
}

func (s *postgresSchema) client(t *testing.T) riverClient {
	t.Helper()
	client, err := river.NewClient(riverpgxv5.New(s.pool), &river.Config{Schema: s.name})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
