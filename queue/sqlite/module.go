package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/module"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

func init() {
	caddy.RegisterModule(new(Queue))
}

// Queue is a queue in one file, for one Caddy. It needs no set-up.
//
// A notification is answered 200 once it is committed and on the disk: the write-ahead log
// is synchronized before, as with SQLite's `synchronous=FULL`. Caddy locks the file as long
// as it runs; another process that uses the same file fails to start.
type Queue struct {
	module.Options

	// The file. If it or its folder does not exist, it is made. Placeholders such as
	// `{env.*}` are expanded. SQLite makes further files beside it, whose names begin
	// with its name. Default: `intercom_webhook/queue.db` in Caddy's data directory.
	Path string `json:"path,omitempty"`

	module.Base
}

// CaddyModule returns the Caddy module information.
func (*Queue) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.intercom_webhook.queues.sqlite",
		New: func() caddy.Module { return new(Queue) },
	}
}

// UnmarshalCaddyfile sets up the queue from Caddyfile tokens. Syntax:
//
//	queue [sqlite] [{
//		path             <file>
//		name             <endpoint name>
//		workers          <n>
//		delivery_timeout <duration>
//		max_age          <duration>
//		max_attempts     <n>
//		dead_on          <statuses...>
//		lane <name> {
//			workers          <n>
//			delivery_timeout <duration>
//			max_age          <duration>
//			max_attempts     <n>
//			dead_on          <statuses...>
//			rate             <n>/s
//			ordered          [by <field>] [hold <duration>]
//		}
//		keep_delivered   <duration>
//		keep_dead        <duration>
//	}]
func (q *Queue) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the name of the engine
	if d.NextArg() {
		return d.Errf("queue sqlite has no argument %q: name the file with path in its block", d.Val())
	}
	return q.Unmarshal(d, "path", &q.Path, nil)
}

// Provision prepares the queue. The file is opened when the config is started.
func (q *Queue) Provision(ctx caddy.Context) error {
	at, err := q.Database()
	if err != nil {
		return err
	}
	return q.Base.Provision(ctx, at, &q.Options)
}

// CommonOptions implements module.Engine.
func (q *Queue) CommonOptions() *module.Options { return &q.Options }

// Database implements module.Engine.
func (q *Queue) Database() (worker.Database, error) {
	path := q.Path
	if path == "" {
		path = filepath.Join(caddy.AppDataDir(), "intercom_webhook", "queue.db")
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(path, true, true)
	if err != nil {
		return worker.Database{}, fmt.Errorf("path: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return worker.Database{}, fmt.Errorf("path: %w", err)
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return worker.Database{}, fmt.Errorf("path %s is not a regular file", path)
	}
	path = resolveLinks(path) // so that two paths of one file have the same key
	return worker.Database{
		Key:  "sqlite " + path,
		Name: path,
		Open: func(ctx context.Context, logger *zap.Logger) (db.DB, error) { return Open(ctx, path, logger) },
		Join: func(ctx context.Context, logger *zap.Logger) (db.Joined, error) { return Join(ctx, path, logger) },
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

// Interface guards
var (
	_ intercomwebhook.Queue = (*Queue)(nil)
	_ module.Engine         = (*Queue)(nil)
	_ caddy.Provisioner     = (*Queue)(nil)
	_ caddy.CleanerUpper    = (*Queue)(nil)
	_ caddyfile.Unmarshaler = (*Queue)(nil)
)
