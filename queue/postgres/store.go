package postgres

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// storeSQL inserts notifications, in the order of their keys: two instances that wait for
// each other's duplicates would never end. Ids are in the order of the batch.
//
// Duplicates of what is there are left out. What another transaction stores at the same time,
// or what the batch has twice, violates the key: then the statement is repeated so that it
// leaves those out as well. (ON CONFLICT costs a further record of the log for each row.)
//
// If there is a duplicate, the transaction writes a row all the same, so that its commit
// waits for the disk and the standby like the first one's.
const storeSQL = `
	WITH input AS MATERIALIZED (
		SELECT nextval('{s}notification_id_seq'::regclass) AS id, n.*
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::bytea[])
			WITH ORDINALITY AS n(endpoint, workspace, topic, notification_id, received_at, request, body, place)
	), stored AS (
		INSERT INTO {s}notification (id, endpoint, workspace, topic, notification_id, received_at, request, body)
		SELECT id, endpoint, workspace, topic, nullif(notification_id, ''), received_at, request, body FROM input
		WHERE (SELECT n.id FROM {s}notification AS n WHERE {key n.endpoint n.notification_id} = {key input.endpoint input.notification_id}
			AND {indexed n.workspace} = {indexed input.workspace} AND n.notification_id IS NOT NULL LIMIT 1) IS NULL
		ORDER BY notification_id COLLATE "C", workspace COLLATE "C", endpoint COLLATE "C", id
		{on conflict} RETURNING id
	), deliveries AS (
		INSERT INTO {s}delivery (id, notification, endpoint, lane, workspace, topic, fixed, state, claim, instance)
		SELECT input.id * 100 + d.number, input.id, input.endpoint, d.lane, {indexed input.workspace}, input.topic, d.fixed,
			CASE WHEN d.claim = 0 THEN 'waiting' ELSE 'delivering' END, nullif(d.claim, 0), CASE WHEN d.claim <> 0 THEN $13::text END
		FROM unnest($8::bigint[], $9::bigint[], $10::text[], $11::boolean[], $12::bigint[]) AS d(place, number, lane, fixed, claim)
		JOIN input ON input.place = d.place JOIN stored ON stored.id = input.id
	), touched AS (
		INSERT INTO {s}instance AS i (id) SELECT $13::text WHERE (SELECT count(*) FROM stored) < $14::bigint
		ON CONFLICT (id) DO UPDATE SET version = i.version
	)
	SELECT input.place, stored.id FROM input JOIN stored ON stored.id = input.id`

// storing is a batch of notifications by columns.
type storing struct {
	endpoints, workspaces, topics, ids []string
	received                           []time.Time
	requests                           []string
	bodies                             [][]byte

	// of the deliveries
	places, numbers []int64
	lanes           []string
	fixed           []bool
	claims          []int64
}

func newStoring(batch []*db.NewNotification) *storing {
	s := new(storing)
	for i, n := range batch {
		s.endpoints = append(s.endpoints, n.Endpoint)
		s.workspaces = append(s.workspaces, db.EncodeText(n.Workspace))
		s.topics = append(s.topics, db.EncodeText(n.Topic))
		s.ids = append(s.ids, db.EncodeText(n.NotificationID))
		s.received = append(s.received, n.ReceivedAt)
		s.requests = append(s.requests, n.Request.Encode())
		s.bodies = append(s.bodies, notNil(n.Body))
		for number, d := range n.Deliveries {
			s.places = append(s.places, int64(i+1))
			s.numbers = append(s.numbers, int64(number))
			s.lanes = append(s.lanes, d.Lane)
			s.fixed = append(s.fixed, d.Fixed)
			s.claims = append(s.claims, int64(d.Token))
		}
	}
	return s
}

func notNil(body []byte) []byte {
	if body == nil {
		return []byte{}
	}
	return body
}

// store inserts a batch. What is not inserted is a duplicate.
func store(ctx context.Context, c *client, conn *pgx.Conn, batch []*db.NewNotification) ([]db.Stored, error) {
	stored := make([]db.Stored, len(batch))
	if len(batch) == 0 {
		return stored, nil
	}
	for i := range stored {
		stored[i].Duplicate = true
	}
	s := newStoring(batch)
	insert := statement{
		hot: true,
		sql: strings.Replace(storeSQL, "{on conflict}", "", 1),
		args: []any{
			s.endpoints, s.workspaces, s.topics, s.ids, s.received, s.requests, s.bodies,
			s.places, s.numbers, s.lanes, s.fixed, s.claims, c.instance, len(batch),
		},
		scan: func(rows pgx.Rows) error {
			var place, id int64
			_, err := pgx.ForEachRow(rows, []any{&place, &id}, func() error {
				stored[place-1] = db.Stored{ID: id}
				return nil
			})
			return err
		},
	}
	err := c.send(ctx, conn, durably, []statement{insert})
	if sqlState(err) == "23505" { // unique_violation
		insert.sql, insert.hot = strings.Replace(storeSQL, "{on conflict}", "ON CONFLICT DO NOTHING", 1), false
		err = c.send(ctx, conn, durably, []statement{insert})
	}
	return stored, err
}

// work implements the part of db.DB that each notification passes.
type work struct{ *client }

// Store implements db.DB.
func (w work) Store(ctx context.Context, collect func() []*db.NewNotification) (stored []db.Stored, err error) {
	var batch []*db.NewNotification
	err = w.use(ctx, w.storing, func(conn *pgx.Conn) error {
		if collect != nil {
			batch, collect = collect(), nil
		}
		stored, err = store(ctx, w.client, conn, batch)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("storing: %w", err)
	}
	return stored, nil
}

// Claim implements db.DB.
func (w work) Claim(ctx context.Context, claim db.Claim) (claimed []db.Claimed, more bool, err error) {
	if claim.Limit <= 0 {
		return nil, false, nil
	}
	err = w.run(ctx, lazily, statement{hot: true, sql: claimSQL, args: claimArgs(claim, w.instance), scan: func(rows pgx.Rows) (err error) {
		claimed, more, err = readClaimed(rows, claim)
		return err
	}})
	if err != nil {
		return nil, false, fmt.Errorf("claiming: %w", err)
	}
	return claimed, more, nil
}

// Finish implements db.DB. Outcomes are written in the order of the ids, so that no two
// transactions wait for each other.
func (w work) Finish(ctx context.Context, outcomes []db.Outcome) (applied []int64, err error) {
	for batch := range batches(outcomes, func(a, b db.Outcome) int { return cmp.Compare(a.ID, b.ID) }) {
		finished, err := newFinishing(batch)
		if err != nil {
			return applied, err
		}
		ids, err := w.ids(ctx, lazily, statement{hot: true, sql: finishSQL, args: finished.args(w.instance)})
		if err != nil {
			return applied, fmt.Errorf("finishing: %w", err)
		}
		applied = append(applied, ids...)
	}
	return applied, nil
}

// Held implements db.DB.
func (w work) Held(ctx context.Context) (held []db.Held, err error) {
	err = w.run(ctx, plainly, statement{
		sql:  `SELECT id, claim FROM {s}delivery WHERE state = 'delivering' AND instance = $1::text`,
		args: []any{w.instance},
		scan: func(rows pgx.Rows) (err error) {
			held, err = pgx.CollectRows(rows, pgx.RowToStructByPos[db.Held])
			return err
		},
	})
	if err != nil {
		return nil, fmt.Errorf("reading what this instance has claimed: %w", err)
	}
	return held, nil
}
