package jobdb

import (
	"context"
	"fmt"
)

// probeSize is how many bytes a probe writes: as many as a large notification. If it wrote
// less, it could find room on a full disk where a notification finds none.
const probeSize = 16 << 10

// Probe implements DB. It overwrites the same row each time.
func (d *sqliteDB) Probe(ctx context.Context) error {
	if err := d.log.usable(); err != nil {
		return err
	}
	err := d.transaction(ctx, storing, func() error {
		before, err := d.totalChanges()
		if err != nil {
			return err
		}
		defer func() {
			if after, err := d.totalChanges(); err == nil {
				d.probed += after - before
			}
		}()
		if err := d.write.exec("CREATE TABLE IF NOT EXISTS intercom_webhook_probe (id INTEGER PRIMARY KEY, data BLOB NOT NULL)"); err != nil {
			return err
		}
		return d.write.exec(`INSERT INTO intercom_webhook_probe (id, data) VALUES (1, randomblob(?))
			ON CONFLICT (id) DO UPDATE SET data = excluded.data`, probeSize)
	})
	if err != nil {
		return fmt.Errorf("trying to store: %w", err)
	}
	return d.log.sync()
}

// totalChanges returns how many rows this process has changed. The caller must hold the
// write lock.
func (d *sqliteDB) totalChanges() (total uint64, err error) {
	err = d.write.queryRow(`SELECT total_changes()`, nil, &total)
	return total, err
}
