package jobdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivermigrate"
)

var errNewer = errors.New("the database was made by a newer version of this program: update it, or give it another database")

// riverMigrated reports whether River's tables are of the version that this program
// wants. A database that is ahead of it is refused with a PermanentError.
//
// rivermigrate's own list of versions fails on any that it does not know, so the version
// is read with the driver's.
func riverMigrated[TTx any](ctx context.Context, driver riverdriver.Driver[TTx], schema string) (bool, error) {
	migrator, err := newRiverMigrator(driver, schema)
	if err != nil {
		return false, err
	}
	newest := 0
	for _, version := range migrator.AllVersions() {
		newest = max(newest, version.Version)
	}
	applied, err := riverVersion(ctx, driver.GetExecutor(), schema)
	if err != nil {
		return false, fmt.Errorf("reading the version of the tables: %w", err)
	}
	if applied > newest {
		return false, &PermanentError{fmt.Errorf("%w (tables of version %d, known is %d)", errNewer, applied, newest)}
	}
	return applied == newest, nil
}

// migrateRiver brings River's tables to the version that this program wants. It changes
// nothing, and asks for no right to, if they are of that version.
func migrateRiver[TTx any](ctx context.Context, driver riverdriver.Driver[TTx], schema string) error {
	migrated, err := riverMigrated(ctx, driver, schema)
	if err != nil || migrated {
		return err
	}
	migrator, err := newRiverMigrator(driver, schema)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("creating or updating the tables: %w", err)
	}
	return nil
}

func newRiverMigrator[TTx any](driver riverdriver.Driver[TTx], schema string) (*rivermigrate.Migrator[TTx], error) {
	return rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler), Schema: schema})
}

// riverVersion returns the version of River's tables, 0 if there are none.
func riverVersion(ctx context.Context, exec riverdriver.Executor, schema string) (int, error) {
	exists, err := exec.TableExists(ctx, &riverdriver.TableExistsParams{Schema: schema, Table: "river_migration"})
	if err != nil || !exists {
		return 0, err
	}
	hasLines, err := exec.ColumnExists(ctx, &riverdriver.ColumnExistsParams{Column: "line", Schema: schema, Table: "river_migration"})
	if err != nil || !hasLines {
		return 1, err // older than any version of this program
	}
	migrations, err := exec.MigrationGetByLine(ctx, &riverdriver.MigrationGetByLineParams{Line: riverdriver.MigrationLineMain, Schema: schema})
	if err != nil {
		return 0, err
	}
	version := 0
	for _, migration := range migrations {
		version = max(version, migration.Version)
	}
	return version, nil
}
