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
	sparseRows = 50_000 // of which it looks at all, by their indexes
)

const (
	boundarySQL       = `SELECT id FROM {s}delivery WHERE id >= $1::bigint ORDER BY id OFFSET $2::bigint LIMIT 1`
	boundaryNewestSQL = `SELECT id FROM {s}delivery WHERE id <= $1::bigint ORDER BY id DESC OFFSET $2::bigint LIMIT 1`

	findSQL = `
		SELECT id FROM {s}notification WHERE {indexed notification_id} = $5::text AND notification_id = $2::text AND endpoint = $1::text
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
	from, step := page.From, int64(1)
	if page.Newest {
		step = -1
		if from == 0 {
			from = math.MaxInt64
		}
	}
	var bound *int64 // the first id that is not looked at
	few, err := i.areFew(ctx, filter)
	if err == nil && !few {
		bound, err = i.boundary(ctx, from, page.Newest)
	}
	if err != nil {
		return nil, 0, err
	}
	q := newConditions(filter)
	compare, order := ">=", ""
	if page.Newest {
		compare, order = "<=", " DESC"
	}
	q.add("d.id "+compare+" %s::bigint", from)
	if bound != nil {
		q.add("NOT d.id "+compare+" %s::bigint", *bound)
	}
	sorted := "d.id"
	if few {
		sorted = "d.id + 0" // keeps PostgreSQL from walking along the key
	}
	sql := selectDeliveries + q.where() + ` ORDER BY ` + sorted + order + ` LIMIT ` + strconv.Itoa(page.Limit)
	err = i.run(ctx, plainly, statement{sql: sql, args: q.args, scan: collectDeliveries(&found)})
	switch {
	case err != nil:
		return nil, 0, err
	case len(found) == page.Limit && len(found) > 0:
		next = found[len(found)-1].ID + step
	case bound != nil:
		next = *bound
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
	if len(filter.States) == 0 || slices.Contains(filter.States, db.Delivered) {
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

// boundary returns the id behind the next listRows deliveries, or nil if there is none.
func (i inspector) boundary(ctx context.Context, from int64, newest bool) (*int64, error) {
	sql := boundarySQL
	if newest {
		sql = boundaryNewestSQL
	}
	ids, err := i.ids(ctx, plainly, statement{sql: sql, args: []any{from, listRows}})
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	return &ids[0], nil
}

// Find implements db.Inspector.
func (i inspector) Find(ctx context.Context, endpoint, id string, limit int) ([]db.Details, error) {
	ids, err := i.ids(ctx, plainly, statement{sql: findSQL, args: []any{endpoint, db.EncodeText(id), rowID(id), limit, indexed(id)}})
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

// selectDeliveries selects deliveries. It reads of a notification only its id.
const selectDeliveries = `
	SELECT d.id, d.notification, n.notification_id, d.endpoint, n.workspace, d.topic, d.lane, d.fixed, d.state, d.reason, d.attempts,
		d.stored_at, d.age_from, d.due_at, d.finished_at, d.upstream, d.status, d.seconds, d.error
	FROM {s}delivery AS d JOIN {s}notification AS n ON n.id = d.notification`

func collectDeliveries(found *[]db.Delivery) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (d db.Delivery, err error) {
			var notificationID, reason, upstream, lastError *string
			var finished *time.Time
			var status *int
			var seconds *float32
			err = row.Scan(&d.ID, &d.Notification, &notificationID, &d.Endpoint, &d.Workspace, &d.Topic, &d.Lane, &d.Fixed, &d.State, &reason,
				&d.Attempts, &d.StoredAt, &d.AgeFrom, &d.DueAt, &finished, &upstream, &status, &seconds, &lastError)
			if err != nil {
				return d, err
			}
			d.NotificationID, d.Workspace, d.Topic = decodeNull(notificationID), db.DecodeText(d.Workspace), db.DecodeText(d.Topic)
			d.Reason, d.Upstream, d.Error = db.Reason(decodeNull(reason)), decodeNull(upstream), decodeNull(lastError)
			d.StoredAt, d.AgeFrom, d.DueAt = d.StoredAt.UTC(), d.AgeFrom.UTC(), d.DueAt.UTC()
			if d.State != db.Retrying {
				d.DueAt = time.Time{}
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
