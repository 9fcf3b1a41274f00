//go:build postgres

package module_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/postgres"
)

func init() { databases["postgres"] = schema }

// schema is a database in a new schema, which is dropped when the test ends.
func schema(t *testing.T) worker.Database {
	t.Helper()
	url := cmp.Or(os.Getenv("TEST_POSTGRES_URL"), "postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable")
	name := fmt.Sprintf("module_%d", rand.Uint64())
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), url)
		if err == nil {
			_, err = conn.Exec(context.Background(), "DROP SCHEMA IF EXISTS "+name+" CASCADE")
		}
		if err != nil {
			t.Error(err)
		}
		_ = conn.Close(context.Background())
	})
	return worker.Database{
		Key: name, Name: name,
		Open: func(ctx context.Context, logger *zap.Logger) (db.DB, error) {
			return postgres.Open(ctx, url, name, logger)
		},
	}
}
