package jobdb

import (
	"context"
	"errors"
)

// List implements DB.
func (*postgresDB) List(context.Context, Filter, Page) ([]Record, int64, error) {
	return nil, 0, errors.ErrUnsupported
}

// Retry implements DB.
func (*postgresDB) Retry(context.Context, []int64) ([]int64, error) { return nil, errors.ErrUnsupported }

// Delete implements DB.
func (*postgresDB) Delete(context.Context, []int64) ([]int64, error) { return nil, errors.ErrUnsupported }

// Scrub implements DB.
func (*postgresDB) Scrub(context.Context) error { return errors.ErrUnsupported }

// SetPaused implements DB.
func (*postgresDB) SetPaused(context.Context, string, bool) error { return errors.ErrUnsupported }

// Export implements DB.
func (*postgresDB) Export(context.Context, int64, int) ([]ExportedJob, int64, error) {
	return nil, 0, errors.ErrUnsupported
}

// Import implements DB.
func (*postgresDB) Import(context.Context, []ExportedJob) (imported, duplicates int64, err error) {
	return 0, 0, errors.ErrUnsupported
}
