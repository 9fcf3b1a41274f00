package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// statements keeps the prepared statements of a connection, or of a pool of them.
type statements struct {
	prepare func(ctx context.Context, query string) (*sql.Stmt, error)

	mu       sync.Mutex
	prepared map[string]*sql.Stmt
}

func newStatements(prepare func(ctx context.Context, query string) (*sql.Stmt, error)) *statements {
	return &statements{prepare: prepare, prepared: make(map[string]*sql.Stmt)}
}

func (s *statements) statement(query string) (*sql.Stmt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stmt := s.prepared[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := s.prepare(context.Background(), query) // it outlives the caller
	if err == nil {
		s.prepared[query] = stmt
	}
	return stmt, err
}

// exec runs a statement and returns how many rows it has changed.
func (s *statements) exec(ctx context.Context, query string, args ...any) (changed int64, err error) {
	result, err := s.result(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (s *statements) result(ctx context.Context, query string, args ...any) (sql.Result, error) {
	stmt, err := s.statement(query)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(ctx, args...)
}

// query runs a statement whose rows must be read to the end, or closed.
func (s *statements) query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	stmt, err := s.statement(query)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args...)
}

// queryRow scans the one row that a statement returns. It returns sql.ErrNoRows if there
// is none.
func (s *statements) queryRow(ctx context.Context, query string, args []any, into ...any) error {
	stmt, err := s.statement(query)
	if err != nil {
		return err
	}
	return stmt.QueryRowContext(ctx, args...).Scan(into...)
}

func (s *statements) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, stmt := range s.prepared {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(errs...)
}

// collect reads all rows that a statement has returned, and closes them.
func collect[T any](rows *sql.Rows, err error, columns func(row *T) []any) (found []T, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var row T
		if err := rows.Scan(columns(&row)...); err != nil {
			return nil, err
		}
		found = append(found, row)
	}
	return found, rows.Err()
}

// collectIDs is collect for one number a row.
func collectIDs(rows *sql.Rows, err error) ([]int64, error) {
	return collect(rows, err, func(id *int64) []any { return []any{id} })
}

// jsonOf returns a list as a JSON array, which statements read with json_each.
func jsonOf[T any](values []T) string {
	if values == nil {
		return "[]"
	}
	text, err := json.Marshal(values)
	if err != nil {
		panic(err) // they are numbers and texts
	}
	return string(text)
}

// now is the time of the database: there is no other clock.
func now() int64 { return time.Now().UnixMicro() }

// micros returns a time as a column has it: NULL if it is zero.
func micros(at time.Time) any {
	if at.IsZero() {
		return nil
	}
	return at.UnixMicro()
}

// scan reads a column. NULL is the zero value.
type scan func(column any)

// Scan implements sql.Scanner.
func (s scan) Scan(column any) error {
	s(column)
	return nil
}

// text reads a text that may be encoded.
func text(into *string) scan {
	return func(column any) {
		encoded, _ := column.(string)
		*into = db.DecodeText(encoded)
	}
}

// number reads a whole number.
func number(into *int) scan {
	return func(column any) {
		n, _ := column.(int64)
		*into = int(n)
	}
}

// moment reads what micros has written.
func moment(into *time.Time) scan {
	return func(column any) {
		if at, ok := column.(int64); ok {
			*into = time.UnixMicro(at).UTC()
		}
	}
}

// duration reads seconds, with the microseconds that they were stored with.
func duration(into *time.Duration) scan {
	return func(column any) {
		seconds, _ := column.(float64)
		*into = time.Duration(math.Round(seconds*1e6)) * time.Microsecond
	}
}

// orNull returns NULL for a zero value.
func orNull[T comparable](value T) any {
	var zero T
	if value == zero {
		return nil
	}
	return value
}

// blob returns bytes that are not NULL.
func blob(bytes []byte) []byte {
	if bytes == nil {
		return []byte{}
	}
	return bytes
}
