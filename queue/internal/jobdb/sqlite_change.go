package jobdb

import (
	"context"
	"errors"
)

// List implements DB.
func (*sqliteDB) List(context.Context, Filter, Page) ([]Record, int64, error) {
	return nil, 0, errors.ErrUnsupported
}

// Retry implements DB.
func (*sqliteDB) Retry(context.Context, []int64) ([]int64, error) { return nil, errors.ErrUnsupported }

// Delete implements DB.
func (*sqliteDB) Delete(context.Context, []int64) ([]int64, error) { return nil, errors.ErrUnsupported }

// Scrub implements DB.
func (*sqliteDB) Scrub(context.Context) error { return errors.ErrUnsupported }

// SetPaused implements DB.
func (*sqliteDB) SetPaused(context.Context, string, bool) error { return errors.ErrUnsupported }

// Export implements DB.
func (*sqliteDB) Export(context.Context, int64, int) ([]ExportedJob, int64, error) {
	return nil, 0, errors.ErrUnsupported
}

// Import implements DB.
func (*sqliteDB) Import(context.Context, []ExportedJob) (imported, duplicates int64, err error) {
	return 0, 0, errors.ErrUnsupported
}
