package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"slices"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	// listRows is how many rows a call of List looks at, at most. If a filter can select no
	// more, List has their ids from indexes; else it goes along the ids of all deliveries, of
	// which it wants many.
	listRows = 20_000

	// changeRows is how many deliveries a statement changes.
	changeRows = 20
)

// inspector is what people need of the database.
type inspector struct{ *tables }

// List implements db.Inspector.
func (i inspector) List(ctx context.Context, filter db.Filter, page db.Page) (found []db.Delivery, next int64, err error) {
	begin, comparison, before, order := page.From, ">=", "<", "id"
	if page.Newest {
		comparison, before, order = "<=", ">", "id DESC"
		if begin == 0 {
			begin = math.MaxInt64
		}
	}
	where := filterCondition(filter)
	where.and(`id `+comparison+` ?`, begin)
	n := listRows + 1
	indexed := indexedIDs(filter)
	if indexed.text != "" {
		if err := i.read.queryRow(ctx, `SELECT count(*) FROM (`+indexed.text+` LIMIT ?)`, slices.Concat(indexed.args, []any{n}), &n); err != nil {
			return nil, 0, err
		}
	}
	if n <= listRows {
		where.and(`id IN (`+indexed.text+`)`, indexed.args...)
	} else {
		err := i.read.queryRow(ctx, `SELECT id FROM delivery WHERE id `+comparison+` ? ORDER BY `+order+` LIMIT 1 OFFSET ?`, []any{begin, listRows}, &next)
		if err == nil {
			where.and(`id `+before+` ?`, next)
		} else if !errors.Is(err, sql.ErrNoRows) {
			return nil, 0, err
		}
	}
	rows, err := i.read.query(ctx, `SELECT `+deliveryColumns+` FROM delivery AS d WHERE TRUE`+where.text+` ORDER BY `+order+` LIMIT ?`, append(where.args, page.Limit+1)...)
	found, err = collect(rows, err, scanDelivery)
	if err == nil && len(found) > page.Limit {
		found, next = found[:page.Limit], found[page.Limit].ID
	}
	return found, next, err
}

// Find implements db.Inspector.
func (i inspector) Find(ctx context.Context, endpoint, id string, limit int) ([]db.Details, error) {
	ids, err := collectIDs(i.read.query(ctx, `SELECT id FROM notification WHERE id = ?1 AND endpoint = ?2
		UNION SELECT id FROM notification WHERE notification_id = ?3 AND endpoint = ?2 ORDER BY id LIMIT ?4`, db.RowID(id), endpoint, db.EncodeText(id), limit))
	if err != nil {
		return nil, err
	}
	return readDetails(ctx, i.read, ids)
}

// DeadGroups implements db.Inspector. It reads one index alone, in its order, and of each
// group the newest row.
func (i inspector) DeadGroups(ctx context.Context, endpoint string) ([]db.DeadGroup, error) {
	rows, err := i.read.query(ctx, `SELECT topic, lane, reason, count, oldest, newest, (
			SELECT error FROM delivery INDEXED BY delivery_dead WHERE state = 'dead' AND endpoint = ?1
				AND lane = found.lane AND topic = found.topic AND reason = found.reason ORDER BY finished_at DESC, id DESC LIMIT 1)
		FROM (SELECT topic, lane, reason, count(*) AS count, min(finished_at) AS oldest, max(finished_at) AS newest
			FROM delivery INDEXED BY delivery_dead WHERE state = 'dead' AND endpoint = ?1 GROUP BY lane, topic, reason) AS found
		ORDER BY count DESC, topic, lane, reason LIMIT ?2`, endpoint, db.MaxDeadGroups)
	return collect(rows, err, func(g *db.DeadGroup) []any {
		return []any{&g.Topic, &g.Lane, &g.Reason, &g.Count, moment(&g.Oldest), moment(&g.Newest), text(&g.Error)}
	})
}

const retried = `UPDATE delivery SET state = 'waiting', reason = NULL, attempts = 0, age_from = ?2, due_at = ?2, finished_at = NULL, ` + toPlace + `
	WHERE id IN (SELECT value FROM json_each(?1)) AND +state NOT IN ('waiting', 'delivering')`

// Change implements db.Inspector.
func (i inspector) Change(ctx context.Context, change db.Change) (changed []int64, err error) {
	if err := i.usable(); err != nil {
		return nil, err
	}
	selected := i.selected(change.Filter)
	batches := slices.Collect(slices.Chunk(change.IDs, changeRows))
	var pending []int64
	err = i.write.inBatches(ctx, i.sync, len(batches), func(n int) error {
		ids, err := selected(batches[n], change.Action == db.Erase)
		if err == nil {
			ids, err = i.apply(change, ids)
		}
		pending = append(pending, ids...)
		return err
	}, func() {
		changed, pending = append(changed, pending...), nil
	})
	return changed, err
}

// selected returns a function that returns those of some deliveries that a filter selects. It
// needs the write lock.
func (i inspector) selected(filter db.Filter) func(ids []int64, delivering bool) ([]int64, error) {
	where := filterCondition(filter)
	return func(ids []int64, delivering bool) ([]int64, error) {
		return collectIDs(i.write.run.query(context.Background(), `SELECT id FROM delivery AS d
			WHERE id IN (SELECT value FROM json_each(?)) AND (? OR +state <> 'delivering')`+where.text,
			append([]any{jsonOf(ids), delivering}, where.args...)...))
	}
}

// apply changes deliveries that are as they were selected. It needs the write lock.
func (i inspector) apply(change db.Change, ids []int64) (changed []int64, err error) {
	switch change.Action {
	case db.Retry:
		return collectIDs(i.write.run.query(context.Background(), retried+` RETURNING id`, jsonOf(ids), now()))
	case db.Drop, db.Erase:
		return deleteWhere(i.write.run, ``, jsonOf(ids))
	case db.Send:
		for _, id := range ids {
			sent, err := send(i.write.run, id, change.To)
			if err != nil {
				return nil, err
			}
			if sent {
				changed = append(changed, id)
			}
		}
		return changed, nil
	default:
		return nil, errors.New("unknown action " + string(change.Action))
	}
}

// send makes another delivery of a notification, or retries the one in that lane. It needs
// the write lock.
func send(run *statements, id int64, lane string) (sent bool, err error) {
	first := db.DeliveryID(db.NotificationOf(id), 0)
	last := first + db.MaxDeliveries - 1
	var there int64
	var state db.State
	err = run.queryRow(context.Background(), `SELECT id, state FROM delivery WHERE id BETWEEN ? AND ? AND lane = ? ORDER BY id LIMIT 1`, []any{first, last, lane}, &there, &state)
	var n int64
	switch {
	case errors.Is(err, sql.ErrNoRows):
		n, err = run.exec(context.Background(), `INSERT INTO delivery
				(id, notification, endpoint, lane, workspace, topic, fixed, state, attempts, stored_at, age_from, due_at)
			SELECT (SELECT max(id) + 1 FROM delivery WHERE id BETWEEN ?2 AND ?3), notification, endpoint, ?4, workspace, topic, TRUE, 'waiting', 0, ?5, ?5, ?5
			FROM delivery WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM delivery WHERE id = ?3)`, id, first, last, lane, now())
	case err == nil && state == db.Waiting && there != id:
		n = 1 // it will be delivered anyway
	case err == nil:
		n, err = run.exec(context.Background(), retried, jsonOf([]int64{there}), now())
	}
	if err != nil || n == 0 || there == id {
		return n > 0, err
	}
	_, err = run.exec(context.Background(), `UPDATE delivery SET state = 'dead', reason = 'cancelled', error = ?1, finished_at = ?3,
			held = FALSE, place_at = CASE WHEN order_key IS NOT NULL THEN ?3 END
		WHERE id = ?2 AND state <> 'delivered'`, db.EncodeText("sent to "+lane), id, now())
	return true, err
}
