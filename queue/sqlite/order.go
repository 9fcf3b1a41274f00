package sqlite

import (
	"context"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// placeRows is how many deliveries are placed in the order of their objects before a claim.
const placeRows = 128

// place gives the turns of the objects of a lane ?2 of an endpoint ?1 at ?3. It looks at the
// objects of up to ?4 deliveries that have changed: at the first held one of each, at the one
// that has its turn, and at the one that is delivering, after which there is to be another look.
const place = `WITH changed AS MATERIALIZED (
		SELECT id, order_key FROM delivery INDEXED BY delivery_place WHERE endpoint = ?1 AND lane = ?2 AND place_at <= ?3 ORDER BY place_at LIMIT ?4
	), first AS MATERIALIZED (
		SELECT d.id, row_number() OVER object = 1 AND d.state <> 'delivering' AS turn, count(*) OVER (PARTITION BY d.order_key) > 1 AS awaited
		FROM (SELECT DISTINCT order_key FROM changed) AS object
		CROSS JOIN (VALUES ('waiting', FALSE), ('waiting', TRUE), ('retrying', FALSE), ('retrying', TRUE), ('delivering', FALSE)) AS kind
		JOIN delivery AS d ON d.id = (
			SELECT id FROM delivery INDEXED BY delivery_order WHERE endpoint = ?1 AND lane = ?2 AND order_key = object.order_key
				AND state = kind.column1 AND held = kind.column2 ORDER BY created_at, id LIMIT 1)
		WINDOW object AS (PARTITION BY d.order_key ORDER BY d.state <> 'delivering', d.created_at, d.id)
	)
	UPDATE delivery SET
		held = state IN ('waiting', 'retrying') AND NOT (seen.turn AND (place_at IS NULL OR place_at <= ?3)),
		place_at = CASE WHEN state = 'delivering' AND seen.awaited THEN ?3 + 1000000 WHEN place_at > ?3 THEN place_at END
	FROM (SELECT * FROM first UNION ALL SELECT id, FALSE, FALSE FROM changed WHERE id NOT IN (SELECT id FROM first)) AS seen
	WHERE delivery.id = seen.id`

// placeAgain makes the objects of deliveries be looked at some of which are about to be deleted,
// through these themselves and the next one of each object. The ids are in ?1, and it is ?2.
const placeAgain = `UPDATE delivery SET place_at = ?2 WHERE id IN (
	SELECT (SELECT next.id FROM delivery AS next INDEXED BY delivery_order WHERE next.endpoint = gone.endpoint AND next.lane = gone.lane
		AND next.order_key = gone.order_key AND next.state = kind.column1 AND next.held AND next.id NOT IN (SELECT value FROM json_each(?1))
		ORDER BY next.created_at, next.id LIMIT 1)
	FROM json_each(?1) AS wanted CROSS JOIN delivery AS gone ON gone.id = wanted.value CROSS JOIN (VALUES ('waiting'), ('retrying')) AS kind
	WHERE gone.order_key IS NOT NULL
	UNION ALL SELECT value FROM json_each(?1)) AND held AND place_at IS NULL`

// isAwaited is the condition that another delivery of the object is held. One that is still to
// be placed has its own look.
const isAwaited = `order_key IS NOT NULL AND EXISTS (SELECT 1 FROM delivery AS next INDEXED BY delivery_held
	WHERE next.endpoint = delivery.endpoint AND next.lane = delivery.lane AND next.order_key = delivery.order_key AND next.held AND next.place_at IS NULL)`

// isStale is the condition that a delivery behind it in the order is delivered.
const isStale = `order_key IS NOT NULL AND EXISTS (SELECT 1 FROM delivery AS newer INDEXED BY delivery_order
	WHERE newer.endpoint = delivery.endpoint AND newer.lane = delivery.lane AND newer.order_key = delivery.order_key
		AND newer.state = 'delivered' AND newer.held = FALSE AND (newer.created_at, newer.id) > (delivery.created_at, delivery.id))`

// heldBack finds for each lane which objects have deliveries that are held back, and what is
// before the oldest one.
const heldBack = `SELECT endpoint, lane, objects, max(?1 - oldest, 0), coalesce(
		(SELECT coalesce(n.notification_id, n.id) FROM delivery AS back CROSS JOIN delivery AS d INDEXED BY delivery_order
			ON d.endpoint = back.endpoint AND d.lane = back.lane AND d.order_key = back.order_key AND d.state IN ('delivering', 'retrying', 'waiting') AND d.held = FALSE
			JOIN notification AS n ON n.id = d.notification WHERE back.id = found.id LIMIT 1), '')
	FROM (SELECT endpoint, lane, count(DISTINCT order_key) AS objects, min(stored_at) AS oldest, min(id) AS id
		FROM delivery INDEXED BY delivery_held WHERE held AND place_at IS NULL GROUP BY endpoint, lane) AS found`

// giveTurns places deliveries of a lane in the order of their objects, and reports whether there
// may be more to place.
func giveTurns(ctx context.Context, write *writer, lane db.Lane) (more bool, err error) {
	changed, err := write.exec(ctx, place, lane.Endpoint, lane.Name, now(), placeRows)
	return changed >= placeRows, err
}

// readHeldBack is the part of Backlog that concerns the order.
func readHeldBack(ctx context.Context, read *statements) ([]db.HeldBack, error) {
	rows, err := read.query(ctx, heldBack, now())
	held, err := collect(rows, err, func(h *db.HeldBack) []any {
		return []any{&h.Lane.Endpoint, &h.Lane.Name, &h.Objects, &h.Oldest, text(&h.By)}
	})
	for i := range held {
		held[i].Oldest *= time.Microsecond //nolint:durationcheck // SQLite gave microseconds
	}
	return held, err
}
