package postgres

import (
	"cmp"
	"context"
	"errors"
	"strings"

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

// Queue is a queue in PostgreSQL, or a database that speaks its protocol, such as
// YugabyteDB. Any number of Caddys with the same config share the work.
//
// A notification is answered 200 once it is committed, with `synchronous_commit` at
// least `on`.
type Queue struct {
	module.Options

	// Where the database is: `postgres://user:password@host:port/database`. Several hosts
	// may be named, as in `postgres://host-1:5432,host-2:5432/database`: then the one that
	// accepts writes is used. In user, password and database, all characters but letters,
	// digits, `-`, `.`, `_` and `~` are percent-encoded. Placeholders such as `{env.*}` and
	// `{file.*}` are expanded. With `?pool_max_conns=<n>`, 3 or more, so many connections are
	// used at most; default: 8. Required.
	URL string `json:"url,omitempty"`

	// The schema of the tables: letters, digits and underscores, no digit first, 46 at
	// most. If it does not exist, it is made. It must hold nothing else. Default:
	// `intercom_webhook`.
	Schema string `json:"schema,omitempty"`

	module.Base
}

// CaddyModule returns the Caddy module information.
func (*Queue) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.intercom_webhook.queues.postgres",
		New: func() caddy.Module { return new(Queue) },
	}
}

var errMissingURL = errors.New("queue postgres: the URL is missing, as in postgres://user:password@host:5432/database")

// UnmarshalCaddyfile sets up the queue from Caddyfile tokens. Syntax:
//
//	queue postgres <url> [{
//		schema           <name>
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
	if !d.NextArg() {
		return d.WrapErr(errMissingURL)
	}
	q.URL = d.Val()
	if !strings.Contains(q.URL, "{") { // placeholders are not expanded yet
		if _, _, err := parseURL(q.URL); err != nil {
			return d.WrapErr(err)
		}
	}
	if d.NextArg() {
		return d.Err("queue postgres has one argument, the URL") // which must not be printed
	}
	return q.Unmarshal(d, "schema", &q.Schema, checkSchema)
}

// Provision prepares the queue. The database is opened when the config is started.
func (q *Queue) Provision(ctx caddy.Context) error {
	at, err := q.Database()
	if err != nil {
		return err
	}
	if hasPassword(q.URL) {
		ctx.Logger().Warn("the PostgreSQL password is in the config itself: /config/, the autosave file and a log at DEBUG show it; use {env.NAME} or {file./path} instead")
	}
	if url, _ := q.expandURL(); isExposed(url) {
		ctx.Logger().Warn("the connection to PostgreSQL is neither local nor sure to be encrypted: whoever is on the way can read the password and the notifications; " +
			"add sslmode=verify-full to the URL, and sslrootcert=<file> if the server's certificate is of your own authority")
	}
	return q.Base.Provision(ctx, at, &q.Options)
}

// CommonOptions implements module.Engine.
func (q *Queue) CommonOptions() *module.Options { return &q.Options }

// Database implements module.Engine.
func (q *Queue) Database() (worker.Database, error) {
	url, err := q.expandURL()
	if err != nil {
		return worker.Database{}, err
	}
	schema := cmp.Or(q.Schema, defaultSchema)
	if err := checkSchema(schema); err != nil {
		return worker.Database{}, err
	}
	_, name, err := parseURL(url)
	if err != nil {
		return worker.Database{}, err
	}
	return worker.Database{
		Key:  "postgres " + schema + " " + url,
		Name: name,
		Open: func(ctx context.Context, logger *zap.Logger) (db.DB, error) { return Open(ctx, url, schema, logger) },
		Join: func(ctx context.Context, logger *zap.Logger) (db.Joined, error) {
			return Join(ctx, url, schema, logger)
		},
		Reach: func(ctx context.Context) error { return reach(ctx, url) },
	}, nil
}

// expandURL returns the URL with the values of its placeholders.
func (q *Queue) expandURL() (string, error) {
	url, err := caddy.NewReplacer().ReplaceOrErr(q.URL, true, true)
	if err != nil {
		return "", errors.New("url: no value for a placeholder: is the variable set, and does the file exist?")
	}
	if url = strings.TrimSpace(url); url == "" {
		return "", errMissingURL
	}
	return url, nil
}

func checkSchema(schema string) error {
	if !schemaPattern.MatchString(schema) {
		return errSchema
	}
	return nil
}

// Interface guards
var (
	_ intercomwebhook.Queue = (*Queue)(nil)
	_ module.Engine         = (*Queue)(nil)
	_ caddy.Provisioner     = (*Queue)(nil)
	_ caddy.CleanerUpper    = (*Queue)(nil)
	_ caddyfile.Unmarshaler = (*Queue)(nil)
)
