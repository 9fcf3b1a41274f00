package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	exportSQL = `SELECT id FROM {s}notification WHERE id >= $1::bigint ORDER BY id LIMIT $2::bigint`

	notificationsSQL = `SELECT id, endpoint, workspace, topic, notification_id, received_at, request, body FROM {s}notification WHERE id = ANY ($1::bigint[])`

	deliveriesOfSQL = `SELECT d.* FROM unnest($1::bigint[]) AS wanted(id) JOIN {s}delivery AS d ON d.id BETWEEN wanted.id * 100 AND wanted.id * 100 + 99`

	attemptsSQL = `SELECT delivery, at, instance, upstream, status, seconds, error, answer FROM {s}attempt WHERE delivery = ANY ($1::bigint[]) ORDER BY delivery, at`

	// importSQL stores notifications as storeSQL does. Those without an id are compared with
	// what was there before.
	importSQL = `
		WITH input AS MATERIALIZED (
			SELECT nextval('{s}notification_id_seq'::regclass) AS id, n.*
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::bytea[])
				WITH ORDINALITY AS n(endpoint, workspace, topic, notification_id, received_at, request, body, place)
		), stored AS (
			INSERT INTO {s}notification (id, endpoint, workspace, topic, notification_id, received_at, request, body)
			SELECT id, endpoint, workspace, topic, nullif(notification_id, ''), received_at, request, body FROM input
			WHERE notification_id <> '' OR NOT EXISTS (
				SELECT FROM {s}notification AS n WHERE n.notification_id IS NULL AND n.received_at = input.received_at
					AND n.endpoint = input.endpoint AND n.workspace = input.workspace AND n.topic = input.topic AND n.body = input.body
			)
			ORDER BY notification_id COLLATE "C", workspace COLLATE "C", endpoint COLLATE "C", id
			ON CONFLICT DO NOTHING
			RETURNING id
		), deliveries AS (
			INSERT INTO {s}delivery (id, notification, endpoint, lane, workspace, topic, fixed, state, reason, attempts, stored_at, age_from, due_at,
				finished_at, upstream, status, seconds, error)
			SELECT input.id * 100 + d.number, input.id, input.endpoint, d.lane, {indexed input.workspace}, input.topic, d.fixed, d.state, nullif(d.reason, ''), d.attempts,
				d.stored_at, nullif(d.age_from, d.stored_at), CASE WHEN d.state = 'retrying' THEN coalesce(d.due_at, now()) END, d.finished_at, nullif(d.upstream, ''), nullif(d.status, 0), d.seconds, nullif(d.error, '')
			FROM unnest($8::bigint[], $9::bigint[], $10::text[], $11::boolean[], $12::text[], $13::text[], $14::int[], $15::timestamptz[], $16::timestamptz[],
					$17::timestamptz[], $18::timestamptz[], $19::text[], $20::int[], $21::real[], $22::text[])
				AS d(place, number, lane, fixed, state, reason, attempts, stored_at, age_from, due_at, finished_at, upstream, status, seconds, error)
			JOIN input ON input.place = d.place JOIN stored ON stored.id = input.id
		), attempts AS (
			INSERT INTO {s}attempt (delivery, at, instance, upstream, status, seconds, error, answer)
			SELECT input.id * 100 + a.number, a.at + (row_number() OVER (PARTITION BY a.place, a.number, a.at) - 1) * interval '1 microsecond', a.instance, nullif(a.upstream, ''), nullif(a.status, 0), a.seconds, a.error, a.answer
			FROM unnest($23::bigint[], $24::bigint[], $25::timestamptz[], $26::text[], $27::text[], $28::int[], $29::real[], $30::text[], $31::bytea[])
				AS a(place, number, at, instance, upstream, status, seconds, error, answer)
			JOIN input ON input.place = a.place JOIN stored ON stored.id = input.id
			ON CONFLICT DO NOTHING
		)
		SELECT id FROM stored`

	removeSQL = `DELETE FROM {s}delivery WHERE id = ANY (ARRAY(
		SELECT d.id FROM unnest($1::bigint[]) AS n(id) JOIN {s}delivery AS d ON d.id BETWEEN n.id * 100 AND n.id * 100 + 99 ORDER BY d.id FOR UPDATE OF d))`
	removeAttemptsSQL = `DELETE FROM {s}attempt WHERE delivery = ANY (ARRAY(
		SELECT a.delivery FROM unnest($1::bigint[]) AS n(id) JOIN {s}attempt AS a ON a.delivery BETWEEN n.id * 100 AND n.id * 100 + 99))`
	removeNotificationsSQL = `DELETE FROM {s}notification WHERE id = ANY ($1::bigint[])`
	lockRemovedSQL         = `SELECT id FROM {s}notification WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE`
)

// mover implements db.Mover.
type mover struct{ *client }

// Export implements db.Mover.
func (m mover) Export(ctx context.Context, from int64, limit int) (found []db.Details, next int64, err error) {
	ids, err := m.ids(ctx, plainly, statement{sql: exportSQL, args: []any{from, limit}})
	if err == nil {
		found, err = details(ctx, m.client, ids)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("exporting notifications: %w", err)
	}
	for _, one := range found {
		for i := range one.Deliveries {
			d := &one.Deliveries[i]
			switch {
			case d.State != db.Delivering:
			case d.Attempts == 0:
				d.State = db.Waiting
			default:
				d.State = db.Retrying
			}
		}
	}
	if len(ids) == limit && limit > 0 {
		next = ids[len(ids)-1] + 1
	}
	return found, next, nil
}

// Import implements db.Mover.
func (m mover) Import(ctx context.Context, notifications []db.Details) (stored int, err error) {
	if len(notifications) == 0 {
		return 0, nil
	}
	ids, err := m.ids(ctx, durably, statement{sql: importSQL, args: importArgs(notifications)})
	if err != nil {
		return 0, fmt.Errorf("importing notifications: %w", err)
	}
	return len(ids), nil
}

// Remove implements db.Mover.
func (m mover) Remove(ctx context.Context, ids []int64) error {
	for batch := range batches(ids, compareIDs) {
		args := []any{batch}
		err := m.run(ctx, durably, statement{sql: lockRemovedSQL, args: args}, statement{sql: removeSQL, args: args},
			statement{sql: removeAttemptsSQL, args: args}, statement{sql: removeNotificationsSQL, args: args})
		if err != nil {
			return fmt.Errorf("removing notifications: %w", err)
		}
	}
	return nil
}

// importArgs are the columns of notifications, deliveries and attempts.
func importArgs(notifications []db.Details) []any {
	batch := make([]*db.NewNotification, len(notifications))
	var places, numbers []int64
	var lanes, states, reasons, upstreams, errors []string
	var fixed []bool
	var attempts, statuses []int32
	var storedAt, ageFrom, dueAt, finishedAt []*time.Time
	var seconds []float32
	var history attemptColumns
	for i, one := range notifications {
		batch[i] = &db.NewNotification{Notification: &notifications[i].Notification}
		for number, d := range one.Deliveries {
			places, numbers = append(places, int64(i+1)), append(numbers, int64(number))
			lanes, fixed = append(lanes, d.Lane), append(fixed, d.Fixed)
			states, reasons = append(states, string(d.State)), append(reasons, string(d.Reason))
			attempts = append(attempts, int32(d.Attempts))
			storedAt, ageFrom = append(storedAt, &d.StoredAt), append(ageFrom, &d.AgeFrom)
			dueAt, finishedAt = append(dueAt, nullTime(d.DueAt)), append(finishedAt, nullTime(d.FinishedAt))
			upstreams, statuses = append(upstreams, db.EncodeText(d.Upstream)), append(statuses, int32(d.Status))
			seconds, errors = append(seconds, float32(d.Duration.Seconds())), append(errors, db.EncodeText(d.Error))
			for _, a := range d.History {
				history.add(int64(i+1), int64(number), a)
			}
		}
	}
	s := newStoring(batch)
	return slices.Concat([]any{
		s.endpoints, s.workspaces, s.topics, s.ids, s.received, s.requests, s.bodies,
		places, numbers, lanes, fixed, states, reasons, attempts, storedAt, ageFrom, dueAt, finishedAt, upstreams, statuses, seconds, errors,
	}, []any{history.places, history.numbers}, history.args())
}

func nullTime(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}

// details reads notifications with their deliveries and attempts, in the order of the ids.
func details(ctx context.Context, c *client, ids []int64) (found []db.Details, err error) {
	var deliveries []db.Delivery
	err = c.run(ctx, plainly,
		statement{sql: notificationsSQL, args: []any{ids}, scan: func(rows pgx.Rows) (err error) {
			found, err = pgx.CollectRows(rows, scanNotification)
			return err
		}},
		statement{
			sql:  fmt.Sprintf(selectDeliveries, deliveriesOfSQL) + ` ORDER BY d.id`,
			args: []any{ids}, scan: collectDeliveries(&deliveries),
		})
	if err != nil {
		return nil, err
	}
	deliveryIDs := make([]int64, len(deliveries))
	for i, d := range deliveries {
		deliveryIDs[i] = d.ID
	}
	history := make(map[int64][]db.Attempt)
	err = c.run(ctx, plainly, statement{sql: attemptsSQL, args: []any{deliveryIDs}, scan: func(rows pgx.Rows) error {
		clear(history)
		return scanAttempts(rows, history)
	}})
	for i := range found {
		for _, d := range deliveries {
			if d.Notification == found[i].ID {
				found[i].Deliveries = append(found[i].Deliveries, db.DeliveryDetails{Delivery: d, History: history[d.ID]})
			}
		}
	}
	slices.SortFunc(found, func(a, b db.Details) int { return slices.Index(ids, a.ID) - slices.Index(ids, b.ID) })
	return found, err
}

func scanNotification(row pgx.CollectableRow) (n db.Details, err error) {
	var notificationID *string
	var request string
	err = row.Scan(&n.ID, &n.Endpoint, &n.Workspace, &n.Topic, &notificationID, &n.ReceivedAt, &request, &n.Body)
	if err != nil {
		return n, err
	}
	n.Workspace, n.Topic, n.NotificationID, n.ReceivedAt = db.DecodeText(n.Workspace), db.DecodeText(n.Topic), decodeNull(notificationID), n.ReceivedAt.UTC()
	n.Request, err = db.DecodeRequest(request)
	return n, err
}

func scanAttempts(rows pgx.Rows, history map[int64][]db.Attempt) error {
	var id int64
	var at time.Time
	var instance, lastError string
	var upstream *string
	var status *int
	var seconds float32
	var answer []byte
	_, err := pgx.ForEachRow(rows, []any{&id, &at, &instance, &upstream, &status, &seconds, &lastError, &answer}, func() error {
		a := db.Attempt{
			At: at.UTC(), Instance: db.DecodeText(instance), Upstream: decodeNull(upstream),
			Duration: duration(&seconds), Error: db.DecodeText(lastError), Answer: answer,
		}
		if status != nil {
			a.Status = *status
		}
		history[id] = append(history[id], a)
		answer = nil
		return nil
	})
	return err
}
