package postgres

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// listRows is how many deliveries List looks at, one after the other.
const listRows = 20_000

const (
	// wantedSQL are the ids of the notifications of endpoint $1 that have the id $2, or the row $3.
	wantedSQL = `(
		SELECT id FROM {s}notification WHERE {key endpoint notification_id} = {key $1::text $2::text} AND notification_id = $2::text AND endpoint = $1::text
		UNION SELECT id FROM {s}notification WHERE id = $3::bigint AND endpoint = $1::text
		ORDER BY id DESC LIMIT $4::bigint) AS wanted(id)`

	notificationsSQL = `SELECT n.id, n.endpoint, n.workspace, n.topic, n.notification_id, n.object, n.received_at, n.request, n.body
		FROM ` + wantedSQL + ` JOIN {s}notification AS n ON n.id = wanted.id ORDER BY n.id DESC`

	// With the limits, the planner knows that these are few rows. Without them it expects a ninth of the table, and
	// compiles the statement first, which takes a second.
	deliveriesSQL = `SELECT d.* FROM ` + wantedSQL + ` CROSS JOIN LATERAL (
			SELECT * FROM {s}delivery WHERE id BETWEEN wanted.id * 100 AND wanted.id * 100 + 99 ORDER BY id LIMIT 100) AS d`

	attemptsSQL = `SELECT a.delivery, a.at, a.instance, a.upstream, coalesce(a.status, 0), a.seconds, a.error, a.answer
		FROM ` + wantedSQL + ` CROSS JOIN LATERAL (
			SELECT * FROM {s}attempt WHERE delivery BETWEEN wanted.id * 100 AND wanted.id * 100 + 99 ORDER BY delivery, at LIMIT 10000) AS a
		ORDER BY a.delivery, a.at`

	// The newest one of a group is found with the largest pair of time and id.
	deadGroupsSQL = `
		SELECT g.topic, g.lane, g.reason, g.count, g.oldest, g.newest, d.error FROM (
			SELECT topic, lane, reason, count(*) AS count, min(finished_at) AS oldest, max(finished_at) AS newest,
				(max(ARRAY[(extract(epoch FROM finished_at) * 1000000)::bigint, id]))[2] AS last
			FROM {s}delivery WHERE state = 'dead' AND endpoint = $1::text GROUP BY topic, lane, reason
		) AS g JOIN {s}delivery AS d ON d.id = g.last
		ORDER BY g.count DESC, g.topic, g.lane, g.reason LIMIT $2::bigint`
)

// eachDelivery reads the deliveries that a statement selects. It reads of a notification only
// its id and its workspace.
func eachDelivery(found *[]db.Delivery, selects, order string, args []any) statement {
	return statement{
		sql: `SELECT d.id, d.notification, n.notification_id, n.object, d.endpoint, n.workspace, d.topic, d.lane, d.fixed, d.state, d.reason, d.attempts,
				d.stored_at, coalesce(d.age_from, d.stored_at), CASE WHEN d.state = 'retrying' THEN d.due_at WHEN d.state = 'waiting' AND d.place_at > now() THEN d.place_at END, d.finished_at,
				d.upstream, coalesce(d.status, 0), d.seconds, d.error, d.order_key, d.created_at
			FROM (` + selects + `) AS d JOIN {s}notification AS n ON n.id = d.notification ORDER BY d.id` + order,
		args: args,
		scan: each(found, func(d *db.Delivery) []any {
			return []any{
				&d.ID, &d.Notification, (*encoded)(&d.NotificationID), (*encoded)(&d.Object), &d.Endpoint, (*encoded)(&d.Workspace), (*encoded)(&d.Topic), &d.Lane, &d.Fixed,
				&d.State, (*encoded)(&d.Reason), &d.Attempts, (*moment)(&d.StoredAt), (*moment)(&d.AgeFrom), (*moment)(&d.DueAt), (*moment)(&d.FinishedAt),
				(*encoded)(&d.Upstream), &d.Status, (*seconds)(&d.Duration), (*encoded)(&d.Error),
				(*encoded)(&d.Order.Key), (*moment)(&d.Order.CreatedAt),
			}
		}),
	}
}

// inspector implements db.Inspector.
type inspector struct{ *client }

// List implements db.Inspector. It goes along the key from the first id on, or along an index
// of what is not delivered, and looks at the next listRows deliveries.
func (i inspector) List(ctx context.Context, filter db.Filter, page db.Page) (found []db.Delivery, next int64, err error) {
	q, step, order := new(conditions), int64(1), ""
	switch {
	case page.Newest && page.From == 0:
		page.From = math.MaxInt64
		fallthrough
	case page.Newest:
		step, order = -1, " DESC"
		q.walk = []string{q.text("d.id <= %s::bigint", page.From)}
	default:
		q.walk = []string{q.text("d.id >= %s::bigint", page.From)}
	}
	q.filter(filter)
	walk := ` FROM {s}delivery AS d` + where(q.walk) + ` ORDER BY d.id` + order
	err = i.run(ctx, "listing deliveries", plainly, eachDelivery(&found,
		fmt.Sprintf(`SELECT d.* FROM (SELECT d.*%s LIMIT %d) AS d%s ORDER BY d.id%s LIMIT %d`, walk, listRows, where(q.rest), order, page.Limit), order, q.args))
	if err != nil {
		return nil, 0, err
	}
	if len(found) == page.Limit && len(found) > 0 {
		next = found[len(found)-1].ID + step
	} else {
		var bound []int64
		err = i.run(ctx, "listing deliveries", plainly,
			statement{sql: fmt.Sprintf(`SELECT d.id%s OFFSET %d LIMIT 1`, walk, listRows), args: q.args[:q.walked], scan: eachID(&bound)})
		if err != nil {
			return nil, 0, err
		}
		if len(bound) > 0 {
			next = bound[0]
		}
	}
	return found, max(next, 0), nil
}

// Find implements db.Inspector.
func (i inspector) Find(ctx context.Context, endpoint, id string, limit int) (found []db.Details, err error) {
	type row struct {
		delivery int64
		db.Attempt
	}
	var deliveries []db.Delivery
	var attempts []row
	args := []any{endpoint, db.EncodeText(id), db.RowID(id), limit}
	err = i.run(ctx, "finding a notification", plainly,
		statement{sql: notificationsSQL, args: args, scan: each(&found, func(n *db.Details) []any {
			return []any{
				&n.ID, &n.Endpoint, (*encoded)(&n.Workspace), (*encoded)(&n.Topic), (*encoded)(&n.NotificationID), (*encoded)(&n.Object), (*moment)(&n.ReceivedAt),
				(*request)(&n.Request), &n.Body,
			}
		})},
		eachDelivery(&deliveries, deliveriesSQL, "", args),
		statement{sql: attemptsSQL, args: args, scan: each(&attempts, func(a *row) []any {
			return []any{
				&a.delivery, (*moment)(&a.At), (*encoded)(&a.Instance), (*encoded)(&a.Upstream), &a.Status, (*seconds)(&a.Duration),
				(*encoded)(&a.Error), &a.Answer,
			}
		})})
	if err != nil {
		return nil, err
	}
	history := make(map[int64][]db.Attempt)
	for _, a := range attempts {
		history[a.delivery] = append(history[a.delivery], a.Attempt)
	}
	for _, d := range deliveries {
		if at := slices.IndexFunc(found, func(n db.Details) bool { return n.ID == d.Notification }); at >= 0 {
			found[at].Deliveries = append(found[at].Deliveries, db.DeliveryDetails{Delivery: d, History: history[d.ID]})
		}
	}
	return found, nil
}

// DeadGroups implements db.Inspector.
func (i inspector) DeadGroups(ctx context.Context, endpoint string) (groups []db.DeadGroup, err error) {
	err = i.run(ctx, "grouping dead deliveries", plainly, statement{
		sql: deadGroupsSQL, args: []any{endpoint, db.MaxDeadGroups}, scan: each(&groups, func(g *db.DeadGroup) []any {
			return []any{(*encoded)(&g.Topic), &g.Lane, &g.Reason, &g.Count, (*moment)(&g.Oldest), (*moment)(&g.Newest), (*encoded)(&g.Error)}
		}),
	})
	return groups, err
}

// Change implements db.Inspector.
func (i inspector) Change(ctx context.Context, change db.Change) (changed []int64, err error) {
	for ids := range batches(change.IDs, func(id int64) int64 { return id }) {
		var done []int64
		statements, err := changing(change, ids, &done)
		if err == nil {
			err = i.run(ctx, "changing deliveries", durably, statements...)
		}
		if err != nil {
			return changed, err
		}
		slices.Sort(done)
		changed = append(changed, done...)
	}
	return changed, nil
}
