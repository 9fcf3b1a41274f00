package sqlite

import (
	"context"
	"errors"
	"slices"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const deliveryColumns = `d.id, d.notification, (SELECT n.notification_id FROM notification AS n WHERE n.id = d.notification), (SELECT n.object FROM notification AS n WHERE n.id = d.notification),
	d.endpoint, d.workspace, d.topic, d.lane, d.fixed, d.state, d.reason, d.attempts, d.stored_at, d.age_from,
	CASE WHEN d.state = 'retrying' THEN d.due_at WHEN d.state = 'waiting' AND d.place_at - 1000 > unixepoch('subsec') * 1000000 THEN d.place_at END, d.finished_at,
	d.upstream, d.status, d.seconds, d.error, d.order_key, d.created_at`

func scanDelivery(d *db.Delivery) []any {
	return []any{
		&d.ID, &d.Notification, text(&d.NotificationID), text(&d.Object), &d.Endpoint, text(&d.Workspace), &d.Topic, &d.Lane,
		&d.Fixed, &d.State, text((*string)(&d.Reason)), &d.Attempts, moment(&d.StoredAt), moment(&d.AgeFrom), moment(&d.DueAt), moment(&d.FinishedAt),
		text(&d.Upstream), number(&d.Status), duration(&d.Duration), text(&d.Error), text(&d.Order.Key), moment(&d.Order.CreatedAt),
	}
}

// readDetails returns notifications by their ids, with all that is known of them.
func readDetails(ctx context.Context, read *statements, ids []int64) ([]db.Details, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	notifications, err := readNotifications(ctx, read, ids)
	if err != nil {
		return nil, err
	}
	history, err := readAttempts(ctx, read, ids)
	if err != nil {
		return nil, err
	}
	rows, err := read.query(ctx, `SELECT `+deliveryColumns+` FROM json_each(?) AS wanted
		CROSS JOIN delivery AS d ON d.id BETWEEN wanted.value * 100 AND wanted.value * 100 + 99 ORDER BY d.id`, jsonOf(ids))
	deliveries, err := collect(rows, err, scanDelivery)
	if err != nil {
		return nil, err
	}
	byNotification := make(map[int64][]db.DeliveryDetails, len(ids))
	for _, d := range deliveries {
		byNotification[d.Notification] = append(byNotification[d.Notification], db.DeliveryDetails{Delivery: d, History: history[d.ID]})
	}
	var found []db.Details
	for _, id := range slices.Sorted(slices.Values(ids)) {
		if n := notifications[id]; n != nil {
			found = append(found, db.Details{Notification: *n, Deliveries: byNotification[id]})
		}
	}
	return found, nil
}

// readAttempts returns the failed attempts of notifications by delivery, the oldest first.
func readAttempts(ctx context.Context, read *statements, notifications []int64) (map[int64][]db.Attempt, error) {
	history := make(map[int64][]db.Attempt)
	var deliveries []*int64
	rows, err := read.query(ctx, `SELECT delivery, at, instance, upstream, status, seconds, error, answer FROM json_each(?) AS wanted
		CROSS JOIN attempt ON delivery BETWEEN wanted.value * 100 AND wanted.value * 100 + 99 ORDER BY delivery, at`, jsonOf(notifications))
	found, err := collect(rows, err, func(a *db.Attempt) []any {
		deliveries = append(deliveries, new(int64))
		return []any{deliveries[len(deliveries)-1], moment(&a.At), &a.Instance, text(&a.Upstream), number(&a.Status), duration(&a.Duration), text(&a.Error), &a.Answer}
	})
	for i, a := range found {
		history[*deliveries[i]] = append(history[*deliveries[i]], a)
	}
	return history, err
}

// mover moves notifications from one database to another.
type mover struct{ *tables }

// Import implements db.Mover.
func (m mover) Import(ctx context.Context, notifications []db.Details) (stored int, err error) {
	if err := m.usable(); err != nil {
		return 0, err
	}
	var pending int
	err = m.write.inBatches(ctx, m.sync, len(notifications), func(i int) error {
		imported, err := importOne(m.write.run, &notifications[i])
		if imported {
			pending++
		}
		return err
	}, func() {
		stored, pending = stored+pending, 0
	})
	return stored, err
}

// importOne stores a notification unless it is there. It needs the write lock.
func importOne(run *statements, n *db.Details) (stored bool, err error) {
	if n.NotificationID == "" {
		var there int64
		err := run.queryRow(context.Background(), `SELECT count(*) FROM notification AS n JOIN body ON body.notification = n.id
			WHERE notification_id IS NULL AND received_at = ? AND endpoint = ? AND workspace = ? AND topic = ? AND bytes = ?`,
			[]any{n.ReceivedAt.UnixMicro(), n.Endpoint, db.EncodeText(n.Workspace), n.Topic, blob(n.Body)}, &there)
		if err != nil || there > 0 {
			return false, err
		}
	}
	if len(n.Deliveries) > db.MaxDeliveries {
		return false, errTooMany
	}
	id, err := insert(run, &n.Notification)
	if err != nil || id == 0 {
		return false, err
	}
	for place := range n.Deliveries {
		if err := importDelivery(run, n, id, place); err != nil {
			return false, err
		}
	}
	return true, nil
}

var errTooMany = errors.New("a notification has more deliveries than it can have")

const insertImported = `INSERT INTO delivery (id, notification, endpoint, lane, workspace, topic, fixed, state, reason, attempts,
	stored_at, age_from, due_at, finished_at, upstream, status, seconds, error, order_key, created_at, held, place_at)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?19, ?20, ?19 IS NOT NULL AND ?14 IS NULL, CASE WHEN ?19 IS NOT NULL THEN ?11 END)`

func importDelivery(run *statements, n *db.Details, notification int64, place int) error {
	d := n.Deliveries[place]
	if d.DueAt.IsZero() {
		d.DueAt = d.StoredAt
	}
	id := db.DeliveryID(notification, place)
	key, createdAt := orderOf(d.Order)
	_, err := run.exec(context.Background(), insertImported, id, notification, n.Endpoint, d.Lane, db.EncodeText(n.Workspace), n.Topic, d.Fixed,
		string(d.State), orNull(string(d.Reason)), d.Attempts, d.StoredAt.UnixMicro(), d.AgeFrom.UnixMicro(), d.DueAt.UnixMicro(), micros(d.FinishedAt),
		orNull(db.EncodeText(d.Upstream)), orNull(d.Status), orNull(d.Duration.Seconds()), orNull(db.EncodeText(d.Error)), key, createdAt)
	if err != nil {
		return err
	}
	for _, a := range d.History {
		if err := addAttempt(run, id, a); err != nil {
			return err
		}
	}
	return nil
}
