package postgres

import (
	"context"
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
	"golang.org/x/time/rate"

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

	resets   rate.Sometimes
	lastFull atomic.Int64 // when the server refused a connection: Unix time in nanoseconds
}

// slots bound how many connections are used for a purpose: storing never waits for other
// work.
type slots struct {
	free *semaphore.Weighted
	all  int64
	few  int64 // while the server refuses more connections
}

// newClient makes a client that has no connection yet.
func newClient(ctx context.Context, config *pgxpool.Config, name, schema string, logger *zap.Logger) (*client, error) {
	config.AfterConnect = findDirect
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, withoutUser(err, name)
	}
	storing := min(max(int64(config.MaxConns)*2/5, 2), 4)
	working := int64(config.MaxConns) - storing
	return &client{
		name:     name,
		schema:   pgx.Identifier{schema}.Sanitize(),
		instance: db.NewInstance(),
		logger:   logger,
		pool:     pool,
		resets:   rate.Sometimes{Interval: resetPause},
		storing:  &slots{semaphore.NewWeighted(storing), storing, 2},
		working:  &slots{semaphore.NewWeighted(working), working, 1},
	}, nil
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
	durably = `SELECT ` + settings + durable + `, set_config('enable_seqscan', 'off', true)`
	durable = `, set_config('synchronous_commit', CASE
		WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN 'on'
		ELSE current_setting('synchronous_commit') END, true)`

	// byKeys is for statements that look for rows by their keys.
	byKeys = `, set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)`

	// orderly is durably for statements byKeys.
	orderly = `SELECT ` + settings + durable + byKeys

	// lazily returns from the commit before it is on the disk. If the server crashes at that
	// moment, claims and outcomes of the last half second are lost: what was delivered then is
	// delivered again.
	lazily = `SELECT ` + settings + `, set_config('synchronous_commit', 'off', true)` + byKeys
)

// statement is one of a transaction. Scan, which may be nil, reads its rows. It may be called
// again if the transaction is tried again.
type statement struct {
	sql  string
	args []any
	scan func(pgx.Rows) error
	hot  bool // many run in a second, so that the server's time to plan it matters
}

// run runs statements in one transaction, in one message to the server.
func (c *client) run(ctx context.Context, doing, commit string, statements ...statement) error {
	err := c.use(ctx, c.working, func(conn *pgx.Conn) error { return c.send(ctx, conn, commit, statements...) })
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

func (c *client) send(ctx context.Context, conn *pgx.Conn, commit string, statements ...statement) error {
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
		queued := batch.Queue(sql, s.args...)
		if s.scan != nil {
			queued.Query(s.scan)
		}
	}
	return conn.SendBatch(ctx, &batch).Close()
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
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) && (conn.Conn().IsClosed() || hasMoved(err)) {
		// after a change of roles, all open connections lead to a server that is down or read-only
		c.resets.Do(c.pool.Reset)
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

// What an index has of a text, which must not be longer than a third of a page, and of an
// endpoint and a notification id.
var (
	indexedPattern = regexp.MustCompile(`\{indexed (\S+)\}`)
	keyPattern     = regexp.MustCompile(`\{key (\S+) (\S+)\}`)
)

// sql puts the schema's name and what indexes have into a statement.
func (c *client) sql(text string) string {
	text = indexedPattern.ReplaceAllString(text, "(CASE WHEN octet_length($1) <= 200 THEN $1 ELSE md5($1) END)")
	text = keyPattern.ReplaceAllString(text, "(md5($1 || ' ' || $2)::uuid)")
	return strings.NewReplacer("{s}", c.schema+".", "{object id}", "substr(object, strpos(object, ':') + 1)").Replace(text)
}
