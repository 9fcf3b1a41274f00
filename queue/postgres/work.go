package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// insertSQL inserts notifications, in the order of their keys: two instances that wait for
// each other's duplicates would never end. Ids are in the order of the batch.
const insertSQL = `
	WITH input AS MATERIALIZED (
		SELECT nextval('{s}notification_id_seq'::regclass) AS id, n.*
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::bytea[], $8::text[])
			WITH ORDINALITY AS n(endpoint, workspace, topic, notification_id, received_at, request, body, object, place)
	){once}, stored AS (
		INSERT INTO {s}notification (id, endpoint, workspace, topic, notification_id, object, received_at, request, body)
		SELECT id, endpoint, workspace, topic, nullif(notification_id, ''), nullif(object, ''), received_at, request, body FROM input
		WHERE {is new}{not a twin}
		ORDER BY notification_id COLLATE "C", workspace COLLATE "C", endpoint COLLATE "C", id
		{on conflict} RETURNING id
	)`

// storeSQL stores notifications and their deliveries.
//
// Duplicates of what is there are left out. What another transaction stores at the same time,
// or what the batch has twice, violates the key: then the statement is repeated so that it
// leaves those out as well. (ON CONFLICT costs a further record of the log for each row.)
//
// If there is a duplicate, the transaction writes a row all the same, so that its commit
// waits for the disk and the standby like the first one's.
const (
	storeAnySQL = insertSQL + `, deliveries AS (
		INSERT INTO {s}delivery (id, notification, endpoint, lane, workspace, topic, fixed, state, claim, instance, order_key, created_at, held, place_at)
		SELECT input.id * 100 + d.number, input.id, input.endpoint, d.lane, {indexed input.workspace}, input.topic, d.fixed,
			CASE WHEN d.claim = 0 THEN 'waiting' ELSE 'delivering' END, nullif(d.claim, 0), CASE WHEN d.claim <> 0 THEN $14::text END,
			nullif(d.order_key, ''), CASE WHEN d.order_key <> '' THEN d.created_at END, d.order_key <> '',
			CASE WHEN d.order_key <> '' THEN now() + d.hold * interval '1 microsecond' END
		FROM unnest($9::bigint[], $10::bigint[], $11::text[], $12::boolean[], $13::bigint[], $16::text[], $17::timestamptz[], $18::bigint[])
			AS d(place, number, lane, fixed, claim, order_key, created_at, hold)
		JOIN input ON input.place = d.place JOIN stored ON stored.id = input.id{not to a twin}
	), touched AS (
		INSERT INTO {s}instance AS i (id) SELECT $14::text WHERE (SELECT count(*) FROM stored) < $15::bigint
		ON CONFLICT (id) DO UPDATE SET version = i.version
	)
	SELECT input.place, coalesce(stored.id, 0), {is a twin} FROM input LEFT JOIN stored ON stored.id = input.id WHERE stored.id IS NOT NULL OR {is a twin}`

	isNew = `(SELECT n.id FROM {s}notification AS n
		WHERE {key n.endpoint n.notification_id} = {key input.endpoint input.notification_id}
			AND {indexed n.workspace} = {indexed input.workspace} AND n.notification_id IS NOT NULL LIMIT 1) IS NULL`

	// onceSQL takes the keys of notifications that are new, in their order, so that no two transactions
	// wait for each other. It waits for those that take the same key.
	onceSQL = `, candidate AS MATERIALIZED (
		SELECT place, k.key, k.within FROM input JOIN unnest($19::text[], $20::bigint[]) WITH ORDINALITY AS k(key, within, place) USING (place)
		WHERE k.key <> '' AND {is new}
	), taken AS (
		INSERT INTO {s}once AS o (key, until)
		SELECT DISTINCT ON (key) key, now() + within * interval '1 microsecond' FROM candidate ORDER BY key, place
		ON CONFLICT (key) DO UPDATE SET until = EXCLUDED.until WHERE o.until <= now() RETURNING key
	), twin AS MATERIALIZED (
		SELECT place FROM candidate AS c WHERE key NOT IN (SELECT key FROM taken) OR place > (SELECT min(place) FROM candidate WHERE key = c.key)
	)`
)

var (
	storeSQL = strings.NewReplacer("{once}", "", "{is new}", isNew, "{not a twin}", "", "{not to a twin}", "", "{is a twin}", "false").Replace(storeAnySQL)

	// storeOnceSQL is storeSQL for a batch in which there may be twins.
	storeOnceSQL = strings.NewReplacer("{once}", strings.Replace(onceSQL, "{is new}", isNew, 1), "{is new}", isNew,
		"{not a twin}", ` AND (place NOT IN (SELECT place FROM twin) OR place IN (SELECT d.place FROM unnest($9::bigint[], $10::bigint[]) AS d(place, number) WHERE d.number > 0))`,
		"{not to a twin}", ` WHERE d.number > 0 OR d.place NOT IN (SELECT place FROM twin)`,
		"{is a twin}", `input.place IN (SELECT place FROM twin)`).Replace(storeAnySQL)
)

// importSQL stores notifications with deliveries in any state, and with attempts. Those
// without an id are compared with what was there before.
var importSQL = strings.NewReplacer("{once}", "", "{not a twin}", "", "{on conflict}", "ON CONFLICT DO NOTHING", "{is new}", `notification_id <> '' OR NOT EXISTS (
			SELECT FROM {s}notification AS n WHERE n.notification_id IS NULL AND n.received_at = input.received_at
				AND n.endpoint = input.endpoint AND n.workspace = input.workspace AND n.topic = input.topic AND n.body = input.body)`).Replace(insertSQL) + `, deliveries AS (
		INSERT INTO {s}delivery (id, notification, endpoint, lane, workspace, topic, fixed, state, reason, attempts, stored_at, age_from, due_at,
			finished_at, upstream, status, seconds, error, order_key, created_at, held, place_at)
		SELECT input.id * 100 + d.number, input.id, input.endpoint, d.lane, {indexed input.workspace}, input.topic, d.fixed, d.state, nullif(d.reason, ''),
			d.attempts, d.stored_at, nullif(d.age_from, d.stored_at), CASE WHEN d.state = 'retrying' THEN d.due_at END, CASE WHEN d.state IN ('delivered', 'dead') THEN d.finished_at END,
			nullif(d.upstream, ''), nullif(d.status, 0), d.seconds, nullif(d.error, ''),
			nullif(d.order_key, ''), CASE WHEN d.order_key <> '' THEN d.created_at END, d.order_key <> '' AND d.state IN ('waiting', 'retrying'),
			CASE WHEN d.order_key <> '' THEN now() END
		FROM json_to_recordset($9::json) AS d(place bigint, number bigint, lane text, fixed boolean, state text, reason text, attempts int,
			stored_at timestamptz, age_from timestamptz, due_at timestamptz, finished_at timestamptz, upstream text, status int, seconds real, error text,
			order_key text, created_at timestamptz)
		JOIN input ON input.place = d.place JOIN stored ON stored.id = input.id
	), attempts AS (
		INSERT INTO {s}attempt (delivery, at, instance, upstream, status, seconds, error, answer)
		SELECT input.id * 100 + a.number, a.at + (row_number() OVER (PARTITION BY a.place, a.number, a.at) - 1) * interval '1 microsecond',
			a.instance, nullif(a.upstream, ''), nullif(a.status, 0), a.seconds, a.error, decode(a.answer, 'base64')
		FROM json_to_recordset($10::json) AS a(place bigint, number bigint, at timestamptz, instance text, upstream text, status int, seconds real,
			error text, answer text)
		JOIN input ON input.place = a.place JOIN stored ON stored.id = input.id
		ON CONFLICT DO NOTHING
	)
	SELECT id FROM stored`

// released gives a delivery back: its claim was no attempt. One that had attempts was
// retrying, and its time has come already.
const released = `state = CASE WHEN attempts = 0 THEN 'waiting' ELSE 'retrying' END, claim = NULL, instance = NULL, ` + toPlace

// finishSQL ends claims, and writes down the failed attempts. Who is delivering has a claim
// and an instance, and nobody else; the state is not asked for, as the key finds the rows, and
// not the index of what is delivering.
const finishSQL = `
	WITH outcome AS MATERIALIZED (
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::boolean[],
				$7::timestamptz[], $8::text[], $9::text[], $10::int[], $11::real[], $12::text[], $13::bytea[])
			AS o(id, claim, state, reason, delay, attempted, at, instance, upstream, status, seconds, error, answer)
	), finished AS (
		UPDATE {s}delivery AS d SET
			state = CASE WHEN o.state <> 'waiting' THEN o.state WHEN d.attempts = 0 THEN 'waiting' ELSE 'retrying' END,
			reason = CASE WHEN o.state = 'dead' THEN o.reason END,
			attempts = d.attempts + CASE WHEN o.attempted THEN 1 ELSE 0 END,
			due_at = CASE WHEN o.state = 'retrying' THEN now() + o.delay * interval '1 microsecond' ELSE d.due_at END,
			claim = NULL,
			instance = NULL,
			finished_at = CASE WHEN o.state IN ('delivered', 'dead') THEN now() END,
			upstream = CASE WHEN o.attempted THEN nullif(o.upstream, '') ELSE d.upstream END,
			status = CASE WHEN o.attempted THEN nullif(o.status, 0) ELSE d.status END,
			seconds = CASE WHEN o.attempted THEN o.seconds ELSE d.seconds END,
			error = CASE WHEN o.attempted THEN nullif(o.error, '') ELSE d.error END,
			held = d.order_key IS NOT NULL AND o.state NOT IN ('delivered', 'dead'),
			place_at = CASE WHEN d.place_at IS NOT NULL OR d.order_key IS NOT NULL AND o.state NOT IN ('delivered', 'dead') THEN now() END
		FROM outcome AS o
		WHERE d.id = o.id AND d.instance = $14::text AND d.claim = o.claim
		RETURNING d.id, o.claim
	), logged AS (
		INSERT INTO {s}attempt (delivery, at, instance, upstream, status, seconds, error, answer)
		SELECT o.id, greatest(o.at, (SELECT max(at) + interval '1 microsecond' FROM {s}attempt WHERE delivery = o.id)),
			o.instance, nullif(o.upstream, ''), nullif(o.status, 0), o.seconds, o.error, o.answer
		FROM outcome AS o JOIN finished USING (id, claim) WHERE o.error <> ''
		ON CONFLICT DO NOTHING
	)
	SELECT id FROM finished`

// work implements the part of db.DB that each notification passes, and db.Mover.
type work struct{ *client }

// Store implements db.DB.
func (w work) Store(ctx context.Context, collect func() []*db.NewNotification) (stored []db.Stored, err error) {
	type row struct {
		place, id int64
		twin      bool
	}
	var inserted []row
	var args []any
	sql := storeSQL
	err = w.use(ctx, w.storing, func(conn *pgx.Conn) error {
		if collect != nil {
			batch := collect()
			collect, args, stored = nil, w.storeArgs(batch), slices.Repeat([]db.Stored{{Duplicate: true}}, len(batch))
			if slices.ContainsFunc(batch, func(n *db.NewNotification) bool { return n.Once.Key != "" }) {
				sql = storeOnceSQL
				args = append(args,
					column(batch, func(n *db.NewNotification) string { return n.Once.Key }),
					column(batch, func(n *db.NewNotification) int64 { return n.Once.Within.Microseconds() }))
			}
		}
		if len(stored) == 0 {
			return nil
		}
		insert := statement{hot: true, args: args, scan: each(&inserted, func(n *row) []any { return []any{&n.place, &n.id, &n.twin} })}
		insert.sql = strings.Replace(sql, "{on conflict}", "", 1)
		err := w.send(ctx, conn, durably, insert)
		if sqlState(err) == "23505" { // unique_violation
			insert.sql, insert.hot = strings.Replace(sql, "{on conflict}", "ON CONFLICT DO NOTHING", 1), false
			err = w.send(ctx, conn, durably, insert)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("storing: %w", err)
	}
	for _, n := range inserted {
		stored[n.place-1] = db.Stored{ID: n.id, Twin: n.twin}
	}
	return stored, nil
}

// storeArgs are the parameters of storeSQL.
func (w work) storeArgs(batch []*db.NewNotification) []any {
	type row struct {
		place, number int64
		db.NewDelivery
	}
	var deliveries []row
	for i, n := range batch {
		for number, d := range n.Deliveries {
			deliveries = append(deliveries, row{int64(i + 1), int64(number), d})
		}
	}
	return append(inputArgs(column(batch, func(n *db.NewNotification) *db.Notification { return n.Notification })),
		column(deliveries, func(d row) int64 { return d.place }),
		column(deliveries, func(d row) int64 { return d.number }),
		column(deliveries, func(d row) string { return d.Lane }),
		column(deliveries, func(d row) bool { return d.Fixed }),
		column(deliveries, func(d row) int64 {
			if d.Order.Key != "" {
				return 0
			}
			return int64(d.Token)
		}),
		w.instance, len(batch),
		column(deliveries, func(d row) string { return db.EncodeText(d.Order.Key) }),
		column(deliveries, func(d row) time.Time { return d.Order.CreatedAt }),
		column(deliveries, func(d row) int64 { return d.Hold.Microseconds() }))
}

// inputArgs are the parameters of insertSQL.
func inputArgs(batch []*db.Notification) []any {
	return []any{
		column(batch, func(n *db.Notification) string { return n.Endpoint }),
		column(batch, func(n *db.Notification) string { return db.EncodeText(n.Workspace) }),
		column(batch, func(n *db.Notification) string { return db.EncodeText(n.Topic) }),
		column(batch, func(n *db.Notification) string { return db.EncodeText(n.NotificationID) }),
		column(batch, func(n *db.Notification) time.Time { return n.ReceivedAt }),
		column(batch, func(n *db.Notification) string { return n.Request.Encode() }),
		column(batch, func(n *db.Notification) []byte {
			if n.Body == nil {
				return []byte{} // which is not NULL
			}
			return n.Body
		}),
		column(batch, func(n *db.Notification) string { return db.EncodeText(n.Object) }),
	}
}

// Claim implements db.DB. The first column is how many there were to be claimed, of which
// other transactions may have had some. If it is smaller than both the limit and what is
// looked at of a workspace, there are no more.
func (w work) Claim(ctx context.Context, claim db.Claim) (claimed []db.Claimed, more bool, err error) {
	if claim.Limit <= 0 {
		return nil, false, nil
	}
	first := 1 + rand.N(2) //nolint:gosec // nobody gains by knowing which kind is the first
	var candidates int
	changed := []int64{0}
	statements := []statement{{
		hot: true,
		sql: claimSQL,
		args: []any{
			claim.Lane.Endpoint, claim.Lane.Name, int64(claim.Token), claim.Limit, claim.MaxBytes, db.EncodeText(claim.After),
			append([]int64{}, claim.Except...), w.instance, first,
		},
		scan: each(&claimed, func(c *db.Claimed) []any {
			n := &db.Notification{Endpoint: claim.Lane.Endpoint}
			c.Notification = n
			return []any{
				&candidates, &c.ID, &c.Fixed, &c.Attempts, &c.Age, &c.Ordered, &c.Stale, &n.ID, (*encoded)(&n.Workspace), (*encoded)(&n.Topic), (*encoded)(&n.NotificationID), (*encoded)(&n.Object),
				(*moment)(&n.ReceivedAt), (*request)(&n.Request), &n.Body,
			}
		}),
	}}
	if lane := []any{claim.Lane.Endpoint, claim.Lane.Name}; claim.Ordered {
		statements = slices.Insert(statements, 0, statement{hot: true, sql: lockLaneSQL, args: lane},
			statement{hot: true, sql: placeSQL, args: append(lane, placeRows), scan: eachID(&changed)})
	}
	err = w.run(ctx, "claiming", lazily, statements...)
	if err != nil {
		return nil, false, err
	}
	claimed = slices.DeleteFunc(claimed, func(c db.Claimed) bool { return c.ID == 0 })
	return claimed, changed[0] >= placeRows || candidates > len(claimed) || candidates >= min(claim.Limit, max(claimRows/claim.Limit, 1)), nil
}

// Finish implements db.DB.
func (w work) Finish(ctx context.Context, outcomes []db.Outcome) (applied []int64, err error) {
	for _, o := range outcomes {
		if o.State == db.Delivering || !slices.Contains(db.States, o.State) {
			return nil, fmt.Errorf("finishing: a claim cannot end as %s", o.State)
		}
	}
	for batch := range batches(outcomes, func(o db.Outcome) int64 { return o.ID }) {
		attempted := func(o db.Outcome) bool { return o.Attempt != nil && o.State != db.Waiting }
		made := column(batch, func(o db.Outcome) db.Attempt {
			if attempted(o) {
				return *o.Attempt
			}
			return db.Attempt{}
		})
		var ids []int64
		commit := lazily
		if slices.ContainsFunc(batch, func(o db.Outcome) bool { return o.Ordered }) {
			commit = orderly
		}
		err := w.run(ctx, "finishing", commit, statement{hot: true, sql: finishSQL, scan: eachID(&ids), args: []any{
			column(batch, func(o db.Outcome) int64 { return o.ID }),
			column(batch, func(o db.Outcome) int64 { return int64(o.Token) }),
			column(batch, func(o db.Outcome) string { return string(o.State) }),
			column(batch, func(o db.Outcome) string { return string(o.Reason) }),
			column(batch, func(o db.Outcome) int64 { return o.Delay.Microseconds() }),
			column(batch, attempted),
			column(made, func(a db.Attempt) time.Time { return a.At }),
			column(made, func(a db.Attempt) string { return db.EncodeText(a.Instance) }),
			column(made, func(a db.Attempt) string { return db.EncodeText(a.Upstream) }),
			column(made, func(a db.Attempt) int32 { return int32(a.Status) }), //nolint:gosec // an HTTP status
			column(made, func(a db.Attempt) float32 { return float32(a.Duration.Seconds()) }),
			column(made, func(a db.Attempt) string { return db.EncodeText(a.Error) }),
			column(made, func(a db.Attempt) []byte { return a.Answer }),
			w.instance,
		}})
		if err != nil {
			return applied, err
		}
		applied = append(applied, ids...)
	}
	return applied, nil
}

// Held implements db.DB.
func (w work) Held(ctx context.Context) (held []db.Held, err error) {
	err = w.run(ctx, "reading what this instance has claimed", plainly, statement{
		sql:  `SELECT id, claim FROM {s}delivery WHERE state = 'delivering' AND instance = $1::text`,
		args: []any{w.instance},
		scan: each(&held, func(h *db.Held) []any { return []any{&h.ID, &h.Token} }),
	})
	return held, err
}

// Import implements db.Mover.
func (w work) Import(ctx context.Context, notifications []db.Details) (stored int, err error) {
	type row map[string]any
	deliveries, attempts := []row{}, []row{}
	input := make([]*db.Notification, len(notifications))
	for i := range notifications {
		input[i] = &notifications[i].Notification
		for number, d := range notifications[i].Deliveries {
			deliveries = append(deliveries, row{
				"place": i + 1, "number": number, "lane": d.Lane, "fixed": d.Fixed, "state": d.State, "reason": d.Reason, "attempts": d.Attempts,
				"stored_at": d.StoredAt, "age_from": d.AgeFrom, "due_at": d.DueAt, "finished_at": d.FinishedAt,
				"upstream": db.EncodeText(d.Upstream), "status": d.Status, "seconds": d.Duration.Seconds(), "error": db.EncodeText(d.Error),
				"order_key": db.EncodeText(d.Order.Key), "created_at": d.Order.CreatedAt,
			})
			for _, a := range d.History {
				attempts = append(attempts, row{
					"place": i + 1, "number": number, "at": a.At, "instance": db.EncodeText(a.Instance), "upstream": db.EncodeText(a.Upstream),
					"status": a.Status, "seconds": a.Duration.Seconds(), "error": db.EncodeText(a.Error), "answer": a.Answer,
				})
			}
		}
	}
	var ids []int64
	err = w.run(ctx, "importing notifications", durably, statement{
		sql: importSQL, args: append(inputArgs(input), deliveries, attempts), scan: eachID(&ids),
	})
	return len(ids), err
}
