package queue

import (
	"context"
	"database/sql/driver"
	"errors"

	"modernc.org/sqlite"
)

// connector opens connections that keep their prepared statements, because River
// would have the same few statements compiled at each call. All that a connection
// does is done in its turn, if it has a turnstile.
type connector struct {
	dsn       string
	turnstile *turnstile // nil for one that writes little and waits for SQLite's own lock
	side      side
}

// Driver implements driver.Connector.
func (*connector) Driver() driver.Driver { return new(sqlite.Driver) }

// baseConn is what connections of modernc.org/sqlite can do.
type baseConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// Connect implements driver.Connector.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := c.enter(ctx); err != nil { // opening sets pragmas, one of which writes
		return nil, err
	}
	defer c.leave()
	opened, err := new(sqlite.Driver).Open(c.dsn)
	if err != nil {
		return nil, err
	}
	base, ok := opened.(baseConn)
	if !ok {
		return nil, errors.Join(errors.New("modernc.org/sqlite: connection lacks a method"), opened.Close())
	}
	return &conn{baseConn: base, connector: c, kept: make(map[string]*keptStmt)}, nil
}

func (c *connector) enter(ctx context.Context) error {
	if c.turnstile == nil {
		return nil
	}
	return c.turnstile.enter(ctx, c.side)
}

func (c *connector) leave() {
	if c.turnstile != nil {
		c.turnstile.leave()
	}
}

// conn is a connection. database/sql uses it from one goroutine at a time.
type conn struct {
	baseConn
	connector *connector
	kept      map[string]*keptStmt
	inTx      bool
}

// preparedStmt is what statements of modernc.org/sqlite can do.
type preparedStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type keptStmt struct {
	preparedStmt
	busy bool // its rows are being read
}

// maxKeptStmts bounds what a connection keeps: some statements have lists of values
// in them.
const maxKeptStmts = 128

// prepared returns a statement, and what to call when it is done with.
func (c *conn) prepared(ctx context.Context, query string) (preparedStmt, func() error, error) {
	kept := c.kept[query]
	if kept == nil || kept.busy {
		stmt, err := c.PrepareContext(ctx, query)
		if err != nil {
			return nil, nil, err
		}
		prepared := stmt.(preparedStmt)
		if kept != nil || len(c.kept) >= maxKeptStmts {
			return prepared, stmt.Close, nil
		}
		kept = &keptStmt{preparedStmt: prepared}
		c.kept[query] = kept
	}
	kept.busy = true
	return kept.preparedStmt, func() error { kept.busy = false; return nil }, nil
}

// turn waits for the connection's turn to do one thing outside of a transaction. The
// function that it returns ends the turn.
func (c *conn) turn(ctx context.Context) (leave func(), err error) {
	if c.inTx {
		return func() {}, nil
	}
	return c.connector.leave, c.connector.enter(ctx)
}

// patient takes the end off a context where statements are short and have their turn:
// to watch it costs a goroutine for each.
func (c *conn) patient(ctx context.Context) context.Context {
	if c.connector.turnstile == nil {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

// ExecContext implements driver.ExecerContext.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	leave, err := c.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	stmt, done, err := c.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	result, err := stmt.ExecContext(c.patient(ctx), args)
	return result, errors.Join(err, done())
}

// QueryContext implements driver.QueryerContext.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	leave, err := c.turn(ctx)
	if err != nil {
		return nil, err
	}
	stmt, done, err := c.prepared(ctx, query)
	if err != nil {
		leave()
		return nil, err
	}
	found, err := stmt.QueryContext(c.patient(ctx), args)
	if err != nil {
		err = errors.Join(err, done())
		leave()
		return nil, err
	}
	return &rows{Rows: found, done: done, leave: leave}, nil
}

// BeginTx implements driver.ConnBeginTx.
func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := c.connector.enter(ctx); err != nil {
		return nil, err
	}
	begun, err := c.baseConn.BeginTx(ctx, opts)
	if err != nil {
		c.connector.leave()
		return nil, err
	}
	c.inTx = true
	return &tx{begun, c}, nil
}

// Close implements driver.Conn.
func (c *conn) Close() error {
	var errs []error
	for _, kept := range c.kept {
		errs = append(errs, kept.Close())
	}
	errs = append(errs, c.baseConn.Close())
	c.endTx()
	return errors.Join(errs...)
}

func (c *conn) endTx() {
	if c.inTx {
		c.inTx = false
		c.connector.leave()
	}
}

type tx struct {
	driver.Tx
	conn *conn
}

func (t *tx) Commit() error {
	defer t.conn.endTx()
	return t.Tx.Commit()
}

func (t *tx) Rollback() error {
	defer t.conn.endTx()
	return t.Tx.Rollback()
}

type rows struct {
	driver.Rows
	done  func() error
	leave func()
}

func (r *rows) Close() error {
	err := errors.Join(r.Rows.Close(), r.done())
	r.leave()
	r.leave = func() {}
	return err
}

// Interface guards
var (
	_ driver.Connector      = (*connector)(nil)
	_ driver.ExecerContext  = (*conn)(nil)
	_ driver.QueryerContext = (*conn)(nil)
	_ driver.ConnBeginTx    = (*conn)(nil)
)
