package sqlite

import (
	"context"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	insertNotification = `INSERT INTO notification (endpoint, workspace, topic, notification_id, object, received_at, request)
		VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`

	insertBody = `INSERT INTO body (notification, bytes) VALUES (?, ?)`

	insertDelivery = `INSERT INTO delivery (id, notification, endpoint, lane, workspace, topic, fixed, state, attempts, stored_at, age_from, due_at, claim, instance, order_key, created_at, held, place_at)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, CASE WHEN ?8 IS NULL THEN 'waiting' ELSE 'delivering' END, 0, ?9, ?9, ?9, ?8, CASE WHEN ?8 IS NOT NULL THEN ?10 END,
			?11, ?12, ?11 IS NOT NULL, CASE WHEN ?11 IS NOT NULL THEN ?9 + ?13 END)`
)

// insert stores a notification without its deliveries. It returns 0 for a duplicate. It
// needs the write lock.
func insert(run *statements, n *db.Notification) (id int64, err error) {
	result, err := run.result(context.Background(), insertNotification, n.Endpoint, db.EncodeText(n.Workspace), n.Topic,
		orNull(db.EncodeText(n.NotificationID)), orNull(db.EncodeText(n.Object)), n.ReceivedAt.UnixMicro(), n.Request.Encode())
	if err != nil {
		return 0, err
	}
	if inserted, err := result.RowsAffected(); err != nil || inserted == 0 {
		return 0, err
	}
	if id, err = result.LastInsertId(); err != nil {
		return 0, err
	}
	_, err = run.exec(context.Background(), insertBody, id, blob(n.Body))
	return id, err
}

// store stores a notification with its deliveries. It needs the write lock.
func store(run *statements, n *db.NewNotification, instance string) (db.Stored, error) {
	twin, err := isTwin(run, n)
	if err != nil || twin && len(n.Deliveries) == 1 {
		return db.Stored{Twin: twin}, err
	}
	id, err := insert(run, n.Notification)
	if err != nil || id == 0 {
		return db.Stored{Duplicate: err == nil}, err
	}
	at := now()
	for place, delivery := range n.Deliveries {
		if twin && place == 0 {
			continue
		}
		key, createdAt := orderOf(delivery.Order)
		if key != nil {
			delivery.Token = 0
		}
		_, err := run.exec(context.Background(), insertDelivery, db.DeliveryID(id, place), id, n.Endpoint, delivery.Lane,
			db.EncodeText(n.Workspace), n.Topic, delivery.Fixed, orNull(int64(delivery.Token)), at, instance, key, createdAt, delivery.Hold.Microseconds())
		if err != nil {
			return db.Stored{}, err
		}
	}
	return db.Stored{ID: id, Twin: twin}, nil
}

const (
	isThere = `SELECT count(*) FROM notification WHERE notification_id = ? AND workspace = ? AND endpoint = ?`

	insertOnce = `INSERT INTO once (key, until) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET until = excluded.until WHERE until <= ?3`
)

// isTwin reports whether a notification that is no duplicate has a twin before it. It needs the write lock.
func isTwin(run *statements, n *db.NewNotification) (bool, error) {
	if n.Once.Key == "" {
		return false, nil
	}
	var there int
	err := run.queryRow(context.Background(), isThere, []any{orNull(db.EncodeText(n.NotificationID)), db.EncodeText(n.Workspace), n.Endpoint}, &there)
	if err != nil || there > 0 {
		return false, err
	}
	at := now()
	first, err := run.exec(context.Background(), insertOnce, n.Once.Key, at+n.Once.Within.Microseconds(), at)
	return first == 0, err
}

// orderOf returns the columns order_key and created_at.
func orderOf(o db.Order) (key, createdAt any) {
	if o.Key == "" {
		return nil, nil
	}
	return db.EncodeText(o.Key), o.CreatedAt.UnixMicro()
}

// outcomeRow is an outcome as finish reads it: a JSON array.
type outcomeRow [10]any

const finish = `UPDATE delivery SET
		state = CASE WHEN o.ended = 'waiting' AND attempts > 0 THEN 'retrying' ELSE o.ended END,
		reason = o.dead_because, due_at = coalesce(o.due, due_at), finished_at = o.finished, claim = NULL, instance = NULL,
		attempts = attempts + (o.took IS NOT NULL),
		upstream = CASE WHEN o.took IS NULL THEN upstream ELSE o.chosen END,
		status = CASE WHEN o.took IS NULL THEN status ELSE o.answered END,
		seconds = coalesce(o.took, seconds),
		error = CASE WHEN o.took IS NULL THEN error ELSE o.failure END,
		held = order_key IS NOT NULL AND o.finished IS NULL,
		place_at = CASE WHEN order_key IS NOT NULL AND o.finished IS NULL OR place_at IS NOT NULL THEN ?3 END
	FROM (SELECT value ->> 0 AS delivery, value ->> 1 AS token, value ->> 2 AS ended, value ->> 3 AS dead_because, value ->> 4 AS due,
		value ->> 5 AS finished, value ->> 6 AS chosen, value ->> 7 AS answered, value ->> 8 AS took, value ->> 9 AS failure
		FROM json_each(?1)) AS o
	WHERE delivery.id = o.delivery AND +delivery.state = 'delivering' AND delivery.claim = o.token AND delivery.instance = ?2
	RETURNING id`

const insertAttempt = `INSERT INTO attempt (delivery, at, instance, upstream, status, seconds, error, answer)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`

func newOutcomeRow(o db.Outcome, now int64) outcomeRow {
	row := outcomeRow{o.ID, int64(o.Token), string(o.State), nil, nil, nil, nil, nil, nil, nil}
	switch o.State {
	case db.Dead:
		row[3], row[5] = string(o.Reason), now
	case db.Delivered:
		row[5] = now
	case db.Retrying:
		row[4] = now + o.Delay.Microseconds()
	case db.Waiting, db.Delivering: // it is released
	}
	if a := o.Attempt; a != nil {
		row[6], row[7], row[8] = orNull(db.EncodeText(a.Upstream)), orNull(a.Status), a.Duration.Seconds()
		row[9] = orNull(db.EncodeText(a.Error))
	}
	return row
}

// finishAll ends claims, of which no two are of the same delivery, and returns the ids of
// those that held theirs. It needs the write lock.
func finishAll(run *statements, outcomes []db.Outcome, instance string) (applied []int64, err error) {
	rows := make([]outcomeRow, len(outcomes))
	byID := make(map[int64]*db.Outcome, len(outcomes))
	at := now()
	for i := range outcomes {
		rows[i] = newOutcomeRow(outcomes[i], at)
		byID[outcomes[i].ID] = &outcomes[i]
	}
	found, err := run.query(context.Background(), finish, jsonOf(rows), instance, at)
	if applied, err = collectIDs(found, err); err != nil {
		return nil, err
	}
	for _, id := range applied {
		if o := byID[id]; o.Attempt != nil && o.State != db.Delivered {
			if err := addAttempt(run, id, *o.Attempt); err != nil {
				return nil, err
			}
		}
	}
	return applied, nil
}

// addAttempt stores a failed attempt. One that ended at the same time as another one of its
// delivery is stored as a microsecond later. It needs the write lock.
func addAttempt(run *statements, delivery int64, a db.Attempt) error {
	for at := a.At.UnixMicro(); ; at++ {
		added, err := run.exec(context.Background(), insertAttempt, delivery, at, a.Instance, orNull(db.EncodeText(a.Upstream)),
			orNull(a.Status), a.Duration.Seconds(), orNull(db.EncodeText(a.Error)), a.Answer)
		if err != nil || added > 0 {
			return err
		}
	}
}

// released is what a release sets: the claim is no attempt.
const released = `claim = NULL, instance = NULL, state = CASE WHEN attempts = 0 THEN 'waiting' ELSE 'retrying' END, ` + toPlace

// toPlace holds a delivery until it has been placed again in the order of its object.
const toPlace = `held = order_key IS NOT NULL, place_at = CASE WHEN order_key IS NOT NULL THEN ?2 END`

const releaseOthers = `UPDATE delivery SET ` + released + ` WHERE id IN (
	SELECT id FROM delivery INDEXED BY delivery_delivering WHERE state = 'delivering' AND instance <> ?1 LIMIT ?3)`

// deleteWhere deletes deliveries, whose ids a statement's argument ?1 has as a JSON array, and
// all that belongs to them alone. It returns the ids of the deliveries. It needs the write lock.
func deleteWhere(run *statements, condition string, args ...any) (deleted []int64, err error) {
	if _, err := run.exec(context.Background(), placeAgain, args[0], now()); err != nil {
		return nil, err
	}
	rows, err := run.query(context.Background(), `DELETE FROM delivery WHERE id IN (SELECT value FROM json_each(?1))`+condition+` RETURNING id`, args...)
	if deleted, err = collectIDs(rows, err); err != nil || len(deleted) == 0 {
		return nil, err
	}
	_, err = run.exec(context.Background(), `DELETE FROM attempt WHERE delivery IN (SELECT value FROM json_each(?))`, jsonOf(deleted))
	if err != nil {
		return nil, err
	}
	var notifications []int64
	for _, id := range deleted {
		if n := db.NotificationOf(id); len(notifications) == 0 || notifications[len(notifications)-1] != n {
			notifications = append(notifications, n)
		}
	}
	for _, table := range []string{`notification WHERE id`, `body WHERE notification`} {
		_, err := run.exec(context.Background(), `DELETE FROM `+table+` IN (SELECT value FROM json_each(?) AS gone
			WHERE NOT EXISTS (SELECT 1 FROM delivery WHERE id BETWEEN gone.value * 100 AND gone.value * 100 + 99))`, jsonOf(notifications))
		if err != nil {
			return nil, err
		}
	}
	return deleted, nil
}

const (
	// expiryRows is how many rows a call of Expire looks at.
	expiryRows = 5000

	// deleteRows is how many a transaction deletes at most: their bodies are overwritten, which
	// takes longer than other changes.
	deleteRows = 50
)

// isOver is the condition that a delivery has finished before ?2 if it is delivered, or before
// ?3 if it is dead.
const isOver = `state = 'delivered' AND finished_at < ?2 OR state = 'dead' AND finished_at < ?3`

// old returns the next deliveries that are to be deleted, and from where on to look for more: 0
// if all that come are too young.
func old(ctx context.Context, read *statements, expiry db.Expiry, delivered, dead int64) (ids []int64, cursor int64, err error) {
	var rows int
	var last, anyOld int64
	err = read.queryRow(ctx, `SELECT count(*), coalesce(max(id), 0), coalesce(max(stored_at < max(?2, ?3)), 0)
		FROM (SELECT id, stored_at FROM delivery WHERE id >= ?1 ORDER BY id LIMIT ?4)`, []any{expiry.Cursor, delivered, dead, expiryRows}, &rows, &last, &anyOld)
	if err != nil || anyOld == 0 && !expiry.All {
		return nil, 0, err
	}
	ids, err = collectIDs(read.query(ctx, `SELECT id FROM delivery WHERE id BETWEEN ?1 AND ?4 AND endpoint = ?5 AND (`+isOver+`) ORDER BY id LIMIT ?6`,
		expiry.Cursor, delivered, dead, last, expiry.Endpoint, expiry.Limit))
	switch {
	case len(ids) == expiry.Limit && len(ids) > 0:
		cursor = ids[len(ids)-1] + 1
	case rows == expiryRows:
		cursor = last + 1
	}
	return ids, cursor, err
}
