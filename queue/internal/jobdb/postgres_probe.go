package jobdb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// postgresProbe writes the row of this instance, as a heartbeat does, and commits durably.
const postgresProbe = `
	INSERT INTO {instances} (id, updated_at) SELECT $1::text, now() WHERE (SELECT ` + postgresDurably + `) IS NOT NULL
	ON CONFLICT (id) DO UPDATE SET updated_at = now()`

// Probe implements DB.
func (d *postgresDB) Probe(ctx context.Context) error {
	err := d.use(ctx, d.storing, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, d.sql(postgresProbe), d.instance)
		return err
	})
	if err != nil {
		return fmt.Errorf("trying to store: %w", err)
	}
	return nil
}
