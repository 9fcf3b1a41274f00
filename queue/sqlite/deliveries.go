package sqlite

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// deliveries is what a worker needs of the database.
type deliveries struct{ *tables }

// begin releases what a process left behind, and forgets it.
func (d deliveries) begin(ctx context.Context) error {
	if _, err := d.TakeOver(ctx); err != nil {
		return err
	}
	if _, err := d.Heartbeat(ctx, db.Presence{}); err != nil {
		return err
	}
	_, err := d.write.exec(ctx, `DELETE FROM instance WHERE name <> ?`, d.instance)
	return err
}

// end tells that this process is gone. It is not important if that fails.
func (d deliveries) end() {
	_, _ = d.write.exec(context.Background(), `DELETE FROM instance WHERE name = ?`, d.instance)
}

// Store implements db.DB.
func (d deliveries) Store(ctx context.Context, collect func() []*db.NewNotification) (results []db.Stored, err error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	err = d.write.transaction(ctx, storing, func() error {
		notifications := collect()
		results = make([]db.Stored, len(notifications))
		for i, n := range notifications {
			var err error
			if results[i], err = store(d.write.run, n, d.instance); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := d.sync(); err != nil {
		return nil, err
	}
	return results, nil
}

// Claim implements db.DB.
func (d deliveries) Claim(ctx context.Context, claim db.Claim) (claimed []db.Claimed, more bool, err error) {
	if claim.Ordered {
		if more, err = giveTurns(ctx, d.write, claim.Lane); err != nil {
			return nil, false, err
		}
	}
	ids, moreIDs, err := choose(ctx, d.read, claim)
	more = more || moreIDs
	if err != nil || len(ids) == 0 {
		return nil, more, err
	}
	for batch := range slices.Chunk(ids, maxRows) {
		err := d.write.transaction(ctx, delivering, func() error {
			these, err := claimThese(d.write.run, batch, claim.Token, d.instance)
			claimed = append(claimed, these...)
			return err
		})
		if err != nil {
			// what was committed before is found by Held, as after a lost reply
			return nil, false, err
		}
	}
	wanted := make([]int64, len(claimed))
	for i, c := range claimed {
		wanted[i] = db.NotificationOf(c.ID)
	}
	notifications, err := readNotifications(ctx, d.read, wanted)
	if err != nil {
		return nil, false, err
	}
	for i := range claimed {
		claimed[i].Notification = notifications[wanted[i]]
	}
	claimed = slices.DeleteFunc(claimed, func(c db.Claimed) bool { return c.Notification == nil }) // erased meanwhile
	order := make(map[int64]int, len(ids))
	for i, id := range ids {
		order[id] = i
	}
	slices.SortFunc(claimed, func(a, b db.Claimed) int { return order[a.ID] - order[b.ID] })
	return claimed, more, nil
}

// Finish implements db.DB.
func (d deliveries) Finish(ctx context.Context, outcomes []db.Outcome) (applied []int64, err error) {
	seen := make(map[db.Held]bool, len(outcomes))
	outcomes = slices.DeleteFunc(slices.Clone(outcomes), func(o db.Outcome) bool {
		claim := db.Held{ID: o.ID, Token: o.Token}
		twice := seen[claim]
		seen[claim] = true
		return twice
	})
	for batch := range slices.Chunk(outcomes, maxRows) {
		err := d.write.transaction(ctx, delivering, func() error {
			ended, err := finishAll(d.write.run, batch, d.instance)
			if err == nil {
				applied = append(applied, ended...)
			}
			return err
		})
		if err != nil {
			return applied, err
		}
	}
	return applied, nil
}

// Held implements db.DB.
func (d deliveries) Held(ctx context.Context) ([]db.Held, error) {
	rows, err := d.read.query(ctx, `SELECT id, claim FROM delivery INDEXED BY delivery_delivering WHERE state = 'delivering' AND instance = ?`, d.instance)
	return collect(rows, err, func(h *db.Held) []any { return []any{&h.ID, &h.Token} })
}

// Heartbeat implements db.DB. Nobody else has the file. It fails if nothing could be stored.
func (d deliveries) Heartbeat(ctx context.Context, self db.Presence) (db.Peers, error) {
	configs, err := json.Marshal(self.Configs)
	if err != nil {
		return db.Peers{}, err
	}
	_, err = d.write.exec(ctx, `INSERT OR REPLACE INTO instance (name, version, lanes, configs, heartbeat_at) VALUES (?, ?, ?, ?, ?)`,
		d.instance, self.Version, jsonOf(self.Lanes), string(configs), now())
	if err != nil {
		return db.Peers{}, err
	}
	if err := d.usable(); err != nil {
		return db.Peers{}, err
	}
	return db.Peers{Exclusive: true, Now: time.Now()}, d.sync()
}

// TakeOver implements db.DB. Nobody else has the file, so what is delivering and not of this
// process was left by one that has ended.
func (d deliveries) TakeOver(ctx context.Context) (total int64, err error) {
	for n := int64(maxRows); n == maxRows; total += n {
		if n, err = d.write.exec(ctx, releaseOthers, d.instance, now(), maxRows); err != nil {
			return total, err
		}
	}
	return total, nil
}

// Backlog implements db.DB. It reads indexes alone, but for what is being delivered.
func (d deliveries) Backlog(ctx context.Context) (counts []db.LaneCount, held []db.HeldBack, err error) {
	rows, err := d.read.query(ctx, `SELECT substr(endpoint, 1, 100), substr(lane, 1, 100), state, count, max(?1 - oldest, 0) FROM (
		SELECT endpoint, lane, 'waiting' AS state, count(*) AS count, min(stored_at) AS oldest
			FROM delivery INDEXED BY delivery_waiting WHERE state = 'waiting' GROUP BY endpoint, lane
		UNION ALL SELECT endpoint, lane, 'retrying', count(*), min(stored_at)
			FROM delivery INDEXED BY delivery_retrying WHERE state = 'retrying' GROUP BY endpoint, lane
		UNION ALL SELECT endpoint, lane, 'delivering', count(*), min(stored_at)
			FROM delivery INDEXED BY delivery_delivering WHERE state = 'delivering' GROUP BY endpoint, lane
		UNION ALL SELECT endpoint, lane, 'dead', count(*), min(stored_at)
			FROM delivery INDEXED BY delivery_dead WHERE state = 'dead' GROUP BY endpoint, lane)`, now())
	counts, err = collect(rows, err, func(c *db.LaneCount) []any {
		return []any{&c.Lane.Endpoint, &c.Lane.Name, &c.State, &c.Count, &c.Oldest}
	})
	for i := range counts {
		counts[i].Oldest *= time.Microsecond //nolint:durationcheck // SQLite gave microseconds
	}
	if err == nil {
		held, err = readHeldBack(ctx, d.read)
	}
	return counts, held, err
}

// Expire implements db.DB. No index has delivered rows, so it goes along the ids, which are
// given in the order of time, until it meets only rows that are too young.
func (d deliveries) Expire(ctx context.Context, expiry db.Expiry) (deleted int64, cursor int64, err error) {
	delivered, dead := now()-expiry.KeepDelivered.Microseconds(), now()-expiry.KeepDead.Microseconds()
	over, cursor, err := old(ctx, d.read, expiry, delivered, dead)
	if err != nil {
		return 0, 0, err
	}
	for batch := range slices.Chunk(over, deleteRows) {
		err := d.write.transaction(ctx, delivering, func() error {
			ids, err := deleteWhere(d.write.run, ` AND (`+isOver+`)`, jsonOf(batch), delivered, dead)
			deleted += int64(len(ids))
			return err
		})
		if err != nil {
			return deleted, 0, err
		}
	}
	for gone := int64(maxRows); expiry.Cursor == 0 && err == nil && gone == maxRows; {
		gone, err = d.write.exec(ctx, `DELETE FROM once WHERE key IN (SELECT key FROM once WHERE until < ? ORDER BY until LIMIT ?)`, now(), maxRows)
	}
	return deleted, cursor, err
}

// Paused implements db.DB.
func (d deliveries) Paused(ctx context.Context) ([]db.Lane, error) {
	rows, err := d.read.query(ctx, `SELECT endpoint, name FROM lane WHERE paused_at IS NOT NULL`)
	return collect(rows, err, func(l *db.Lane) []any { return []any{&l.Endpoint, &l.Name} })
}

// SetPaused implements db.DB.
func (d deliveries) SetPaused(ctx context.Context, lane db.Lane, paused bool) error {
	statement, args := `DELETE FROM lane WHERE endpoint = ? AND name = ?`, []any{lane.Endpoint, lane.Name}
	if paused {
		statement = `INSERT INTO lane (endpoint, name, paused_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`
		args = append(args, now())
	}
	if _, err := d.write.exec(ctx, statement, args...); err != nil {
		return err
	}
	return d.sync()
}
