package postgres

// claimRows is how many deliveries a claim looks at.
const (
	claimRows    = 4096
	claimRowsSQL = `4096`
)

// claimSQL claims deliveries. The workspaces that have waiting ones are found with one look
// at the index each, up to the limit: in the first lap those behind the last one ($6), and in
// the second those up to it. Of each, so many deliveries are looked at that all that are claimed could be its own;
// with hundreds of workspaces, fewer.
//
// Waiting and due retrying ones are taken in turns, and $9 says which kind is the first.
// What another transaction has locked is left out, as it is claimed or changed. Bodies are
// measured without being read.
const claimSQL = `
	WITH RECURSIVE ring(name, last, lap, n, found) AS (
		SELECT {indexed $6::text} COLLATE "C", 9223372036854775807, 1, 0::bigint, false
		UNION ALL
		SELECT coalesce(d.workspace, '' COLLATE "C"), CASE WHEN d.workspace IS NULL THEN 0 ELSE 9223372036854775807 END,
			CASE WHEN d.workspace IS NULL THEN lap + 1 ELSE lap END, n + CASE WHEN d.workspace IS NULL THEN 0 ELSE 1 END, d.workspace IS NOT NULL
		FROM ring LEFT JOIN LATERAL (
			SELECT workspace FROM {s}delivery WHERE state = 'waiting' AND endpoint = $1::text AND lane = $2::text AND NOT held AND (workspace, id) > (ring.name, ring.last)
				AND id <> ALL ($7::bigint[])
			ORDER BY workspace, id LIMIT 1
		) AS d ON true
		WHERE n < $4::bigint AND lap <= 2 AND NOT (lap = 2 AND found AND name >= {indexed $6::text})
	), workspaces AS MATERIALIZED (
		SELECT name, row_number() OVER (ORDER BY n) AS turn, count(*) OVER () AS all
		FROM ring WHERE found AND (lap = 1 OR name <= {indexed $6::text})
	), waiting AS MATERIALIZED (
		SELECT id, row_number() OVER (ORDER BY round, turn) AS place, 1 AS kind FROM workspaces, LATERAL (
			SELECT id, row_number() OVER (ORDER BY id) AS round FROM {s}delivery
			WHERE state = 'waiting' AND endpoint = $1::text AND lane = $2::text AND NOT held AND workspace = workspaces.name AND id <> ALL ($7::bigint[])
			ORDER BY id LIMIT least($4::bigint, greatest(` + claimRowsSQL + ` / workspaces.all, 1))
		) AS own
		ORDER BY place LIMIT $4::bigint
	), due AS MATERIALIZED (
		SELECT id, row_number() OVER (ORDER BY due_at, id) AS place, 2 AS kind FROM {s}delivery
		WHERE state = 'retrying' AND endpoint = $1::text AND lane = $2::text AND NOT held AND due_at <= now() AND id <> ALL ($7::bigint[])
		ORDER BY due_at, id LIMIT $4::bigint
	), chosen AS MATERIALIZED (
		SELECT id, row_number() OVER (ORDER BY place, kind = $9::int, kind) AS place, count(*) OVER () AS all
		FROM (SELECT * FROM waiting UNION ALL SELECT * FROM due) AS both_kinds
		ORDER BY place, kind = $9::int, kind LIMIT $4::bigint
	), sized AS MATERIALIZED (
		SELECT chosen.id AS delivery, place, sum(octet_length(n.body)) OVER (ORDER BY place) AS size, n.*
		FROM chosen JOIN {s}notification AS n ON n.id = chosen.id / 100
	), claimed AS (
		UPDATE {s}delivery SET state = 'delivering', claim = $3::bigint, instance = $8::text,
			place_at = CASE WHEN ` + isAwaited + ` THEN now() + interval '1 second' END
		WHERE id = ANY (ARRAY(
			SELECT id FROM {s}delivery
			WHERE id = ANY (ARRAY(SELECT delivery FROM sized WHERE place = 1 OR size <= $5::bigint)) AND state IN ('waiting', 'retrying') AND NOT held
			ORDER BY id FOR UPDATE SKIP LOCKED
		))
		RETURNING id, fixed, attempts, greatest((extract(epoch FROM now() - coalesce(age_from, stored_at)) * 1000000000)::bigint, 0) AS age,
			order_key IS NOT NULL AS ordered, ` + isStale + ` AS stale
	)
	SELECT coalesce((SELECT max(chosen.all) FROM chosen), 0), coalesce(c.id, 0), coalesce(fixed, false), coalesce(attempts, 0), coalesce(age, 0), coalesce(ordered, false), coalesce(stale, false),
		coalesce(notification, 0), workspace, topic, notification_id, object, received_at, request, body
	FROM (VALUES (1)) AS always LEFT JOIN (
		SELECT claimed.id, fixed, attempts, age, ordered, stale, sized.id AS notification, workspace, topic, notification_id, object, received_at, request, body, place
		FROM claimed JOIN sized ON sized.delivery = claimed.id
	) AS c ON true
	ORDER BY c.place`
