package postgres

import (
	"context"
	"crypto/md5" //nolint:gosec // see indexed
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	tries          = 3                     // of a statement that the server aborted for the sake of another
	resetPause     = time.Second           // between two resets of the pool
	pingTimeout    = 2 * time.Second       // for a connection that was idle
	sessionTimeout = 5 * time.Second       // for the first statement on a new connection
	fullPause      = 20 * time.Millisecond // until the next try to get a connection
	fullFor        = time.Minute           // that fewer connections are used after the server refused one
)

// client runs statements. It keeps nothing in a session, so that PgBouncer may give each
// transaction another one.
type client struct {
	name     string // of the database, for errors
	schema   string // quoted
	instance string
	logger   *zap.Logger
	pool     *pgxpool.Pool

	storing, working *slots

	lastReset atomic.Int64 // Unix time in nanoseconds
	lastFull  atomic.Int64 // likewise: when the server refused a connection
}

// slots bound how many connections are used for a purpose: storing never waits for other
// work.
type slots struct {
	free *semaphore.Weighted
	all  int64
	few  int64 // while the server refuses more connections
}

func newSlots(all, few int64) *slots { return &slots{semaphore.NewWeighted(all), all, few} }

// newClient makes a client that has no connection yet.
func newClient(ctx context.Context, config *pgxpool.Config, name, schema, instance string, logger *zap.Logger) (*client, error) {
	config.AfterConnect = findDirect
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, withoutUser(err, name)
	}
	storing := min(max(int64(config.MaxConns)*2/5, 2), 4)
	return &client{
		name:     name,
		schema:   pgx.Identifier{schema}.Sanitize(),
		instance: instance,
		logger:   logger,
		pool:     pool,
		storing:  newSlots(storing, 2),
		working:  newSlots(int64(config.MaxConns)-storing, 1),
	}, nil
}

// statement is one of a transaction. Scan, which may be nil, reads its rows. It may be called
// again if the transaction is tried again.
type statement struct {
	sql  string
	args []any
	scan func(pgx.Rows) error
	hot  bool // many run in a second, so that the server's time to plan it matters
}

// isDirect is a key of the custom data of connections that lead to one session of the server,
// so that it can keep plans. Behind a pooler, each transaction may have another one.
const isDirect = "is direct"

// findDirect is called with each new connection. A pooler gives it another number than the
// server's process has. One that has no session for it may let it wait for minutes.
func findDirect(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	var pid uint32
	if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return err
	}
	if pid == conn.PgConn().PID() {
		conn.PgConn().CustomData()[isDirect] = true
	}
	return nil
}

// The settings of a transaction. Whoever set a time limit for a role or a database did not
// mean statements that change many rows. None of the statements is worth compiling, whatever
// the server thinks that it costs.
const (
	settings = `set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true), set_config('jit', 'off', true)`

	// plainly commits as the server's settings say.
	plainly = `SELECT ` + settings

	// durably returns from the commit when it is on the disk, and on a synchronous standby if
	// there is one, whatever the server's settings are. It is set in the very transaction:
	// behind PgBouncer, the next one may have another session. A plan that the server keeps
	// from when a table was empty must not read all of it later.
	durably = `SELECT ` + settings + `, set_config('synchronous_commit', CASE
		WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN 'on'
		ELSE current_setting('synchronous_commit') END, true), set_config('enable_seqscan', 'off', true)`

	// lazily returns from the commit before it is on the disk. If the server crashes at that
	// moment, claims and outcomes of the last half second are lost: what was delivered then is
	// delivered again.
	//
	// It is for statements that look for rows by their keys.
	lazily = `SELECT ` + settings + `, set_config('synchronous_commit', 'off', true),
		set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)`
)

// run runs statements in one transaction, in one message to the server.
func (c *client) run(ctx context.Context, commit string, statements ...statement) error {
	return c.use(ctx, c.working, func(conn *pgx.Conn) error { return c.send(ctx, conn, commit, statements) })
}

func (c *client) send(ctx context.Context, conn *pgx.Conn, commit string, statements []statement) error {
	var batch pgx.Batch
	batch.Queue(commit)
	for _, s := range statements {
		sql := c.sql(s.sql)
		if s.hot && conn.PgConn().CustomData()[isDirect] != nil {
			for _, text := range []string{commit, sql} {
				if _, err := conn.Prepare(ctx, text, text); err != nil { // once for each connection
					return err
				}
			}
		}
		batch.Queue(sql, s.args...)
	}
	results := conn.SendBatch(ctx, &batch)
	_, err := results.Exec()
	for _, s := range statements {
		if err != nil {
			break
		}
		err = read(results, s.scan)
	}
	return errors.Join(err, results.Close())
}

func read(results pgx.BatchResults, scan func(pgx.Rows) error) error {
	if scan == nil {
		_, err := results.Exec()
		return err
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := scan(rows); err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

// sql puts the schema's name into a statement.
func (c *client) sql(text string) string { return inSchema(text, c.schema) }

// ids runs statements of which the last one returns ids.
func (c *client) ids(ctx context.Context, commit string, statements ...statement) (ids []int64, err error) {
	statements[len(statements)-1].scan = collectIDs(&ids)
	err = c.run(ctx, commit, statements...)
	return ids, err
}

func collectIDs(ids *[]int64) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	}
}

// use lets do have a connection. It calls it again if the server aborted its statements for
// the sake of another transaction, or if they did not reach it.
func (c *client) use(ctx context.Context, slots *slots, do func(*pgx.Conn) error) (err error) {
	weight := int64(1)
	if last := c.lastFull.Load(); last != 0 && time.Since(time.Unix(0, last)) < fullFor {
		weight = max(slots.all/slots.few, 1)
	}
	if err := slots.free.Acquire(ctx, weight); err != nil {
		return fmt.Errorf("waiting for a connection: %w", err)
	}
	defer slots.free.Release(weight)
	for range tries {
		err = c.useOnce(ctx, do)
		if err == nil || ctx.Err() != nil || !isAborted(err) && !pgconn.SafeToRetry(err) {
			break
		}
	}
	return withoutUser(err, c.name)
}

func (c *client) useOnce(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := c.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	err = do(conn.Conn())
	switch {
	case err == nil || errors.Is(ctx.Err(), context.Canceled):
	case conn.Conn().IsClosed() || hasMoved(err):
		c.reset()
	}
	return err
}

// acquire waits for one of its connections while the server refuses to make more.
func (c *client) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	for {
		conn, err := c.pool.Acquire(ctx)
		if err == nil || !isFull(err) {
			return conn, err
		}
		if c.lastFull.Swap(time.Now().UnixNano()) == 0 {
			c.logger.Warn("the server, its role or a pooler allows fewer connections than the queue may use, so that it is slower",
				zap.String("database", c.name), zap.Int32("wanted", c.pool.Config().MaxConns), zap.Int("needed", minConnections), zap.Int32("open", c.pool.Stat().TotalConns()))
		}
		if c.pool.Stat().TotalConns() == 0 {
			return nil, fmt.Errorf("no connection is free for the queue, which needs %d and uses up to %d: %w", minConnections, c.pool.Config().MaxConns, err)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(fullPause):
		}
	}
}

// reset makes all connections anew. After a change of roles, those that are open lead to a
// server that is down or read-only.
func (c *client) reset() {
	now, last := time.Now().UnixNano(), c.lastReset.Load()
	if now >= last && now-last < int64(resetPause) || !c.lastReset.CompareAndSwap(last, now) {
		return
	}
	c.pool.Reset()
}

// inSchema puts the schema's name and what an index has of a text into a statement.
func inSchema(text, schema string) string {
	text = indexedPattern.ReplaceAllString(text, "CASE WHEN octet_length($1) <= 200 THEN $1 ELSE md5($1) END")
	text = keyPattern.ReplaceAllString(text, "(md5($1 || ' ' || $2)::uuid)")
	return strings.ReplaceAll(text, "{s}", schema+".")
}

// indexedPattern is what an index has of a text, which must not be longer than a third of a
// page.
var indexedPattern = regexp.MustCompile(`\{indexed ([a-z_.]+)\}`)

// keyPattern is what the index of notifications has of an endpoint and a notification id.
var keyPattern = regexp.MustCompile(`\{key (\S+) (\S+)\}`)

// indexed returns what an index has of a text.
func indexed(text string) string {
	text = db.EncodeText(text)
	if len(text) > 200 {
		return fmt.Sprintf("%x", md5.Sum([]byte(text))) //nolint:gosec // nobody gains by a collision
	}
	return text
}
