package sqlite

import (
	sqldriver "database/sql/driver"
	"fmt"
	"strings"

	driver "modernc.org/sqlite"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func init() {
	driver.MustRegisterDeterministicScalarFunction("fits_topic", 2, func(_ *driver.FunctionContext, args []sqldriver.Value) (sqldriver.Value, error) {
		return topicpattern.Matches(fmt.Sprint(args[0]), fmt.Sprint(args[1])), nil
	})
}

// condition is a condition of a statement, and its arguments.
type condition struct {
	text string
	args []any
}

// and adds a condition, whose arguments are ?.
func (c *condition) and(text string, args ...any) {
	c.text += " AND " + text
	c.args = append(c.args, args...)
}

// filterCondition returns the condition that deliveries fit a filter.
func filterCondition(f db.Filter) condition {
	var c condition
	if f.Endpoint != "" {
		c.and("endpoint = ?", f.Endpoint)
	}
	if len(f.States) > 0 {
		c.and("state IN (SELECT value FROM json_each(?))", jsonOf(f.States))
	}
	if len(f.Reasons) > 0 {
		c.and("reason IN (SELECT value FROM json_each(?))", jsonOf(f.Reasons))
	}
	if len(f.Statuses) > 0 {
		c.and("EXISTS (SELECT 1 FROM json_each(?) WHERE value IN (status, status / 100))", jsonOf(f.Statuses))
	}
	if f.Topic != "" {
		c.and("fits_topic(?, topic)", f.Topic)
	}
	if f.Lane != "" {
		c.and("lane = ?", f.Lane)
	}
	if f.Workspace != "" {
		c.and("workspace = ?", db.EncodeText(f.Workspace))
	}
	for _, named := range named(f) {
		c.and("notification IN ("+named.text+")", named.args...)
	}
	if !f.Since.IsZero() {
		c.and("stored_at >= ?", f.Since.UnixMicro())
	}
	if !f.Until.IsZero() {
		c.and("stored_at < ?", f.Until.UnixMicro())
	}
	if !f.FinishedSince.IsZero() {
		c.and("finished_at >= ?", f.FinishedSince.UnixMicro())
	}
	if !f.FinishedUntil.IsZero() {
		c.and("finished_at < ?", f.FinishedUntil.UnixMicro())
	}
	if f.Error != "" {
		c.and("(instr(lower(error), lower(?)) OR error = ? OR error <> '' AND instr(lower("+lastAnswer+"), lower(?)))", f.Error, db.EncodeText(f.Error), f.Error)
	}
	if f.Uncancelled {
		c.and("reason IS NOT ?", string(db.Cancelled))
	}
	if !f.AsOf.IsZero() {
		c.and("(finished_at IS NULL OR finished_at <= ?)", f.AsOf.UnixMicro())
	}
	return c
}

// named returns, for each part of the filter that names notifications, a statement that finds
// their ids by an index.
func named(f db.Filter) (ids []condition) {
	if f.Notification != "" {
		ids = append(ids, condition{`SELECT id FROM notification WHERE notification_id = ? UNION SELECT ?`, []any{db.EncodeText(f.Notification), db.RowID(f.Notification)}})
	}
	if f.Object != "" {
		const objectID = `substr(object, instr(object, ':') + 1)`
		object := db.EncodeText(f.Object)
		ids = append(ids, condition{
			`SELECT id FROM notification WHERE object IS NOT NULL AND ` + objectID + ` IN (?, ?) AND ? IN (object, ` + objectID + `)`,
			[]any{object, db.ObjectID(object), object},
		})
	}
	return ids
}

// lastAnswer is what the backend said in the last failed attempt of delivery d.
const lastAnswer = "(SELECT answer FROM attempt WHERE delivery = d.id ORDER BY at DESC LIMIT 1)"

// byState have the ids of deliveries of a state, from indexes alone.
var byState = map[db.State]string{
	db.Waiting:    `SELECT id FROM delivery INDEXED BY delivery_waiting WHERE state = 'waiting'`,
	db.Delivering: `SELECT id FROM delivery INDEXED BY delivery_delivering WHERE state = 'delivering'`,
	db.Retrying:   `SELECT id FROM delivery INDEXED BY delivery_retrying WHERE state = 'retrying'`,
	db.Dead:       `SELECT id FROM delivery INDEXED BY delivery_dead WHERE state = 'dead'`,
}

// indexedIDs returns a statement that finds, by indexes, the ids of all deliveries that a
// filter can select. Its text is empty if no index has them.
func indexedIDs(f db.Filter) (ids condition) {
	if named := named(f); len(named) > 0 {
		return condition{
			`SELECT delivery.id FROM (` + named[0].text + `) AS named CROSS JOIN delivery ON delivery.id BETWEEN named.id * 100 AND named.id * 100 + 99`,
			named[0].args,
		}
	}
	states := f.States
	if len(states) == 0 && len(f.Reasons) > 0 {
		states = []db.State{db.Dead}
	}
	var selects []string
	for _, state := range states {
		one, ok := byState[state]
		if !ok {
			return condition{}
		}
		if f.Endpoint != "" && state != db.Delivering { // of which there are few
			one += ` AND endpoint = ?`
			ids.args = append(ids.args, f.Endpoint)
		}
		selects = append(selects, one)
	}
	ids.text = strings.Join(selects, " UNION ALL ")
	return ids
}
