package postgres

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// conditions select deliveries, which are called d.
type conditions struct {
	texts []string
	args  []any
}

// newConditions returns the conditions of a filter. Its endpoint is the parameter $1, and
// further arguments follow. Without one, deliveries of all endpoints fit.
func newConditions(filter db.Filter, further ...any) *conditions {
	ofEndpoint := "d.endpoint = $1::text"
	if filter.Endpoint == "" {
		ofEndpoint = "$1::text = ''"
	}
	q := &conditions{[]string{ofEndpoint}, append([]any{filter.Endpoint}, further...)}
	if len(filter.States) > 0 {
		q.texts = append(q.texts, "d.state IN ("+quoted(filter.States, db.States)+")")
	}
	if len(filter.Reasons) > 0 {
		q.texts = append(q.texts, "d.reason IN ("+quoted(filter.Reasons, db.Reasons)+")")
	}
	if filter.Topic != "" {
		q.add("d.topic ~ %s::text", topicExpression(filter.Topic))
	}
	if filter.Lane != "" {
		q.add("d.lane = %s::text", filter.Lane)
	}
	if filter.Workspace != "" {
		q.add("d.workspace = %s::text", indexed(filter.Workspace))
	}
	if filter.Notification != "" {
		q.add("d.id IN (SELECT n.id * 100 + place FROM {s}notification AS n, generate_series(0, 99) AS place WHERE n.endpoint = $1::text"+
			" AND {key n.endpoint n.notification_id} = {key $1::text %[1]s::text} AND n.notification_id = %[1]s::text"+
			" UNION ALL SELECT n.id * 100 + place FROM {s}notification AS n, generate_series(0, 99) AS place WHERE n.endpoint = $1::text AND n.id = %[2]s::bigint)",
			db.EncodeText(filter.Notification), rowID(filter.Notification))
	}
	for _, at := range []struct {
		condition string
		time      time.Time
	}{
		{"d.stored_at >= %s::timestamptz", filter.Since},
		{"d.stored_at < %s::timestamptz", filter.Until},
		{"(d.finished_at IS NULL OR d.finished_at <= %s::timestamptz)", filter.AsOf},
	} {
		if !at.time.IsZero() {
			q.add(at.condition, at.time)
		}
	}
	if filter.Error != "" {
		q.add("(strpos(lower(d.error), lower(%s::text)) > 0 OR starts_with(d.error, 'base64:'))", strings.ReplaceAll(strings.ToValidUTF8(filter.Error, "\ufffd"), "\x00", "\ufffd"))
	}
	return q
}

// add adds a condition that has a %s for each argument.
func (q *conditions) add(condition string, args ...any) {
	places := make([]any, len(args))
	for i, arg := range args {
		q.args = append(q.args, arg)
		places[i] = "$" + strconv.Itoa(len(q.args))
	}
	q.texts = append(q.texts, fmt.Sprintf(condition, places...))
}

func (q *conditions) where() string { return " WHERE " + strings.Join(q.texts, " AND ") }

// quoted lists those of the names that are known. They stand in the statement itself, so that
// the server can use partial indexes.
func quoted[T ~string](names, known []T) string {
	list := []string{"''"}
	for _, name := range known {
		for _, wanted := range names {
			if wanted == name {
				list = append(list, "'"+string(name)+"'")
			}
		}
	}
	if len(list) == 2 {
		return list[1]
	}
	return strings.Join(list, ", ")
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
	anew = `state = 'waiting', reason = NULL, attempts = 0, age_from = now(), finished_at = NULL`

	retrySQL = `UPDATE {s}delivery SET ` + anew + ` WHERE id = ANY (ARRAY(
		SELECT d.id FROM {s}delivery AS d{where} AND d.state NOT IN ('waiting', 'delivering') ORDER BY d.id FOR UPDATE)) RETURNING id`

	// One that is sent twice at once is sent once: the notification is locked.
	sendSQL = `
		WITH chosen AS MATERIALIZED (
			SELECT d.id, d.notification, d.lane, d.state FROM {s}delivery AS d{where} AND d.state <> 'delivering' ORDER BY d.id FOR UPDATE
		), present AS MATERIALIZED (
			SELECT d.id, d.notification FROM (SELECT DISTINCT notification FROM chosen) AS c
			JOIN {s}delivery AS d ON d.id BETWEEN c.notification * 100 AND c.notification * 100 + 99 WHERE d.lane = $2::text
		), retried AS (
			UPDATE {s}delivery SET ` + anew + ` WHERE id IN (SELECT id FROM present) AND state NOT IN ('waiting', 'delivering')
		), added AS (
			INSERT INTO {s}delivery (id, notification, endpoint, lane, workspace, topic, fixed, state)
			SELECT max(d.id) + 1, d.notification, max(d.endpoint), $2::text, max(d.workspace), max(d.topic), true, 'waiting'
			FROM (SELECT DISTINCT notification FROM chosen WHERE notification NOT IN (SELECT notification FROM present)) AS c
			JOIN {s}delivery AS d ON d.id BETWEEN c.notification * 100 AND c.notification * 100 + 99
			GROUP BY d.notification HAVING max(d.id) < d.notification * 100 + 99
			RETURNING notification
		), sent AS MATERIALIZED (
			SELECT id, lane, state FROM chosen WHERE notification IN (SELECT notification FROM present UNION ALL SELECT notification FROM added)
		), cancelled AS (
			UPDATE {s}delivery SET reason = 'cancelled', finished_at = now(), error = 'sent to ' || $2::text
			WHERE id IN (SELECT id FROM sent WHERE state = 'dead' AND lane <> $2::text)
		)
		SELECT id FROM sent`
)

// changing returns the statements of a change of some ids. The one that changes repeats the
// filter, as rows may have changed since they were selected.
func changing(change db.Change, ids []int64, changed *[]int64) ([]statement, error) {
	q := newConditions(change.Filter)
	if change.Action == db.Send {
		q = newConditions(change.Filter, change.To)
	}
	q.add("d.id = ANY (%s::bigint[])", ids)
	switch change.Action {
	case db.Retry:
		return []statement{{sql: strings.Replace(retrySQL, "{where}", q.where(), 1), args: q.args, scan: collectIDs(changed)}}, nil
	case db.Send:
		return []statement{
			{sql: lockNotificationsSQL, args: []any{ids}},
			{sql: strings.Replace(sendSQL, "{where}", q.where(), 1), args: q.args, scan: collectIDs(changed)},
		}, nil
	case db.Drop:
		q.texts = append(q.texts, "d.state <> 'delivering'")
		return deletion(ids, q, changed), nil
	case db.Erase:
		return deletion(ids, q, changed), nil
	default:
		return nil, fmt.Errorf("unknown action %q", change.Action)
	}
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
		{sql: strings.Replace(deleteSQL, "{where}", q.where(), 1), args: q.args, scan: collectIDs(deleted)},
		{sql: deleteAttemptsSQL, args: []any{ids}},
		{sql: deleteNotificationsSQL, args: []any{ids}},
	}
}
