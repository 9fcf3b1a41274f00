package postgres

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// conditions select deliveries, which are called d.
type conditions struct {
	walk []string // those that an index knows
	rest []string
	args []any

	walked int // how many of the args are of walk
}

// text returns a condition that has a %s for each argument.
func (q *conditions) text(condition string, args ...any) string {
	places := make([]any, len(args))
	for i, arg := range args {
		q.args = append(q.args, arg)
		places[i] = "$" + strconv.Itoa(len(q.args))
	}
	return fmt.Sprintf(condition, places...)
}

// filter adds the conditions of a filter.
func (q *conditions) filter(filter db.Filter) {
	const ofNotifications = "d.id = ANY (ARRAY(SELECT wanted.id * 100 + place FROM generate_series(0, 99) AS place, (%s) AS wanted(id)))"
	if filter.Object != "" {
		object := db.EncodeText(filter.Object)
		q.walk = append(q.walk, fmt.Sprintf(ofNotifications, q.text("SELECT id FROM {s}notification WHERE object IS NOT NULL"+
			" AND {object id} IN (%[1]s::text, %[2]s::text) AND %[1]s::text IN (object, {object id})", object, db.ObjectID(object))))
	}
	if filter.Notification != "" {
		same, args := "n.notification_id = %[2]s::text", []any{db.RowID(filter.Notification), db.EncodeText(filter.Notification)}
		if filter.Endpoint != "" {
			same += " AND {key n.endpoint n.notification_id} = {key %[3]s::text %[2]s::text}"
			args = append(args, filter.Endpoint)
		}
		q.walk = append(q.walk, fmt.Sprintf(ofNotifications, q.text("SELECT %[1]s::bigint UNION SELECT n.id FROM {s}notification AS n WHERE "+same, args...)))
	}
	var states []string // in the statement itself, so that the server can use partial indexes
	for _, state := range db.States {
		if slices.Contains(filter.States, state) {
			states = append(states, "d.state = '"+string(state)+"'")
		}
	}
	switch inStates := "(" + strings.Join(states, " OR ") + ")"; {
	case len(filter.States) == 0:
	case slices.Contains(filter.States, db.Delivered): // which no index has
		q.rest = append(q.rest, inStates)
	default:
		q.walk = append(q.walk, inStates)
	}
	q.walked = len(q.args)
	for _, one := range []struct {
		condition string
		arg       any
		wanted    bool
	}{
		{"d.endpoint = %s::text", filter.Endpoint, filter.Endpoint != ""},
		{"d.reason = ANY (%s::text[])", column(filter.Reasons, func(r db.Reason) string { return string(r) }), len(filter.Reasons) > 0},
		{"ARRAY[d.status, d.status / 100] && %s::int[]", filter.Statuses, len(filter.Statuses) > 0},
		{"d.topic ~ %s::text", topicExpression(filter.Topic), filter.Topic != ""},
		{"d.lane = %s::text", filter.Lane, filter.Lane != ""},
		{"d.workspace = {indexed %s::text}", db.EncodeText(filter.Workspace), filter.Workspace != ""},
		{"d.stored_at >= %s::timestamptz", filter.Since, !filter.Since.IsZero()},
		{"d.stored_at < %s::timestamptz", filter.Until, !filter.Until.IsZero()},
		{"d.finished_at >= %s::timestamptz", filter.FinishedSince, !filter.FinishedSince.IsZero()},
		{"d.finished_at < %s::timestamptz", filter.FinishedUntil, !filter.FinishedUntil.IsZero()},
		{"d.reason IS DISTINCT FROM %s::text", string(db.Cancelled), filter.Uncancelled},
		{"(d.finished_at IS NULL OR d.finished_at <= %s::timestamptz)", filter.AsOf, !filter.AsOf.IsZero()},
	} {
		if one.wanted {
			q.rest = append(q.rest, q.text(one.condition, one.arg))
		}
	}
	if filter.Error != "" { // escaped, all bytes are text
		q.rest = append(q.rest, q.text("(d.error = %[2]s::text OR d.error <> '' AND strpos(lower(encode(convert_to(d.error, 'UTF8')"+
			" || coalesce((SELECT a.answer FROM {s}attempt AS a WHERE a.delivery = d.id ORDER BY a.at DESC LIMIT 1), ''), 'escape')),"+
			" lower(encode(%[1]s::bytea, 'escape'))) > 0)", []byte(filter.Error), db.EncodeText(filter.Error)))
	}
}

func where(conditions []string) string {
	if len(conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(conditions, " AND ")
}

// topicExpression returns the regular expression of a topic pattern: see topicpattern.Matches.
func topicExpression(pattern string) string {
	segments := strings.Split(pattern, ".")
	for i, segment := range segments {
		switch {
		case segment != "*":
			segments[i] = regexp.QuoteMeta(segment)
		case i == len(segments)-1:
			segments[i] = ".*"
		default:
			segments[i] = "[^.]*"
		}
	}
	return "^" + strings.Join(segments, `\.`) + "$"
}

const (
	// anew gives a delivery its whole schedule again.
	anew = `state = 'waiting', reason = NULL, attempts = 0, age_from = now(), finished_at = NULL, ` + toPlace

	retrySQL = `UPDATE {s}delivery SET ` + anew + ` WHERE id = ANY (ARRAY(
		SELECT d.id FROM {s}delivery AS d{where} AND d.state NOT IN ('waiting', 'delivering') ORDER BY d.id FOR UPDATE)) RETURNING id`

	// One that is sent twice at once is sent once: the notification is locked.
	sendSQL = `
		WITH chosen AS MATERIALIZED (
			SELECT d.id, d.notification, d.lane, d.state FROM {s}delivery AS d{where} AND d.state <> 'delivering' ORDER BY d.id FOR UPDATE
		), present AS MATERIALIZED (
			SELECT d.id, d.notification FROM (SELECT DISTINCT notification FROM chosen) AS c
			JOIN {s}delivery AS d ON d.id BETWEEN c.notification * 100 AND c.notification * 100 + 99 WHERE d.lane = $1::text
		), retried AS (
			UPDATE {s}delivery SET ` + anew + ` WHERE id IN (SELECT id FROM present) AND state NOT IN ('waiting', 'delivering')
		), added AS (
			INSERT INTO {s}delivery (id, notification, endpoint, lane, workspace, topic, fixed, state)
			SELECT max(d.id) + 1, d.notification, max(d.endpoint), $1::text, max(d.workspace), max(d.topic), true, 'waiting'
			FROM (SELECT DISTINCT notification FROM chosen WHERE notification NOT IN (SELECT notification FROM present)) AS c
			JOIN {s}delivery AS d ON d.id BETWEEN c.notification * 100 AND c.notification * 100 + 99
			GROUP BY d.notification HAVING max(d.id) < d.notification * 100 + 99
			RETURNING notification
		), sent AS MATERIALIZED (
			SELECT id, lane, state FROM chosen WHERE notification IN (SELECT notification FROM present UNION ALL SELECT notification FROM added)
		), cancelled AS (
			UPDATE {s}delivery SET state = 'dead', reason = 'cancelled', finished_at = now(), error = 'sent to ' || $1::text,
				held = false, place_at = CASE WHEN order_key IS NOT NULL THEN now() END
			WHERE id IN (SELECT id FROM sent WHERE lane <> $1::text AND state <> 'delivered')
		)
		SELECT id FROM sent`
)

// changing returns the statements of a change of some ids. The one that changes repeats the
// filter, as rows may have changed since they were selected.
func changing(change db.Change, ids []int64, changed *[]int64) ([]statement, error) {
	q := new(conditions)
	if change.Action == db.Send {
		q.args = []any{change.To}
	}
	q.filter(change.Filter)
	switch change.Action {
	case db.Retry:
		return []statement{q.changing(retrySQL, ids, changed)}, nil
	case db.Send:
		return []statement{{sql: lockNotificationsSQL, args: []any{ids}}, q.changing(sendSQL, ids, changed)}, nil
	case db.Drop:
		q.rest = append(q.rest, "d.state <> 'delivering'")
		return deletion(ids, q, changed), nil
	case db.Erase:
		return deletion(ids, q, changed), nil
	default:
		return nil, fmt.Errorf("changing deliveries: unknown action %q", change.Action)
	}
}

// changing returns a statement that changes those of the ids that fit the conditions.
func (q *conditions) changing(sql string, ids []int64, changed *[]int64) statement {
	q.rest = append(q.rest, q.text("d.id = ANY (%s::bigint[])", ids))
	return statement{sql: strings.Replace(sql, "{where}", where(slices.Concat(q.walk, q.rest)), 1), args: q.args, scan: eachID(changed)}
}

// These statements delete deliveries, with what then belongs to none any more. The first one
// locks the notifications: of two transactions that delete deliveries of one, the second one
// sees what the first one has left. All locks are taken in the order of the ids.
const (
	lockNotificationsSQL = `SELECT id FROM {s}notification WHERE id IN (SELECT delivery / 100 FROM unnest($1::bigint[]) AS d(delivery)) ORDER BY id FOR UPDATE`

	deleteSQL = `DELETE FROM {s}delivery WHERE id = ANY (ARRAY(
		SELECT d.id FROM {s}delivery AS d{where} ORDER BY d.id FOR UPDATE)) RETURNING id`

	deleteAttemptsSQL = `DELETE FROM {s}attempt AS a WHERE delivery = ANY ($1::bigint[]) AND NOT EXISTS (SELECT FROM {s}delivery WHERE id = a.delivery)`

	deleteNotificationsSQL = `DELETE FROM {s}notification AS n WHERE id IN (SELECT delivery / 100 FROM unnest($1::bigint[]) AS d(delivery))
		AND NOT EXISTS (SELECT FROM {s}delivery WHERE id BETWEEN n.id * 100 AND n.id * 100 + 99)`
)

// deletion deletes those of the deliveries that fit the conditions.
func deletion(ids []int64, q *conditions, deleted *[]int64) []statement {
	return []statement{
		{sql: lockNotificationsSQL, args: []any{ids}},
		{sql: placeAgainSQL, args: []any{ids}},
		q.changing(deleteSQL, ids, deleted),
		{sql: deleteAttemptsSQL, args: []any{ids}},
		{sql: deleteNotificationsSQL, args: []any{ids}},
	}
}
