package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
	"riverqueue.com/riverui"
)

// database is what an engine of River runs on.
type database interface {
	// newClient makes the client that delivers.
	newClient(config *river.Config) (client, error)

	// insert stores what is collected, all or none, and reports which of it was there
	// already. It collects once it need wait for nobody any more, and returns when
	// nothing of it can be lost.
	insert(ctx context.Context, collect func() []*riverdriver.JobInsertFastParams) ([]*riverdriver.JobInsertFastResult, error)

	// executor runs River's statements, beside those of the client.
	executor() riverdriver.Executor
	schema() string

	// recover makes those deliveries ready again whose instance is gone.
	recover(ctx context.Context) (recovered int64, err error)

	// count counts jobs by River queue and state.
	count(ctx context.Context) ([]jobCount, error)
	// oldest returns, by River queue, since when its oldest unfinished job is there.
	oldest(ctx context.Context) (map[string]time.Time, error)

	// keepUp does what has to be done now and then, until the context ends.
	keepUp(ctx context.Context)

	newUI(prefix string, logger *slog.Logger) (*riverui.Handler, error)
	close() error
}

// client is a river.Client, of whatever transactions.
type client interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	StopAndCancel(ctx context.Context) error
	Queues() *river.QueueBundle
}

type jobCount struct {
	queue string
	state rivertype.JobState
	n     int64
}

var errNewer = errors.New("the database was made by a newer version of this program: update it, or give it another database")

// migrate brings the tables to the state that this version of River wants. A database
// that is ahead of it is refused, and left as it is.
func migrate[TTx any](ctx context.Context, driver riverdriver.Driver[TTx], schema string) error {
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: newRiverLogger(), Schema: schema})
	if err != nil {
		return err
	}
	newest := 0
	for _, version := range migrator.AllVersions() {
		newest = max(newest, version.Version)
	}
	applied, err := appliedVersion(ctx, driver.GetExecutor(), schema)
	if err != nil {
		return fmt.Errorf("reading the version of the tables: %w", err)
	}
	if applied > newest {
		return fmt.Errorf("%w (tables of version %d, known is %d)", errNewer, applied, newest)
	}
	if applied == newest {
		return nil
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("creating or updating the tables: %w", err)
	}
	return nil
}

// appliedVersion returns the version of the tables, 0 if there are none.
func appliedVersion(ctx context.Context, exec riverdriver.Executor, schema string) (int, error) {
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
	applied := 0
	for _, migration := range migrations {
		applied = max(applied, migration.Version)
	}
	return applied, nil
}

// insertJobs inserts in one transaction, and tells those who deliver.
func insertJobs(ctx context.Context, exec riverdriver.Executor, schema string, collect func() []*riverdriver.JobInsertFastParams) ([]*riverdriver.JobInsertFastResult, error) {
	tx, err := exec.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // there is nothing to undo once it is committed
	jobs := collect()
	results, err := tx.JobInsertFastMany(ctx, &riverdriver.JobInsertFastManyParams{Jobs: jobs, Schema: schema})
	if err != nil {
		return nil, err
	}
	news := &riverdriver.NotifyManyParams{Schema: schema, Topic: "river_insert"} // as River's own client does
	for _, job := range jobs {
		if payload := fmt.Sprintf(`{"queue": %q}`, job.Queue); !slices.Contains(news.Payload, payload) {
			news.Payload = append(news.Payload, payload)
		}
	}
	if err := tx.NotifyMany(ctx, news); err != nil {
		return nil, err
	}
	return results, tx.Commit(ctx)
}

func newUI[TTx any](client *river.Client[TTx], prefix string, logger *slog.Logger) (*riverui.Handler, error) {
	return riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(client, nil),
		Logger:    logger,
		Prefix:    prefix,
	})
}
