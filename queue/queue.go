// Package queue is an extra of intercom_webhook that stores notifications before they
// are answered, and delivers them with retries. It is built on River, a job queue in
// SQLite or PostgreSQL: a notification is a job, a lane is a queue of River.
package queue

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddyserver/caddy/v2"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

func init() {
	caddy.RegisterModule(new(SQLite))
	caddy.RegisterModule(new(Postgres))
}

// SQLite is a queue in one file, for one Caddy. It needs no set-up.
//
// A notification is answered 200 once it is committed and on the disk: its write-ahead
// log is synchronized before, as with SQLite's `synchronous=FULL`. The file is locked
// for as long as Caddy runs; another process that wants it fails to start.
type SQLite struct {
	Options

	// The file, which is made if it is not there, and its folder, too. Placeholders
	// such as `{env.*}` are expanded. Beside it there are others, whose names begin
	// with its name. Default: `intercom_webhook/queue.db` in Caddy's data directory.
	Path string `json:"path,omitempty"`

	user
}

// Postgres is a queue in PostgreSQL, or a database that speaks its protocol, such as
// YugabyteDB. Any number of Caddys with the same config share the work.
//
// A notification is answered 200 once it is committed, with `synchronous_commit` at
// least `on`.
type Postgres struct {
	Options

	// Where the database is: `postgres://user:password@host:port/database`, or
	// `host=… user=…`. Placeholders such as `{env.*}` and `{file.*}` are expanded.
	// Required.
	URL string `json:"url,omitempty"`

	// The schema of the tables, which is made if it is not there: letters, digits and
	// underscores, 46 at most. Default: the connection's `search_path`.
	Schema string `json:"schema,omitempty"`

	user
}

// CaddyModule returns the Caddy module information.
func (*SQLite) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.intercom_webhook.queues.sqlite",
		New: func() caddy.Module { return new(SQLite) },
	}
}

// CaddyModule returns the Caddy module information.
func (*Postgres) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.intercom_webhook.queues.postgres",
		New: func() caddy.Module { return new(Postgres) },
	}
}

// Provision prepares the queue. The database is opened when the config is started.
func (q *SQLite) Provision(ctx caddy.Context) error {
	at, err := q.location()
	if err != nil {
		return err
	}
	return q.provision(ctx, at, &q.Options)
}

// Provision prepares the queue. The database is opened when the config is started.
func (q *Postgres) Provision(ctx caddy.Context) error {
	at, err := q.location()
	if err != nil {
		return err
	}
	if config, err := pgxpool.ParseConfig(q.URL); err == nil && config.ConnConfig.Password != "" && !strings.Contains(q.URL, "{") {
		ctx.Logger().Warn("the password of PostgreSQL stands in the config itself, where /config/, the autosave and a log at DEBUG show it; better is {env.NAME} or {file./path}")
	}
	return q.provision(ctx, at, &q.Options)
}

func (q *SQLite) location() (location, error) {
	path := q.Path
	if path == "" {
		path = filepath.Join(caddy.AppDataDir(), "intercom_webhook", "queue.db")
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(path, true, true)
	if err != nil {
		return location{}, fmt.Errorf("path: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return location{}, fmt.Errorf("path: %w", err)
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return location{}, fmt.Errorf("path %s is no file", path)
	}
	if target, err := filepath.EvalSymlinks(path); err == nil { // one file must have one lock
		path = target
	}
	return location{
		key:        "sqlite " + path,
		name:       path,
		committers: 2, // so that one group is written while another waits for the disk
		open: func(ctx context.Context) (database, error) {
			return openSQLite(ctx, path)
		},
	}, nil
}

var (
	errNoURL  = errors.New("queue postgres: the URL is missing, as in postgres://user:password@host:5432/database")
	errSchema = errors.New("schema: give letters, digits and underscores, 46 at most, and no digit first")

	schemaPattern = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]{0,45}$`)
)

func (q *Postgres) location() (location, error) {
	url, err := caddy.NewReplacer().ReplaceOrErr(q.URL, true, true)
	if err != nil {
		return location{}, errors.New("url: no value for a placeholder in it: is the variable set, the file there?")
	}
	url = strings.TrimSpace(url)
	if url == "" {
		return location{}, errNoURL
	}
	if q.Schema != "" && !schemaPattern.MatchString(q.Schema) {
		return location{}, errSchema
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return location{}, fmt.Errorf("url: %w", err) // pgx takes the password out of it
	}
	name := fmt.Sprintf("PostgreSQL at %s:%d, database %s", config.ConnConfig.Host, config.ConnConfig.Port, config.ConnConfig.Database)
	return location{
		key:        "postgres " + q.Schema + " " + url,
		name:       name,
		committers: 2, // so that one group travels while another is committed
		open: func(ctx context.Context) (database, error) {
			return openPostgres(ctx, url, q.Schema)
		},
	}, nil
}

// user is what a queue's engines have in common.
type user struct {
	endpoint *endpoint
	app      *app
}

func (u *user) provision(ctx caddy.Context, at location, options *Options) (err error) {
	options.setDefaults()
	if err := options.check(); err != nil {
		return err
	}
	u.endpoint = newEndpoint(ctx, at, options)
	u.app, err = appOf(ctx)
	return err
}

// Attach implements intercomwebhook.Queue.
func (u *user) Attach(target intercomwebhook.Endpoint) error {
	u.endpoint.target = target
	u.app.queues = append(u.app.queues, u.endpoint)
	return nil
}

// Store implements intercomwebhook.Queue.
func (u *user) Store(r *http.Request, n intercomwebhook.Notification) (duplicate bool, err error) {
	stored, err := job(r, u.endpoint.options, n)
	if err != nil {
		return false, fmt.Errorf("packing: %w", err)
	}
	ctx := r.Context()
	select {
	case <-u.endpoint.opened:
	case <-ctx.Done():
		return false, fmt.Errorf("waiting for the database: %w", ctx.Err())
	}
	return u.endpoint.engine.store.put(ctx, &deposit{job: stored})
}

// Cleanup lets go of the database.
func (u *user) Cleanup() error { return u.endpoint.release() }

// Interface guards
var (
	_ intercomwebhook.Queue = (*SQLite)(nil)
	_ intercomwebhook.Queue = (*Postgres)(nil)
	_ caddy.Provisioner     = (*SQLite)(nil)
	_ caddy.Provisioner     = (*Postgres)(nil)
	_ caddy.CleanerUpper    = (*SQLite)(nil)
	_ caddy.CleanerUpper    = (*Postgres)(nil)
)
