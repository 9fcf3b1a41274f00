// Package dbtest_test holds every engine of the queue against what package db promises.
package dbtest_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	_ "modernc.org/sqlite"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/sqlite"
)

// fullDB is what both engines are.
type fullDB interface {
	db.DB
	db.Inspector
	db.Mover
	db.Eraser
}

// database is a new database of an engine.
type database struct {
	shared bool // several instances may have it open
	path   string
	open   func(t *testing.T) (db.DB, error)
	// leave makes the last heartbeat of an instance old, and those of the others steady; nil
	// unless it is shared.
	leave func(t *testing.T, instance string)
	// connect opens it as an operator does.
	connect func(t *testing.T) *sql.DB
}

// engines makes a new database of each engine, by name.
var engines = map[string]func(t *testing.T) *database{"sqlite": newSQLite}

func newSQLite(t *testing.T) *database {
	path := filepath.Join(t.TempDir(), "queue.db")
	return &database{
		path: path,
		open: func(t *testing.T) (db.DB, error) {
			return sqlite.Open(t.Context(), path, zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)))
		},
		connect: func(t *testing.T) *sql.DB {
			t.Helper()
			return connect(t, "sqlite", "file:"+path)
		},
	}
}

func connect(t *testing.T, driver, source string) *sql.DB {
	t.Helper()
	plain, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Close() })
	return plain
}

// eachEngine runs a test on a new database of each engine.
func eachEngine(t *testing.T, test func(t *testing.T, d *database)) {
	t.Helper()
	t.Parallel() // most of the time is that of the disk
	for name, create := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, create(t))
		})
	}
}

// eachDB runs a test on a new database of each engine that one instance has open.
func eachDB(t *testing.T, test func(t *testing.T, i *instance)) {
	t.Helper()
	eachEngine(t, func(t *testing.T, d *database) { test(t, d.start(t)) })
}

// instance is a process that has a database open.
type instance struct {
	fullDB
	after map[string]string // by lane: the workspace that its last claim ended with
}

// start opens the database as another process would.
func (d *database) start(t *testing.T) *instance {
	t.Helper()
	opened, err := d.open(t)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	t.Cleanup(func() { opened.Close() })
	full, ok := opened.(fullDB)
	if !ok {
		t.Fatalf("%T is not all that an engine is", opened)
	}
	return &instance{fullDB: full, after: make(map[string]string)}
}

// startAll opens the database as two processes if it can be shared, and else as one.
func (d *database) startAll(t *testing.T) []*instance {
	t.Helper()
	if !d.shared {
		return []*instance{d.start(t)}
	}
	return []*instance{d.start(t), d.start(t)}
}

// count counts the rows of a table.
func (d *database) count(t *testing.T, table string) (n int) {
	t.Helper()
	if err := d.connect(t).QueryRowContext(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil {
		t.Fatalf("counting rows of %s: %v", table, err)
	}
	return n
}

const (
	endpoint = "intercom"
	lane     = "support"
	topic    = "conversation.user.created"
)

var lastToken atomic.Int64

func newToken() db.Token { return db.Token(lastToken.Add(1)) }

// note makes a notification with one waiting delivery. Without an id it is a duplicate of none.
func note(workspace, id string) *db.NewNotification {
	return &db.NewNotification{
		Notification: &db.Notification{
			Endpoint: endpoint, Workspace: workspace, Topic: topic, NotificationID: id, Object: "conversation:" + id, ReceivedAt: time.Now(),
			Request: db.Request{Method: "POST", URI: "/webhook?a=b", Proto: "HTTP/1.1", Host: "example.com", RemoteAddr: "192.0.2.1:1234", Header: map[string][]string{"Content-Type": {"application/json"}}},
			Body:    fmt.Appendf(nil, `{"id": %q}`, id),
		},
		Deliveries: []db.NewDelivery{{Lane: lane}},
	}
}

// notes makes notifications of a workspace without an id.
func notes(n int) (made []*db.NewNotification) {
	for range n {
		made = append(made, note("workspace", ""))
	}
	return made
}

// inLanes gives a notification a delivery in each of the lanes; all but the first are fixed.
func inLanes(n *db.NewNotification, lanes ...string) *db.NewNotification {
	n.Deliveries = nil
	for place, name := range lanes {
		n.Deliveries = append(n.Deliveries, db.NewDelivery{Lane: name, Fixed: place > 0})
	}
	return n
}

func (i *instance) store(t *testing.T, batch ...*db.NewNotification) []db.Stored {
	t.Helper()
	calls := 0
	stored, err := i.Store(t.Context(), func() []*db.NewNotification {
		calls++
		return batch
	})
	if err != nil {
		t.Fatalf("storing: %v", err)
	}
	if calls != 1 || len(stored) != len(batch) {
		t.Fatalf("storing collected %d times and returned %d results for %d notifications", calls, len(stored), len(batch))
	}
	return stored
}

// mustStore stores notifications that must not be duplicates. It returns the ids of their
// first deliveries.
func (i *instance) mustStore(t *testing.T, batch ...*db.NewNotification) (ids []int64) {
	t.Helper()
	for n, s := range i.store(t, batch...) {
		if s.ID == 0 || s.Duplicate {
			t.Fatalf("notification %d: %+v, want it stored", n, s)
		}
		ids = append(ids, db.DeliveryID(s.ID, 0))
	}
	return ids
}

// claim claims as the worker does: behind the workspace that the last claim ended with.
func (i *instance) claim(t *testing.T, c db.Claim) (claimed []db.Claimed, more bool) {
	t.Helper()
	if c.Lane.Endpoint == "" {
		c.Lane.Endpoint = endpoint
	}
	if c.Lane.Name == "" {
		c.Lane.Name = lane
	}
	if c.Token == 0 {
		c.Token = newToken()
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 30
	}
	c.After = i.after[c.Lane.Name]
	claimed, more, err := i.Claim(t.Context(), c)
	if err != nil {
		t.Fatalf("claiming: %v", err)
	}
	if len(claimed) > c.Limit {
		t.Fatalf("claimed %d of %d", len(claimed), c.Limit)
	}
	for _, one := range claimed {
		if one.Attempts == 0 {
			i.after[c.Lane.Name] = one.Notification.Workspace
		}
	}
	return claimed, more
}

// claimAll claims until there is no more.
func (i *instance) claimAll(t *testing.T, c db.Claim) (claimed []db.Claimed) {
	t.Helper()
	if c.Limit == 0 {
		c.Limit = 100
	}
	for range 1000 {
		some, more := i.claim(t, c)
		if claimed = append(claimed, some...); !more {
			return claimed
		}
	}
	t.Fatal("there is always more to claim")
	return nil
}

// held is a claim of one delivery.
type held struct {
	db.Claimed
	token db.Token
}

// take claims n deliveries of a lane, of which there must be no more.
func (i *instance) take(t *testing.T, laneName string, n int) (taken []held) {
	t.Helper()
	token := newToken()
	for _, c := range i.claimAll(t, db.Claim{Lane: db.Lane{Name: laneName}, Token: token, Limit: n + 1}) {
		taken = append(taken, held{c, token})
	}
	if len(taken) != n {
		t.Fatalf("claimed %d deliveries of %s, want %d", len(taken), laneName, n)
	}
	slices.SortFunc(taken, func(a, b held) int { return int(a.ID - b.ID) })
	return taken
}

// mustClaim claims one delivery, which must be this one.
func (i *instance) mustClaim(t *testing.T, id int64) held {
	t.Helper()
	taken := i.take(t, lane, 1)
	if taken[0].ID != id {
		t.Fatalf("claimed %d, want %d", taken[0].ID, id)
	}
	return taken[0]
}

// failure is an attempt that failed; its texts have the number.
func failure(n int) *db.Attempt {
	return &db.Attempt{
		At: time.Now(), Instance: "host-1", Upstream: fmt.Sprintf("127.0.0.1:%d", n), Status: 500 + n,
		Duration: time.Duration(n) * time.Second, Error: fmt.Sprintf("status %d", 500+n), Answer: fmt.Appendf(nil, "sorry %d", n),
	}
}

// outcome ends the claim in a state, or as dead with a reason.
func (h held) outcome(state db.State, reason ...db.Reason) db.Outcome {
	o := db.Outcome{ID: h.ID, Token: h.token, State: state, Attempt: failure(1)}
	if state == db.Waiting {
		o.Attempt = nil
	}
	if state == db.Delivered {
		o.Attempt = &db.Attempt{At: time.Now(), Instance: "host-1", Upstream: "127.0.0.1:80", Status: 204, Duration: 50 * time.Millisecond}
	}
	if state == db.Dead {
		o.Reason = append(reason, db.Attempts)[0]
	}
	return o
}

func (i *instance) finish(t *testing.T, outcomes ...db.Outcome) []int64 {
	t.Helper()
	applied, err := i.Finish(t.Context(), outcomes)
	if err != nil {
		t.Fatalf("finishing: %v", err)
	}
	slices.Sort(applied)
	return applied
}

func (i *instance) mustFinish(t *testing.T, outcomes ...db.Outcome) {
	t.Helper()
	if applied := i.finish(t, outcomes...); len(applied) != len(outcomes) {
		t.Fatalf("outcomes applied: %v, want %d", applied, len(outcomes))
	}
}

// bring brings the only delivery of a lane that can be claimed into a state.
func (i *instance) bring(t *testing.T, laneName string, state db.State, reason ...db.Reason) (h held) {
	t.Helper()
	if state == db.Waiting {
		return h
	}
	h = i.take(t, laneName, 1)[0]
	if state != db.Delivering {
		o := h.outcome(state, reason...)
		o.Delay = time.Hour
		i.mustFinish(t, o)
	}
	return h
}

// details returns all that is known of a delivery.
func (i *instance) details(t *testing.T, id int64) db.DeliveryDetails {
	t.Helper()
	of := i.notification(t, db.NotificationOf(id))
	for _, d := range of.Deliveries {
		if d.ID == id {
			return d
		}
	}
	t.Fatalf("delivery %d is lost", id)
	return db.DeliveryDetails{}
}

// notification returns the one with this id in the database.
func (i *instance) notification(t *testing.T, id int64) db.Details {
	t.Helper()
	found, err := i.Find(t.Context(), endpoint, fmt.Sprint(id), 10)
	if err != nil {
		t.Fatalf("finding: %v", err)
	}
	for _, d := range found {
		if d.ID == id {
			return d
		}
	}
	t.Fatalf("notification %d is lost", id)
	return db.Details{}
}

func (i *instance) wantState(t *testing.T, id int64, state db.State, attempts int) {
	t.Helper()
	if d := i.details(t, id); d.State != state || d.Attempts != attempts {
		t.Errorf("delivery %d is %s after %d attempts, want %s after %d", id, d.State, d.Attempts, state, attempts)
	}
}

// list follows a list to its end.
func (i *instance) list(t *testing.T, f db.Filter, p db.Page) (found []db.Delivery) {
	t.Helper()
	if f.Endpoint == "" {
		f.Endpoint = endpoint
	}
	for range 10000 {
		some, next, err := i.List(t.Context(), f, p)
		if err != nil {
			t.Fatalf("listing: %v", err)
		}
		if len(some) > p.Limit {
			t.Fatalf("listed %d deliveries, want %d at most", len(some), p.Limit)
		}
		if found = append(found, some...); next == 0 {
			return found
		}
		p.From = next
	}
	t.Fatal("the list has no end")
	return nil
}

func (i *instance) listIDs(t *testing.T, f db.Filter) (ids []int64) {
	t.Helper()
	for _, d := range i.list(t, f, db.Page{Limit: 1000}) {
		ids = append(ids, d.ID)
	}
	return ids
}

// change does what a person wants, and returns the ids in order.
func (i *instance) change(t *testing.T, c db.Change) []int64 {
	t.Helper()
	if c.Filter.Endpoint == "" {
		c.Filter.Endpoint = endpoint
	}
	changed, err := i.Change(t.Context(), c)
	if err != nil {
		t.Fatalf("%s: %v", c.Action, err)
	}
	slices.Sort(changed)
	return changed
}

func (i *instance) wantChanged(t *testing.T, c db.Change, want ...int64) {
	t.Helper()
	if got := i.change(t, c); !slices.Equal(got, want) {
		t.Errorf("%s of %v with %+v has changed %v, want %v", c.Action, c.IDs, c.Filter, got, want)
	}
}

// export returns all notifications of all endpoints, as they are moved.
func (i *instance) export(t *testing.T) (found []db.Details) {
	t.Helper()
	for page := (db.Page{Limit: 50}); ; {
		deliveries, next, err := i.List(t.Context(), db.Filter{}, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range deliveries {
			if len(found) > 0 && found[len(found)-1].ID == d.Notification {
				continue
			}
			some, err := i.Find(t.Context(), d.Endpoint, fmt.Sprint(d.Notification), 100)
			at := slices.IndexFunc(some, func(n db.Details) bool { return n.ID == d.Notification })
			if err != nil || at < 0 {
				t.Fatalf("notification %d is not found: %v", d.Notification, err)
			}
			some[at].Release()
			found = append(found, some[at])
		}
		if page.From = next; next == 0 {
			return found
		}
	}
}

// remove deletes all deliveries of notifications, whatever their states and endpoints are.
func (i *instance) remove(t *testing.T, notifications ...db.Details) {
	t.Helper()
	ids := []int64{1 << 40} // and one that is not there
	for _, n := range notifications {
		for _, d := range n.Deliveries {
			ids = append(ids, d.ID)
		}
	}
	if _, err := i.Change(t.Context(), db.Change{Action: db.Erase, IDs: ids}); err != nil {
		t.Fatal(err)
	}
}

// put imports notifications, all of which must be new.
func (i *instance) put(t *testing.T, notifications ...db.Details) {
	t.Helper()
	stored, err := i.Import(t.Context(), notifications)
	if err != nil || stored != len(notifications) {
		t.Fatalf("imported %d of %d: %v", stored, len(notifications), err)
	}
}

// past makes a notification that was stored long ago, and whose deliveries, one for each
// state, are of the lane and finished then, too.
func past(id string, ago time.Duration, states ...db.State) db.Details {
	at := time.Now().Add(-ago)
	d := db.Details{Notification: *note("workspace", id).Notification}
	d.ReceivedAt = at
	for place, state := range states {
		one := db.Delivery{
			ID: int64(place), Endpoint: endpoint, Workspace: d.Workspace, Topic: d.Topic, NotificationID: id, Object: d.Object,
			Lane: lane, State: state, StoredAt: at, AgeFrom: at,
		}
		if place > 0 {
			one.Lane, one.Fixed = fmt.Sprintf("copy-%d", place), true
		}
		switch state {
		case db.Waiting, db.Delivering:
		case db.Retrying:
			one.Attempts, one.DueAt, one.Status, one.Error = 1, at, 500, "status 500"
		case db.Dead:
			one.Attempts, one.Reason, one.FinishedAt, one.Status, one.Error = 1, db.Attempts, at, 500, "status 500"
		case db.Delivered:
			one.Attempts, one.FinishedAt, one.Status = 1, at, 200
		}
		d.Deliveries = append(d.Deliveries, db.DeliveryDetails{Delivery: one})
	}
	return d
}

// now returns the database's clock, and lets it go on.
func (i *instance) now(t *testing.T) time.Time {
	t.Helper()
	time.Sleep(5 * time.Millisecond)
	peers, err := i.Heartbeat(t.Context(), db.Presence{})
	if err != nil {
		t.Fatalf("heartbeat: %v", err)
	}
	time.Sleep(5 * time.Millisecond)
	return peers.Now
}

func idsOf[T any](of []T, id func(T) int64) []int64 {
	ids := make([]int64, len(of))
	for n, one := range of {
		ids[n] = id(one)
	}
	slices.Sort(ids)
	return ids
}

func claimedIDs(claimed []db.Claimed) []int64 {
	return idsOf(claimed, func(c db.Claimed) int64 { return c.ID })
}

func heldIDs(taken []held) []int64 {
	return idsOf(taken, func(h held) int64 { return h.ID })
}

// differs reports how a notification differs from the one that was stored.
func differs(got, want *db.Notification) string {
	var different []string
	for field, pair := range map[string][2]string{
		"endpoint":        {got.Endpoint, want.Endpoint},
		"workspace":       {got.Workspace, want.Workspace},
		"topic":           {got.Topic, want.Topic},
		"object":          {got.Object, want.Object},
		"notification id": {got.NotificationID, want.NotificationID},
		"request":         {got.Request.Encode(), want.Request.Encode()},
	} {
		if pair[0] != pair[1] {
			different = append(different, fmt.Sprintf("%s is %.300q, want %.300q", field, pair[0], pair[1]))
		}
	}
	if !bytes.Equal(got.Body, want.Body) {
		different = append(different, fmt.Sprintf("body is %d bytes, %.40q, want %d, %.40q", len(got.Body), got.Body, len(want.Body), want.Body))
	}
	if got.ReceivedAt.Sub(want.ReceivedAt).Abs() > time.Millisecond {
		different = append(different, fmt.Sprintf("receipt time is %s, want %s", got.ReceivedAt, want.ReceivedAt))
	}
	slices.Sort(different)
	return strings.Join(different, "\n")
}
