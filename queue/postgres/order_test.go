//go:build postgres

package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// Outcomes are written in the order of ids, too: in another one, both could wait for each other.
func TestPostgresGivesTurnsInTheOrderOfIDs(t *testing.T) {
	p := newTestDB(t)
	for _, id := range []string{"1", "2", "3", "4"} {
		order := db.Order{Key: map[string]string{"1": "z", "2": "a", "3": "z", "4": "a"}[id], CreatedAt: time.Now()}
		p.store(newNotification(id, "", db.NewDelivery{Lane: "talk", Order: order}))
		if id == "2" {
			if claimed, _ := p.claim(db.Claim{Limit: 10, Ordered: true}); len(claimed) != 2 {
				t.Fatalf("claimed %d, want 2", len(claimed))
			}
		}
	}
	finishing, err := p.work.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer finishing.Rollback(context.Background())
	lock := func(key, how string) error {
		_, err := finishing.Exec(t.Context(), p.work.sql("SELECT FROM {s}delivery WHERE state = 'delivering' AND order_key = $1 FOR UPDATE "+how), key)
		return err
	}
	if err := lock("a", ""); err != nil {
		t.Fatal(err)
	}
	placed := make(chan error)
	go func() {
		_, _, err := p.Claim(context.Background(), db.Claim{Lane: db.Lane{Endpoint: "intercom", Name: "talk"}, Token: 99, Limit: 10, MaxBytes: 1, Ordered: true})
		placed <- err
	}()
	const waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND strpos(query, $1) > 0"
	for end := time.Now().Add(30 * time.Second); p.text(waiting, p.schema) != "1"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("turns are given without waiting for who has locked a delivery")
		}
	}
	if err := lock("z", "NOWAIT"); sqlState(err) != "55P03" { // lock_not_available
		t.Errorf("the first delivery is not locked while the second is waited for: %v", err)
	}
	if err := finishing.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-placed; err != nil {
		t.Error(err)
	}
}
