package postgres

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// maxRows is how many rows a statement changes at most, so that no lock is held for long.
const maxRows = 1000

// batches yields rows in the order of their ids, maxRows at once. Whoever locks rows in this
// order never waits for one that waits for it.
func batches[T any](rows []T, id func(T) int64) iter.Seq[[]T] {
	compare := func(a, b T) int { return cmp.Compare(id(a), id(b)) }
	return slices.Chunk(slices.SortedFunc(slices.Values(rows), compare), maxRows)
}

// column returns a value of each row, for a parameter that is an array.
func column[T, V any](rows []T, of func(T) V) []V {
	values := make([]V, len(rows))
	for i, row := range rows {
		values[i] = of(row)
	}
	return values
}

// each returns a function that reads all rows, each into the targets that it has for them.
func each[T any](found *[]T, targets func(*T) []any) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		*found = nil
		for rows.Next() {
			var row T
			if err := rows.Scan(targets(&row)...); err != nil {
				return err
			}
			*found = append(*found, row)
		}
		return nil
	}
}

func eachID(ids *[]int64) func(pgx.Rows) error {
	return each(ids, func(id *int64) []any { return []any{id} })
}

// These types are what a column is scanned into that may be NULL, or is encoded.
type (
	encoded string        // see db.EncodeText
	request db.Request    // see db.DecodeRequest
	moment  time.Time     // in UTC
	seconds time.Duration // as precisely as seconds are stored
)

// ScanText implements pgtype.TextScanner.
func (e *encoded) ScanText(v pgtype.Text) error {
	*e = encoded(db.DecodeText(v.String))
	return nil
}

// ScanText implements pgtype.TextScanner.
func (r *request) ScanText(v pgtype.Text) error {
	if !v.Valid {
		return nil
	}
	decoded, err := db.DecodeRequest(v.String)
	*r = request(decoded)
	return err
}

// ScanTimestamptz implements pgtype.TimestamptzScanner.
func (m *moment) ScanTimestamptz(v pgtype.Timestamptz) error {
	*m = moment(v.Time.UTC())
	return nil
}

// ScanFloat64 implements pgtype.Float64Scanner.
func (s *seconds) ScanFloat64(v pgtype.Float8) error {
	*s = seconds(time.Duration(v.Float64 * float64(time.Second)).Round(time.Microsecond))
	return nil
}
