package postgres

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	listRows   = 20_000 // that List looks at, one after the other
	sparseRows = 20_000 // of which it looks at all, by their indexes
)

const (
	findSQL = `
		SELECT id FROM {s}notification WHERE {key endpoint notification_id} = {key $1::text $2::text} AND notification_id = $2::text AND endpoint = $1::text
		UNION SELECT id FROM {s}notification WHERE id = $3::bigint AND endpoint = $1::text
		ORDER BY id DESC LIMIT $4::bigint`

	// The newest one of a group is found with the largest pair of time and id.
	deadGroupsSQL = `
		SELECT g.topic, g.lane, g.reason, g.count, g.oldest, g.newest, d.error FROM (
			SELECT topic, lane, reason, count(*) AS count, min(finished_at) AS oldest, max(finished_at) AS newest,
				(max(ARRAY[(extract(epoch FROM finished_at) * 1000000)::bigint, id]))[2] AS last
			FROM {s}delivery WHERE state = 'dead' AND endpoint = $1::text GROUP BY topic, lane, reason
		) AS g JOIN {s}delivery AS d ON d.id = g.last
		ORDER BY g.count DESC, g.topic, g.lane, g.reason`
)

// inspector implements db.Inspector.
type inspector struct{ *client }

// List implements db.Inspector.
func (i inspector) List(ctx context.Context, filter db.Filter, page db.Page) (found []db.Delivery, next int64, err error) {
	found, next, err = i.list(ctx, filter, page)
	if err != nil {
		return nil, 0, fmt.Errorf("listing deliveries: %w", err)
	}
	return found, next, nil
}

func (i inspector) list(ctx context.Context, filter db.Filter, page db.Page) (found []db.Delivery, next int64, err error) {
	w := newWalk(filter, page)
	few, err := i.areFew(ctx, filter)
	if err != nil {
		return nil, 0, err
	}
	q := newConditions(filter)
	sql := fmt.Sprintf(selectDeliveries, w.sql(few, q)) + w.order()
	err = i.run(ctx, plainly, statement{sql: sql, args: q.args, scan: collectDeliveries(&found)})
	switch {
	case err != nil:
		return nil, 0, err
	case len(found) == page.Limit && len(found) > 0:
		next = found[len(found)-1].ID + w.step
	case !few:
		bound, err := i.ids(ctx, plainly, statement{sql: w.rows() + ` OFFSET $2::bigint LIMIT 1`, args: []any{w.from, listRows}})
		if err != nil {
			return nil, 0, err
		}
		if len(bound) > 0 {
			next = bound[0]
		}
	}
	// an error that was encoded can only be searched here
	found = slices.DeleteFunc(found, func(d db.Delivery) bool {
		return !strings.Contains(strings.ToLower(d.Error), strings.ToLower(filter.Error))
	})
	return found, max(next, 0), nil
}

// areFew reports whether what a filter selects is among so few deliveries, which an index has,
// that all of them can be looked at.
func (i inspector) areFew(ctx context.Context, filter db.Filter) (bool, error) {
	if filter.Notification != "" {
		return true, nil
	}
	if len(filter.States) == 0 || slices.Contains(filter.States, db.Delivered) || onlyDead(filter) {
		return false, nil
	}
	count := 0
	for _, state := range filter.States {
		var n int
		err := i.run(ctx, plainly, statement{
			sql: fmt.Sprintf(`SELECT count(*) FROM (SELECT FROM {s}delivery WHERE state IN (%s) LIMIT %d) AS counted`, quoted([]db.State{state}, db.States), sparseRows),
			scan: func(rows pgx.Rows) (err error) {
				n, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
				return err
			},
		})
		if err != nil {
			return false, err
		}
		count += n
	}
	return count < sparseRows, nil
}

// Find implements db.Inspector.
func (i inspector) Find(ctx context.Context, endpoint, id string, limit int) ([]db.Details, error) {
	ids, err := i.ids(ctx, plainly, statement{sql: findSQL, args: []any{endpoint, db.EncodeText(id), rowID(id), limit}})
	if err != nil {
		return nil, fmt.Errorf("finding a notification: %w", err)
	}
	found, err := details(ctx, i.client, ids)
	if err != nil {
		return nil, fmt.Errorf("reading a notification: %w", err)
	}
	return found, nil
}

// rowID returns the id of a row; -1 if it is not a number.
func rowID(id string) int64 {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// DeadGroups implements db.Inspector.
func (i inspector) DeadGroups(ctx context.Context, endpoint string) (groups []db.DeadGroup, err error) {
	err = i.run(ctx, plainly, statement{sql: deadGroupsSQL, args: []any{endpoint}, scan: func(rows pgx.Rows) (err error) {
		groups, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (g db.DeadGroup, err error) {
			var topic string
			var lastError *string
			err = row.Scan(&topic, &g.Lane, &g.Reason, &g.Count, &g.Oldest, &g.Newest, &lastError)
			g.Topic, g.Error = db.DecodeText(topic), decodeNull(lastError)
			g.Oldest, g.Newest = g.Oldest.UTC(), g.Newest.UTC()
			return g, err
		})
		return err
	}})
	if err != nil {
		return nil, fmt.Errorf("grouping dead deliveries: %w", err)
	}
	return groups, nil
}

// Change implements db.Inspector.
func (i inspector) Change(ctx context.Context, change db.Change) (changed []int64, err error) {
	for ids := range batches(change.IDs, compareIDs) {
		var done []int64
		statements, err := changing(change, ids, &done)
		if err == nil {
			err = i.run(ctx, durably, statements...)
		}
		if err != nil {
			return changed, fmt.Errorf("changing deliveries: %w", err)
		}
		slices.Sort(done)
		changed = append(changed, done...)
	}
	return changed, nil
}

// walk goes along the key from an id, or along the index of dead ones, which is as good.
type walk struct {
	from, step int64
	limit      int
	compare    string
	direction  string
	dead       bool
}

func newWalk(filter db.Filter, page db.Page) walk {
	w := walk{from: page.From, step: 1, limit: page.Limit, compare: ">=", dead: onlyDead(filter)}
	if page.Newest {
		w.step, w.compare, w.direction = -1, "<=", " DESC"
		if w.from == 0 {
			w.from = math.MaxInt64
		}
	}
	return w
}

func onlyDead(filter db.Filter) bool { return len(filter.States) == 1 && filter.States[0] == db.Dead }

func (w walk) order() string { return " ORDER BY d.id" + w.direction }

// rows selects the ids of all deliveries of the walk. Their first one is the parameter $1.
func (w walk) rows() string {
	sql := "SELECT d.id FROM {s}delivery AS d WHERE d.id " + w.compare + " $1::bigint"
	if w.dead {
		sql += " AND d.state = 'dead'"
	}
	return sql + w.order()
}

// sql selects a page of deliveries that fit the conditions: of the next listRows, or if they
// are few, of all.
func (w walk) sql(few bool, q *conditions) string {
	q.add("d.id "+w.compare+" %s::bigint", w.from)
	if few {
		// id + 0 keeps PostgreSQL from walking along the key
		return "SELECT d.* FROM {s}delivery AS d" + q.where() + " ORDER BY d.id + 0" + w.direction + " LIMIT " + strconv.Itoa(w.limit)
	}
	rows := strings.Replace(strings.Replace(w.rows(), "d.id", "d.*", 1), "$1", "$"+strconv.Itoa(len(q.args)), 1)
	return fmt.Sprintf("SELECT d.* FROM (%s LIMIT %d) AS d", rows, listRows) + q.where() + w.order() + " LIMIT " + strconv.Itoa(w.limit)
}

// selectDeliveries reads deliveries, which are called d. It reads of a notification only its
// id and its workspace.
const selectDeliveries = `
	SELECT d.id, d.notification, n.notification_id, d.endpoint, n.workspace, d.topic, d.lane, d.fixed, d.state, d.reason, d.attempts,
		d.stored_at, coalesce(d.age_from, d.stored_at), d.due_at, d.finished_at, d.upstream, d.status, d.seconds, d.error
	FROM (%s) AS d JOIN {s}notification AS n ON n.id = d.notification`

func collectDeliveries(found *[]db.Delivery) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (d db.Delivery, err error) {
			var notificationID, reason, upstream, lastError *string
			var due, finished *time.Time
			var status *int
			var seconds *float32
			err = row.Scan(&d.ID, &d.Notification, &notificationID, &d.Endpoint, &d.Workspace, &d.Topic, &d.Lane, &d.Fixed, &d.State, &reason,
				&d.Attempts, &d.StoredAt, &d.AgeFrom, &due, &finished, &upstream, &status, &seconds, &lastError)
			if err != nil {
				return d, err
			}
			d.NotificationID, d.Workspace, d.Topic = decodeNull(notificationID), db.DecodeText(d.Workspace), db.DecodeText(d.Topic)
			d.Reason, d.Upstream, d.Error = db.Reason(decodeNull(reason)), decodeNull(upstream), decodeNull(lastError)
			d.StoredAt, d.AgeFrom = d.StoredAt.UTC(), d.AgeFrom.UTC()
			if due != nil && d.State == db.Retrying {
				d.DueAt = due.UTC()
			}
			if finished != nil {
				d.FinishedAt = finished.UTC()
			}
			if status != nil {
				d.Status = *status
			}
			d.Duration = duration(seconds)
			return d, nil
		})
		return err
	}
}

// duration returns the duration of an attempt as precisely as seconds are stored.
func duration(seconds *float32) time.Duration {
	if seconds == nil {
		return 0
	}
	return time.Duration(float64(*seconds) * float64(time.Second)).Round(time.Microsecond)
}
