package jobdb

import (
	"context"
	"time"
)

// maxHold is how long a transaction goes on to change rows if a person has asked for it.
// Then storing has its turn.
const maxHold = 5 * time.Millisecond

// inBatches calls do with each number below n, in short transactions, and committed after
// each of these, when it is durable. In between it pauses for as long as the transaction
// and the disk took: what storing has to wait for is the disk, more than the write lock.
func (d *sqliteDB) inBatches(ctx context.Context, n int, do func(i int) error, committed func()) error {
	for next := 0; next < n; {
		began := time.Now()
		err := d.transaction(ctx, delivering, func() error {
			for end := time.Now().Add(maxHold); ; {
				if err := do(next); err != nil {
					return err
				}
				if next++; next == n || time.Now().After(end) {
					return nil
				}
			}
		})
		if err != nil {
			return err
		}
		if err := d.log.sync(); err != nil {
			return err
		}
		committed()
		if next < n {
			if err := pause(ctx, time.Since(began)); err != nil {
				return err
			}
		}
	}
	return nil
}

// pause returns after some time, or with an error if the context ends before.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
