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
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

func init() {
	caddy.RegisterModule(new(SQLite))
	caddy.RegisterModule(new(Postgres))
}

// SQLite is a queue in one file, for one Caddy. It needs no set-up.
//
// A notification is answered 200 once it is committed and on the disk: the write-ahead log
// is synchronized before, as with SQLite's `synchronous=FULL`. Caddy locks the file as long
// as it runs; another process that uses the same file fails to start.
type SQLite struct {
	Options

	// The file. If it or its folder does not exist, it is made. Placeholders such as
	// `{env.*}` are expanded. SQLite makes further files beside it, whose names begin
	// with its name. Default: `intercom_webhook/queue.db` in Caddy's data directory.
	Path string `json:"path,omitempty"`

	queueBase
}

// Postgres is a queue in PostgreSQL, or a database that speaks its protocol, such as
// YugabyteDB. Any number of Caddys with the same config share the work.
//
// A notification is answered 200 once it is committed, with `synchronous_commit` at
// least `on`.
type Postgres struct {
	Options

	// Where the database is: `postgres://user:password@host:port/database`. Several hosts
	// may be named, as in `postgres://host-1:5432,host-2:5432/database`: then the one that
	// accepts writes is used. Placeholders such as `{env.*}` and `{file.*}` are expanded.
	// Required.
	URL string `json:"url,omitempty"`

	// The schema of the tables: letters, digits and underscores, no digit first, 46 at
	// most. If it does not exist, it is made. Default: the connection's `search_path`.
	Schema string `json:"schema,omitempty"`

	queueBase
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
	if config, err := parsePostgresURL(q.URL); err == nil && config.ConnConfig.Password != "" && !strings.Contains(q.URL, "{") {
		ctx.Logger().Warn("the PostgreSQL password is in the config itself: /config/, the autosave file and a log at DEBUG show it; use {env.NAME} or {file./path} instead")
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
		return location{}, fmt.Errorf("path %s is not a regular file", path)
	}
	path = resolveLinks(path) // so that two paths of one file have the same key
	return location{
		key:      "sqlite " + path,
		name:     path,
		file:     path,
		stillHas: "The file, its log and its free pages no longer have them. Backups and copies of the file that were made before still have them (docs/operations.md, Backups of the file).",
		open: func(ctx context.Context) (jobdb.DB, error) {
			return jobdb.OpenSQLite(ctx, path, caddy.Log().Named(loggerName))
		},
	}, nil
}

// resolveLinks resolves the symbolic links in a path. The last parts of the path need not
// exist.
func resolveLinks(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	folder := filepath.Dir(path)
	if folder == path {
		return path
	}
	return filepath.Join(resolveLinks(folder), filepath.Base(path))
}

var (
	errNoURL  = errors.New("queue postgres: the URL is missing, as in postgres://user:password@host:5432/database")
	errSchema = errors.New("schema: use letters, digits and underscores, 46 at most, and no digit first")

	schemaPattern = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]{0,45}$`)
)

func (q *Postgres) location() (location, error) {
	url, err := caddy.NewReplacer().ReplaceOrErr(q.URL, true, true)
	if err != nil {
		return location{}, errors.New("url: no value for a placeholder: is the variable set, and does the file exist?")
	}
	url = strings.TrimSpace(url)
	if url == "" {
		return location{}, errNoURL
	}
	if q.Schema != "" && !schemaPattern.MatchString(q.Schema) {
		return location{}, errSchema
	}
	config, err := parsePostgresURL(url)
	if err != nil {
		return location{}, err
	}
	name := fmt.Sprintf("PostgreSQL at %s:%d, database %s", config.ConnConfig.Host, config.ConnConfig.Port, config.ConnConfig.Database)
	return location{
		key:      "postgres " + q.Schema + " " + url,
		name:     name,
		stillHas: "PostgreSQL still has them in the files of the table until VACUUM has run and the space is used again; `VACUUM FULL river_job` removes them at once. Its write-ahead log and archives of it, replicas, and backups that were made before have them until they are overwritten or deleted.",
		open: func(ctx context.Context) (jobdb.DB, error) {
			return jobdb.OpenPostgres(ctx, url, q.Schema, caddy.Log().Named(loggerName))
		},
	}, nil
}

var errURL = errors.New("url must begin with postgres:// or postgresql://, as in postgres://user:password@host:5432/database")

// parsePostgresURL returns an error without the password if the URL is malformed. pgx
// takes other texts than URLs as well, and completes them from the environment: one with a
// mistake could lead to another database.
func parsePostgresURL(url string) (*pgxpool.Config, error) {
	if !strings.HasPrefix(url, "postgres://") && !strings.HasPrefix(url, "postgresql://") {
		return nil, errURL
	}
	return pgxpool.ParseConfig(url)
}

// queueBase is what the queues of all engines have in common.
type queueBase struct {
	attachment *attachment
	app        *app
}

func (b *queueBase) provision(ctx caddy.Context, at location, options *Options) (err error) {
	options.setDefaults()
	if err := options.check(); err != nil {
		return err
	}
	if b.attachment, err = newAttachment(ctx, at, options); err != nil {
		return err
	}
	b.app, err = appOf(ctx)
	return err
}

// LaneLabel implements intercomwebhook.Queue.
func (b *queueBase) LaneLabel(lane string) string {
	return riverQueue(b.attachment.options.Name, lane)
}

// Attach implements intercomwebhook.Queue.
func (b *queueBase) Attach(target intercomwebhook.Endpoint) error {
	b.attachment.target = target
	b.app.queues = append(b.app.queues, b.attachment)
	return nil
}

// Store implements intercomwebhook.Queue.
func (b *queueBase) Store(r *http.Request, n intercomwebhook.Notification) (duplicate bool, err error) {
	ctx := r.Context()
	select {
	case <-b.attachment.acquired:
	case <-ctx.Done():
		return false, fmt.Errorf("waiting for the database: %w", ctx.Err())
	}
	d := b.attachment.dispatcher
	if err := d.ready(); err != nil {
		return false, err
	}
	release, err := d.store.reserve(ctx, len(n.Body), 1+len(n.Copies))
	if err != nil {
		return false, err
	}
	defer release()
	d.tracing.arrived(ctx)
	return d.store.insert(ctx, newPendingInsert(newNotification(r, b.attachment.options.Name, n), n, b.attachment))
}

// Cleanup closes the database if no other config or handler uses it.
func (b *queueBase) Cleanup() error { return b.attachment.release() }

// Interface guards
var (
	_ intercomwebhook.Queue = (*SQLite)(nil)
	_ intercomwebhook.Queue = (*Postgres)(nil)
	_ caddy.Provisioner     = (*SQLite)(nil)
	_ caddy.Provisioner     = (*Postgres)(nil)
	_ caddy.CleanerUpper    = (*SQLite)(nil)
	_ caddy.CleanerUpper    = (*Postgres)(nil)
)
