//go:build postgres

package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// sharedServer is the server that .ci/postgres starts.
const sharedServer = "postgres://postgres@127.0.0.1:5432/test?sslmode=disable"

// testDB is a database in a schema of its own.
type testDB struct {
	testing.TB
	*database
	url, schema string
	tokens      atomic.Int64
}

func newTestDB(t testing.TB) *testDB {
	t.Helper()
	schema := fmt.Sprintf("test_%d", rand.Uint64())
	p := &testDB{TB: t, url: sharedServer, schema: schema}
	t.Cleanup(func() { runOn(t, sharedServer, "DROP SCHEMA IF EXISTS "+schema+" CASCADE") })
	p.database = openTest(t, sharedServer, schema)
	return p
}

func openTest(t testing.TB, url, schema string) *database {
	t.Helper()
	opened, err := Open(t.Context(), url, schema, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	return opened.(*database)
}

// runOn executes statements on a connection of their own.
func runOn(t testing.TB, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, statement := range statements {
		if _, err := conn.Exec(context.Background(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// run executes a statement in the schema.
func (p *testDB) run(sql string, args ...any) {
	p.Helper()
	if _, err := p.work.pool.Exec(context.Background(), p.work.sql(sql), args...); err != nil {
		p.Fatalf("%s: %v", sql, err)
	}
}

// text returns the only value that a statement selects.
func (p *testDB) text(sql string, args ...any) (text string) {
	p.Helper()
	if err := p.work.pool.QueryRow(context.Background(), p.work.sql("SELECT ("+sql+")::text"), args...).Scan(&text); err != nil {
		p.Fatalf("%s: %v", sql, err)
	}
	return text
}

func newNotification(id string, body string, deliveries ...db.NewDelivery) *db.NewNotification {
	if len(deliveries) == 0 {
		deliveries = []db.NewDelivery{{Lane: "talk"}}
	}
	return &db.NewNotification{
		Notification: &db.Notification{
			Endpoint: "intercom", Workspace: "abc123", Topic: "conversation.user.created", NotificationID: id,
			ReceivedAt: time.Now(), Request: db.Request{Method: "POST", URI: "/", Header: map[string][]string{"User-Agent": {"intercom"}}},
			Body: []byte(body),
		},
		Deliveries: deliveries,
	}
}

func (p *testDB) store(batch ...*db.NewNotification) []db.Stored {
	p.Helper()
	stored, err := p.Store(context.Background(), func() []*db.NewNotification { return batch })
	if err != nil {
		p.Fatal(err)
	}
	return stored
}

func (p *testDB) claim(claim db.Claim) ([]db.Claimed, bool) {
	p.Helper()
	if claim.Lane.Name == "" {
		claim.Lane = db.Lane{Endpoint: "intercom", Name: "talk"}
	}
	claim.Token, claim.MaxBytes = max(claim.Token, db.Token(p.tokens.Add(1))), max(claim.MaxBytes, 1)
	claimed, more, err := p.Claim(context.Background(), claim)
	if err != nil {
		p.Fatal(err)
	}
	return claimed, more
}

// testCycle stores, claims and finishes.
func testCycle(t testing.TB, d db.DB, lane string, round int) {
	t.Helper()
	ctx := t.Context()
	id := fmt.Sprintf("%s %d", lane, round)
	for i, want := range []bool{false, true} {
		stored, err := d.Store(ctx, func() []*db.NewNotification {
			return []*db.NewNotification{newNotification(id, "1", db.NewDelivery{Lane: lane}), newNotification("", "2", db.NewDelivery{Lane: lane})}
		})
		if err != nil || stored[0].Duplicate != want || stored[1].ID == 0 {
			t.Fatalf("store %d: %v, %v", i, stored, err)
		}
	}
	token := db.Token(round*10 + 1)
	claim := db.Claim{Lane: db.Lane{Endpoint: "intercom", Name: lane}, Token: token, Limit: 10, MaxBytes: 1 << 20}
	claimed, _, err := d.Claim(ctx, claim)
	if err != nil || len(claimed) != 3 {
		t.Fatalf("claimed %v, %v", claimed, err)
	}
	failed := &db.Attempt{At: time.Now(), Instance: d.Instance(), Upstream: "localhost:1", Status: 503, Duration: time.Second, Error: "503", Answer: []byte("no\x00")}
	applied, err := d.Finish(ctx, []db.Outcome{
		{ID: claimed[0].ID, Token: token, State: db.Delivered, Attempt: &db.Attempt{At: time.Now(), Upstream: "localhost:1", Status: 200}},
		{ID: claimed[1].ID, Token: token, State: db.Waiting},
		{ID: claimed[2].ID, Token: token, State: db.Retrying, Attempt: failed},
	})
	if err != nil || len(applied) != 3 {
		t.Fatalf("applied %v, %v", applied, err)
	}
	claim.Token++
	claimed, _, err = d.Claim(ctx, claim)
	if err != nil || len(claimed) != 2 {
		t.Fatalf("claimed %v, %v", claimed, err)
	}
	for _, c := range claimed {
		outcome := db.Outcome{ID: c.ID, Token: claim.Token, State: db.Dead, Reason: db.Refused, Attempt: failed}
		if applied, err := d.Finish(ctx, []db.Outcome{outcome}); err != nil || len(applied) != 1 {
			t.Errorf("applied %v, %v", applied, err)
		}
	}
}

func TestPostgresCycle(t *testing.T) {
	p := newTestDB(t)
	testCycle(t, p, "talk", 0)
	ctx := t.Context()
	if _, err := p.Heartbeat(ctx, db.Presence{}); err != nil {
		t.Error(err)
	}
	if held, err := p.Held(ctx); err != nil || len(held) != 0 {
		t.Error(held, err)
	}
	if released, err := p.TakeOver(ctx); err != nil || released != 0 {
		t.Error(released, err)
	}
	counts, _, err := p.Backlog(ctx)
	if err != nil || len(counts) != 1 || counts[0].Count != 2 || counts[0].State != db.Dead {
		t.Error(counts, err)
	}
	found, next, err := p.List(ctx, db.Filter{Endpoint: "intercom"}, db.Page{Limit: 10})
	if err != nil || len(found) != 3 || next != 0 {
		t.Error(found, next, err)
	}
	groups, err := p.DeadGroups(ctx, "intercom")
	if err != nil || len(groups) != 1 || groups[0].Error != "503" {
		t.Error(groups, err)
	}
	details, err := p.Find(ctx, "intercom", "talk 0", 10)
	if err != nil || len(details) != 1 || len(details[0].Deliveries) != 1 {
		t.Error(details, err)
	}
	var exported []db.Details
	var ids []int64
	for _, d := range found {
		one, err := p.Find(ctx, "intercom", fmt.Sprint(d.Notification), 1)
		if err != nil || len(one) != 1 || len(one[0].Deliveries) != 1 || len(one[0].Request.Header) != 1 {
			t.Fatal(one, err)
		}
		exported, ids = append(exported, one[0]), append(ids, d.ID)
	}
	if stored, err := p.Import(ctx, exported); err != nil || stored != 0 {
		t.Error(stored, err)
	}
	if erased, err := p.Change(ctx, db.Change{Action: db.Erase, IDs: ids}); err != nil || len(erased) != 3 {
		t.Error(erased, err)
	}
	if stored, err := p.Import(ctx, exported); err != nil || stored != 3 {
		t.Error(stored, err)
	}
	found, _, err = p.List(ctx, db.Filter{Endpoint: "intercom", States: []db.State{db.Dead}}, db.Page{Limit: 10})
	if err != nil || len(found) != 2 {
		t.Fatal(found, err)
	}
	filter := db.Filter{Endpoint: "intercom", States: []db.State{db.Dead}, AsOf: time.Now().Add(time.Hour), Topic: "conversation.*", Error: "503"}
	if changed, err := p.Change(ctx, db.Change{Action: db.Send, To: "other", Filter: filter, IDs: []int64{found[0].ID}}); err != nil || len(changed) != 1 {
		t.Error(changed, err)
	}
	if changed, err := p.Change(ctx, db.Change{Action: db.Retry, Filter: filter, IDs: []int64{found[1].ID}}); err != nil || len(changed) != 1 {
		t.Error(changed, err)
	}
	if changed, err := p.Change(ctx, db.Change{Action: db.Drop, Filter: db.Filter{Endpoint: "intercom"}, IDs: []int64{found[1].ID}}); err != nil || len(changed) != 1 {
		t.Error(changed, err)
	}
	if got := p.text("SELECT string_agg(lane || ' ' || state || ' ' || coalesce(reason, '') || ' ' || fixed, ', ' ORDER BY id) FROM {s}delivery"); !strings.Contains(got, "talk dead cancelled false") || !strings.Contains(got, "other waiting  true") {
		t.Error(got)
	}
	for _, paused := range []bool{true, true, false} {
		if err := p.SetPaused(ctx, db.Lane{Endpoint: "intercom", Name: "talk"}, paused); err != nil {
			t.Error(err)
		}
		if lanes, err := p.Paused(ctx); err != nil || (len(lanes) == 1) != paused {
			t.Error(lanes, err)
		}
	}
	p.run("UPDATE {s}delivery SET finished_at = now() - interval '2 days' WHERE state IN ('dead', 'delivered')")
	deleted, cursor, err := p.Expire(ctx, db.Expiry{Endpoint: "intercom", KeepDead: time.Hour, KeepDelivered: time.Hour, Limit: 10})
	if err != nil || deleted != 2 || cursor != 0 {
		t.Error(deleted, cursor, err)
	}
	if got := p.text("SELECT count(*) FROM {s}notification"); got != "1" {
		t.Error(got)
	}
	for _, whole := range []bool{false, true} {
		if _, err := p.Scrub(ctx, whole); err != nil {
			t.Error(err)
		}
	}
}
