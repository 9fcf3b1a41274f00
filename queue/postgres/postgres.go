// Package postgres is the engine of the queue that keeps notifications in PostgreSQL.
package postgres

import (
	"cmp"
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// database is a PostgreSQL database, which several instances may share.
type database struct {
	work
	upkeep
	inspector
}

// Open connects, and makes the schema and its tables if need be. The schema may be empty, for
// the default. Errors that only a person can fix are db.PermanentErrors.
func Open(ctx context.Context, url, schema string, logger *zap.Logger) (db.DB, error) {
	d, err := open(ctx, url, schema, logger)
	if err != nil {
		return nil, err
	}
	// others must not take over what this instance claims before its first heartbeat
	err = d.work.run(ctx, "telling other instances of this one", plainly, statement{sql: `INSERT INTO {s}instance (id) VALUES ($1::text)`, args: []any{d.Instance()}})
	if err != nil {
		d.work.pool.Close()
		return nil, openError(err)
	}
	return d, nil
}

// Join opens the database to move notifications into it, while others may use it.
func Join(ctx context.Context, url, schema string, logger *zap.Logger) (db.Joined, error) {
	d, err := open(ctx, url, schema, logger)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// reach connects to the database, and changes nothing.
func reach(ctx context.Context, url string) error {
	config, name, err := parseURL(url)
	if err != nil {
		return &db.PermanentError{Err: err}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return openError(withoutUser(err, name))
	}
	return conn.Close(ctx)
}

func open(ctx context.Context, url, schema string, logger *zap.Logger) (*database, error) {
	schema = cmp.Or(schema, defaultSchema)
	config, name, err := parseURL(url)
	if err == nil {
		err = checkSchema(schema)
	}
	if err != nil {
		return nil, &db.PermanentError{Err: err}
	}
	c, err := newClient(ctx, config, name, schema, logger)
	if err != nil {
		return nil, openError(err)
	}
	if err := connect(ctx, c, schema); err != nil {
		c.pool.Close()
		return nil, openError(withoutUser(err, name))
	}
	return &database{work{c}, upkeep{c}, inspector{c}}, nil
}

// connect prepares the database, and finds out whether it serves as many connections as are
// needed.
func connect(ctx context.Context, c *client, schema string) error {
	var first *pgxpool.Conn
	for n := range minConnections {
		conn, err := c.pool.Acquire(ctx)
		if err == nil {
			defer conn.Release()
		}
		if n == 0 {
			if err == nil {
				first = conn
				err = prepare(ctx, conn.Conn(), c, schema)
			}
			if err != nil && !isFull(err) {
				return err
			}
		}
		if err == nil {
			continue
		}
		few := fmt.Errorf("the server, its role or a pooler serves too few connections at once: the queue needs %d, and uses up to %d: %w", minConnections, c.pool.Config().MaxConns, err)
		ctx, cancel := context.WithTimeout(ctx, pingTimeout)
		defer cancel()
		if isFull(err) || first.Ping(ctx) != nil {
			return few
		}
		return &db.PermanentError{Err: few} // the first one works, so it is a pooler, and not the server
	}
	return nil
}

// Interface guards
var (
	_ db.DB        = (*database)(nil)
	_ db.Inspector = (*database)(nil)
	_ db.Eraser    = (*database)(nil)
	_ db.Joined    = (*database)(nil)
)
