//go:build postgres

package postgres

import (
	"fmt"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func (p *testDB) beat(self db.Presence) []db.Presence {
	p.Helper()
	known, err := p.Heartbeat(p.Context(), self)
	if err != nil {
		p.Fatal(err)
	}
	return known.Others
}

func (p *testDB) takesOver(want int64) {
	p.Helper()
	if released, err := p.TakeOver(p.Context()); err != nil || released != want {
		p.Errorf("released %d, want %d (%v)", released, want, err)
	}
}

// steady makes the heartbeats of the test's own instance steady for long enough.
func (p *testDB) steady() {
	p.Helper()
	p.run("UPDATE {s}instance SET steady_since = now() - interval '16 seconds' WHERE id = $1", p.Instance())
}

func TestPostgresTakesOver(t *testing.T) {
	p := newTestDB(t)
	other := openTest(t, p.url, p.schema)
	presence := db.Presence{Version: "1", Lanes: []db.Lane{{Endpoint: "intercom", Name: "talk"}}, Configs: map[string]string{"intercom": "4711"}}
	if _, err := other.Heartbeat(t.Context(), presence); err != nil {
		t.Fatal(err)
	}
	presence.Instance = other.Instance()
	if got := p.beat(db.Presence{}); fmt.Sprint(got) != fmt.Sprint([]db.Presence{presence}) {
		t.Errorf("others: %v, want %v", got, presence)
	}
	claimed := db.NewDelivery{Lane: "talk", Token: 7}
	stored, err := other.Store(t.Context(), func() []*db.NewNotification {
		return []*db.NewNotification{newNotification("", "", claimed), newNotification("", "", claimed)}
	})
	if err != nil {
		t.Fatal(err)
	}
	mine := p.store(newNotification("", "", claimed))[0]
	p.steady()
	p.takesOver(0) // it lives

	p.run("UPDATE {s}instance SET beat_at = beat_at - interval '1 hour', steady_since = steady_since - interval '1 hour'") // the clock was set forward
	p.beat(db.Presence{})
	p.takesOver(0)
	if got := p.beat(db.Presence{}); len(got) != 1 {
		t.Errorf("after a step of the clock, others are %v", got)
	}

	p.steady()
	p.run("UPDATE {s}instance SET beat_at = now() - interval '2 days' WHERE id <> $1", p.Instance())
	p.run("UPDATE {s}instance SET beat_at = now() - interval '11 seconds' WHERE id = $1", p.Instance()) // it was late itself
	p.takesOver(0)
	p.beat(db.Presence{})
	p.takesOver(0)
	p.steady()
	if got := p.beat(db.Presence{}); len(got) != 0 {
		t.Errorf("others: %v, want none", got)
	}
	p.takesOver(2)
	p.takesOver(0)
	if got := p.text("SELECT string_agg(id, ' ') FROM {s}instance"); got != p.Instance() {
		t.Errorf("rows of instances that are gone for a day: %s", got)
	}
	if got := p.text("SELECT string_agg(id::text, ' ' ORDER BY id) FROM {s}delivery WHERE state = 'waiting' AND attempts = 0"); got != fmt.Sprint(db.DeliveryID(stored[0].ID, 0), " ", db.DeliveryID(stored[1].ID, 0)) {
		t.Errorf("waiting are %s", got)
	}
	end := func(d *database, id int64) int {
		t.Helper()
		applied, err := d.Finish(t.Context(), []db.Outcome{{ID: id, Token: 7, State: db.Delivered, Attempt: new(db.Attempt)}})
		if err != nil {
			t.Fatal(err)
		}
		return len(applied)
	}
	if end(other, db.DeliveryID(stored[0].ID, 0)) != 0 {
		t.Error("the one that was gone has finished what was taken over")
	}
	if end(p.database, db.DeliveryID(mine.ID, 0)) != 1 {
		t.Error("the claim of this process is lost")
	}
}

// Who has opened the database is not gone before its first heartbeat, and who has closed it is.
func TestPostgresTakesOverFromTheClosed(t *testing.T) {
	p := newTestDB(t)
	other := openTest(t, p.url, p.schema)
	_, err := other.Store(t.Context(), func() []*db.NewNotification {
		return []*db.NewNotification{newNotification("", "", db.NewDelivery{Lane: "talk", Token: 7})}
	})
	if err != nil {
		t.Fatal(err)
	}
	p.beat(db.Presence{})
	p.steady()
	p.takesOver(0)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	p.takesOver(1)
}

// Operators query these tables, and docs show how.
func TestPostgresTables(t *testing.T) {
	p := newTestDB(t)
	for table, want := range map[string]string{
		"notification":   "id received_at endpoint workspace topic notification_id object request body",
		"delivery":       "id notification stored_at fixed endpoint lane workspace topic order_key created_at age_from due_at finished_at claim attempts status seconds state reason instance upstream error held place_at",
		"attempt":        "delivery at instance upstream status seconds error answer",
		"lane":           "endpoint name paused_at",
		"instance":       "id version beat_at steady_since lanes configs",
		"schema_version": "program version",
	} {
		if got := p.text("SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0", p.schema+"."+table); got != want {
			t.Errorf("%s has %s, want %s", table, got, want)
		}
	}
	// a delivered one is in no index but that of the key
	if got := p.text("SELECT string_agg(indexrelid::regclass::text, ' ') FROM pg_index WHERE indrelid = $1::regclass AND indpred IS NULL", p.schema+".delivery"); got != p.schema+".delivery_pkey" {
		t.Errorf("indexes of all deliveries: %s", got)
	}
	for _, malformed := range []string{
		"UPDATE {s}delivery SET state = 'dead'", "UPDATE {s}delivery SET state = 'delivering'", "UPDATE {s}delivery SET state = 'delivered'",
		"UPDATE {s}delivery SET state = 'other'", "UPDATE {s}delivery SET claim = 1", "UPDATE {s}delivery SET notification = 0",
	} {
		p.store(newNotification("", ""))
		if _, err := p.work.pool.Exec(t.Context(), p.work.sql(malformed)); sqlState(err) != "23514" { // check_violation
			t.Errorf("%s: %v", malformed, err)
		}
	}
}
