package postgres

// placeRows is how many deliveries are placed in the order of their objects before a claim.
const placeRows = 128

const (
	// lockLaneSQL keeps other instances from giving turns, and from claiming, in the lane.
	lockLaneSQL = `SELECT pg_advisory_xact_lock(hashtextextended('{s}' || $1::text || ' ' || $2::text, 0))`

	// placeSQL gives the turns of the objects of a lane. It looks at the objects of up to $3
	// deliveries that have changed: at the first held one of each, at the one that has its turn,
	// and at the one that is delivering, after which there is to be another look. What has
	// changed meanwhile is looked at again. It returns how many deliveries had changed. Rows are
	// locked in the order of their ids, as batches says.
	placeSQL = `
		WITH changed AS MATERIALIZED (
			SELECT id, order_key, state, place_at FROM {s}delivery WHERE endpoint = $1::text AND lane = $2::text AND place_at <= now() ORDER BY place_at LIMIT $3::bigint
		), first AS MATERIALIZED (
			SELECT d.id, d.state, d.place_at, row_number() OVER object = 1 AND d.state <> 'delivering' AS turn, count(*) OVER (PARTITION BY d.order_key) > 1 AS awaited
			FROM (SELECT DISTINCT order_key FROM changed) AS object
			CROSS JOIN (VALUES ('waiting', false), ('waiting', true), ('retrying', false), ('retrying', true), ('delivering', false)) AS kind(state, held)
			CROSS JOIN LATERAL (
				SELECT id, order_key, state, created_at, place_at FROM {s}delivery WHERE endpoint = $1::text AND lane = $2::text
					AND order_key = object.order_key AND state = kind.state AND held = kind.held ORDER BY created_at, id LIMIT 1
			) AS d
			WINDOW object AS (PARTITION BY d.order_key ORDER BY d.state <> 'delivering', d.created_at, d.id)
		), seen AS MATERIALIZED (
			SELECT id, state, place_at, turn, awaited FROM first
			UNION ALL SELECT id, state, place_at, false, false FROM changed WHERE id NOT IN (SELECT id FROM first)
			ORDER BY id
		), placed AS (
			UPDATE {s}delivery AS d SET
				held = d.state IN ('waiting', 'retrying') AND NOT (seen.turn AND (d.place_at IS NULL OR d.place_at <= now())),
				place_at = CASE WHEN d.state = 'delivering' AND seen.awaited THEN now() + interval '1 second'
					WHEN seen.state = 'delivering' AND seen.awaited THEN now()
					WHEN d.place_at > now() THEN d.place_at END
			FROM seen
			WHERE d.id = seen.id AND (seen.state = 'delivering' OR d.state = seen.state AND d.place_at IS NOT DISTINCT FROM seen.place_at)
		)
		SELECT count(*) FROM changed`

	// placeAgainSQL makes the objects of deliveries be looked at some of which are about to be
	// deleted, through these themselves and the next one of each object.
	placeAgainSQL = `UPDATE {s}delivery SET place_at = now() WHERE place_at IS NULL AND held AND id = ANY ($1::bigint[] || ARRAY(
		SELECT next.id FROM {s}delivery AS gone CROSS JOIN (VALUES ('waiting'), ('retrying')) AS kind(state) CROSS JOIN LATERAL (
			SELECT id FROM {s}delivery WHERE endpoint = gone.endpoint AND lane = gone.lane AND order_key = gone.order_key AND state = kind.state AND held
				AND id <> ALL ($1::bigint[]) ORDER BY created_at, id LIMIT 1
		) AS next
		WHERE gone.id = ANY ($1::bigint[]) AND gone.order_key IS NOT NULL ORDER BY 1))`

	// toPlace holds a delivery until it has been placed again in the order of its object.
	toPlace = `held = order_key IS NOT NULL, place_at = CASE WHEN order_key IS NOT NULL THEN now() END`

	// ofObject begins a condition that another delivery of the object is there. It is no EXISTS,
	// which the server may answer by reading all.
	ofObject = `order_key IS NOT NULL AND (SELECT true FROM {s}delivery AS other
		WHERE other.endpoint = delivery.endpoint AND other.lane = delivery.lane AND other.order_key = delivery.order_key AND `

	isAwaited = ofObject + `other.held AND other.place_at IS NULL LIMIT 1) IS TRUE`
	isStale   = ofObject + `other.state = 'delivered' AND NOT other.held AND (other.created_at, other.id) > (delivery.created_at, delivery.id) LIMIT 1) IS TRUE`

	// heldBackSQL finds for each lane which objects have deliveries that are held back, and what is
	// before the oldest one.
	heldBackSQL = `
		SELECT f.endpoint, f.lane, f.objects, greatest((extract(epoch FROM now() - f.oldest) * 1000000000)::bigint, 0), coalesce((
			SELECT coalesce(n.notification_id, n.id::text) FROM {s}delivery AS back JOIN {s}delivery AS d
				ON d.endpoint = back.endpoint AND d.lane = back.lane AND d.order_key = back.order_key AND d.state IN ('delivering', 'retrying', 'waiting') AND NOT d.held
			JOIN {s}notification AS n ON n.id = d.notification WHERE back.id = f.id LIMIT 1), '')
		FROM (
			SELECT endpoint, lane, count(DISTINCT order_key) AS objects, min(stored_at) AS oldest, min(id) AS id
			FROM {s}delivery WHERE held AND place_at IS NULL GROUP BY endpoint, lane
		) AS f`
)
