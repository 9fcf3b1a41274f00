package sqlite

import (
	"context"
	"slices"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// claimWaiting and the like are for a lane ?2 of an endpoint ?1.
const (
	claimWaiting = ` FROM delivery INDEXED BY delivery_waiting WHERE state = 'waiting' AND endpoint = ?1 AND lane = ?2 AND held = FALSE`

	claimNext = `SELECT id` + claimWaiting + ` AND workspace = name AND id NOT IN (SELECT value FROM json_each(?3))`

	oneWorkspace = `(SELECT workspace` + claimWaiting + ` ORDER BY workspace LIMIT 1) = (SELECT workspace` + claimWaiting + ` ORDER BY workspace DESC LIMIT 1)`

	bodySize = `(SELECT octet_length(bytes) FROM body WHERE notification = id / 100)`
)

// candidates lists up to ?5 deliveries that are due at ?6, and then up to ?5 waiting ones, in
// the order in which workspaces take turns, but for the ids in ?3.
//
// It finds the workspaces that have waiting deliveries by looking at one of each: those
// behind ?4, and then those up to it. Then it takes the next delivery of each, round by round,
// in one look at the index for each. (SQLite takes the rows of a recursive table in its order.)
// If there is only one workspace, it goes along the index.
const candidates = `WITH RECURSIVE behind (name) AS (
		SELECT (SELECT workspace` + claimWaiting + ` AND workspace > ?4 ORDER BY workspace LIMIT 1)
		UNION ALL
		SELECT (SELECT workspace` + claimWaiting + ` AND workspace > name ORDER BY workspace LIMIT 1)
		FROM behind WHERE name IS NOT NULL LIMIT ?5 + json_array_length(?3)
	), upto (name) AS (
		SELECT (SELECT workspace` + claimWaiting + ` AND workspace <= ?4 ORDER BY workspace LIMIT 1)
		UNION ALL
		SELECT (SELECT workspace` + claimWaiting + ` AND workspace > name AND workspace <= ?4 ORDER BY workspace LIMIT 1)
		FROM upto WHERE name IS NOT NULL LIMIT ?5 + json_array_length(?3)
	), turn (round, part, name, id) AS (
		SELECT 1, part, name, (` + claimNext + ` ORDER BY id LIMIT 1)
		FROM (SELECT 1 AS part, name FROM behind UNION ALL SELECT 2, name FROM upto) WHERE name IS NOT NULL AND NOT (` + oneWorkspace + `)
		UNION ALL
		SELECT round + 1, part, name, (` + claimNext + ` AND id > turn.id ORDER BY id LIMIT 1)
		FROM turn WHERE id IS NOT NULL
		ORDER BY 1, 2, 3
	)
	SELECT id, ` + bodySize + `, 1 FROM (
		SELECT id FROM delivery INDEXED BY delivery_retrying WHERE state = 'retrying' AND endpoint = ?1 AND lane = ?2 AND held = FALSE AND due_at <= ?6
			AND id NOT IN (SELECT value FROM json_each(?3)) ORDER BY due_at, id LIMIT ?5)
	UNION ALL
	SELECT id, ` + bodySize + `, 0 FROM (SELECT id` + claimWaiting + ` AND ` + oneWorkspace + `
			AND id NOT IN (SELECT value FROM json_each(?3)) ORDER BY workspace, id LIMIT ?5)
	UNION ALL
	SELECT id, ` + bodySize + `, 0 FROM (SELECT id FROM turn WHERE id IS NOT NULL LIMIT ?5)`

type candidate struct {
	id   int64
	size int // of its body, in bytes
	due  bool
}

// choose returns the ids of what may be claimed within the limits, half of it due and half of
// it waiting where there is enough of both, and whether there is more.
func choose(ctx context.Context, read *statements, claim db.Claim) (ids []int64, more bool, err error) {
	rows, err := read.query(ctx, candidates, claim.Lane.Endpoint, claim.Lane.Name, jsonOf(claim.Except), db.EncodeText(claim.After), claim.Limit, now())
	found, err := collect(rows, err, func(c *candidate) []any { return []any{&c.id, &c.size, &c.due} })
	if err != nil {
		return nil, false, err
	}
	due := 0
	for due < len(found) && found[due].due {
		due++
	}
	waiting := found[due:]
	half := (claim.Limit + 1) / 2
	due = min(due, max(half, claim.Limit-len(waiting)))
	size := 0
	for _, c := range slices.Concat(found[:due], waiting[:min(len(waiting), claim.Limit-due)]) {
		if size += c.size; len(ids) > 0 && size > claim.MaxBytes {
			return ids, true, nil
		}
		ids = append(ids, c.id)
	}
	return ids, len(found) > len(ids) || len(ids) == claim.Limit, nil
}

const claimAll = `UPDATE delivery SET state = 'delivering', claim = ?2, instance = ?3, place_at = CASE WHEN ` + isAwaited + ` THEN ?4 + 1000000 END
	WHERE id IN (SELECT value FROM json_each(?1)) AND +state IN ('waiting', 'retrying') AND NOT +held
	RETURNING id, fixed, attempts, max(?4 - age_from, 0), order_key IS NOT NULL, ` + isStale

// claimThese marks deliveries as claimed. It needs the write lock.
func claimThese(run *statements, ids []int64, token db.Token, instance string) ([]db.Claimed, error) {
	rows, err := run.query(context.Background(), claimAll, jsonOf(ids), int64(token), instance, now())
	claimed, err := collect(rows, err, func(c *db.Claimed) []any { return []any{&c.ID, &c.Fixed, &c.Attempts, &c.Age, &c.Ordered, &c.Stale} })
	for i := range claimed {
		claimed[i].Age *= time.Microsecond //nolint:durationcheck // SQLite gave microseconds
	}
	return claimed, err
}

const readByID = `SELECT n.id, n.endpoint, n.workspace, n.topic, n.notification_id, n.object, n.received_at, n.request, b.bytes
	FROM json_each(?) AS wanted CROSS JOIN notification AS n ON n.id = wanted.value CROSS JOIN body AS b ON b.notification = n.id`

// readNotifications returns notifications with their bodies, by id.
func readNotifications(ctx context.Context, read *statements, ids []int64) (map[int64]*db.Notification, error) {
	var requests []*string
	rows, err := read.query(ctx, readByID, jsonOf(ids))
	found, err := collect(rows, err, func(n *db.Notification) []any {
		requests = append(requests, new(string))
		return []any{&n.ID, &n.Endpoint, text(&n.Workspace), &n.Topic, text(&n.NotificationID), text(&n.Object), moment(&n.ReceivedAt), requests[len(requests)-1], &n.Body}
	})
	if err != nil {
		return nil, err
	}
	notifications := make(map[int64]*db.Notification, len(found))
	for i := range found {
		n := &found[i]
		if n.Request, err = db.DecodeRequest(*requests[i]); err != nil {
			return nil, err
		}
		notifications[n.ID] = n
	}
	return notifications, nil
}
