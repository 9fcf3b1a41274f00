package manage_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/sqlite"
)

func open(t *testing.T, path string) db.DB {
	t.Helper()
	opened, err := sqlite.Open(t.Context(), path, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	return opened
}

// fill stores notifications of two endpoints, the second of which has n.
func fill(t *testing.T, in db.DB, n int) {
	t.Helper()
	for i := range n {
		var batch []*db.NewNotification
		for _, endpoint := range []string{"intercom", "crm"} {
			if endpoint == "intercom" && i > 0 {
				continue
			}
			batch = append(batch, &db.NewNotification{
				Notification: &db.Notification{
					Endpoint: endpoint, Workspace: "tulip4", Topic: "a.b", NotificationID: fmt.Sprint("notif_", i),
					ReceivedAt: time.Now().UTC(), Request: db.Request{Method: "POST"}, Body: []byte(fmt.Sprint(i)),
				},
				Deliveries: []db.NewDelivery{{Lane: "support"}, {Lane: "copy-a", Fixed: true}},
			})
		}
		if _, err := in.Store(t.Context(), func() []*db.NewNotification { return batch }); err != nil {
			t.Fatal(err)
		}
	}
}

// count counts the deliveries by endpoint.
func count(t *testing.T, in any) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for page := (db.Page{Limit: 1000}); ; {
		found, next, err := in.(db.Inspector).List(t.Context(), db.Filter{}, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range found {
			counts[d.Endpoint]++
		}
		if page.From = next; next == 0 {
			return counts
		}
	}
}

// failing is a database to move into that fails once it has stored some batches.
type failing struct {
	db.Mover
	left int
}

func (f *failing) Import(ctx context.Context, notifications []db.Details) (int, error) {
	if f.left--; f.left < 0 {
		return 0, errors.New("disk full")
	}
	return f.Mover.Import(ctx, notifications)
}

func TestMove(t *testing.T) {
	folder := t.TempDir()
	from, to := open(t, filepath.Join(folder, "from.db")), open(t, filepath.Join(folder, "to.db"))
	fill(t, from, 150)
	fill(t, to, 1) // what a Caddy has stored meanwhile, and again

	// One endpoint alone, until the disk is full.
	var reported []int64
	report := func(done, total int64) { reported = append(reported, done, total) }
	_, err := manage.Move(t.Context(), from, &failing{to.(db.Mover), 1}, "crm", report)
	if err == nil || !strings.Contains(err.Error(), "storing them in the new database: disk full") {
		t.Fatalf("error %v", err)
	}
	if left, moved := count(t, from)["crm"], count(t, to)["crm"]; left+moved != 300 || left == 0 || moved == 2 {
		t.Errorf("after the interruption %d are left, and %d are moved", left, moved)
	}

	joined, err := sqlite.Join(t.Context(), filepath.Join(folder, "to.db"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer joined.Close()
	for _, endpoint := range []string{"crm", ""} {
		reported = nil
		moved, err := manage.Move(t.Context(), from, joined, endpoint, report)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(reported); n == 0 || reported[n-1] != reported[n-2] || reported[n-1] != moved.Deliveries {
			t.Errorf("reported %v of %+v", reported, moved)
		}
		if endpoint == "" && (moved.There != 1 || moved.Stored != 0 || moved.Endpoints["intercom"] != 2) {
			t.Errorf("at the end: %+v", moved)
		}
		if left := count(t, from); left["crm"] != 0 || endpoint == "crm" && left["intercom"] != 2 || endpoint == "" && len(left) != 0 {
			t.Errorf("after %q are left %v", endpoint, left)
		}
	}
	if got := count(t, to); got["crm"] != 300 || got["intercom"] != 2 {
		t.Errorf("the new database has %v", got)
	}
	if moved, err := manage.Move(t.Context(), from, joined, "", report); err != nil || moved.Stored+moved.There != 0 {
		t.Errorf("once more: %+v, %v", moved, err)
	}
}

// shared is a database that another instance uses.
type shared struct {
	db.DB
	db.Inspector
}

func (shared) Heartbeat(context.Context, db.Presence) (db.Peers, error) {
	return db.Peers{Others: []db.Presence{{Instance: "web-1"}}}, nil
}

func TestMoveTakesNothingFromALiveInstance(t *testing.T) {
	from := open(t, filepath.Join(t.TempDir(), "from.db"))
	fill(t, from, 1)
	_, err := manage.Move(t.Context(), shared{from, from.(db.Inspector)}, nil, "", nil)
	if err == nil || !strings.Contains(err.Error(), "the instance web-1 uses it: stop that Caddy, or reload it with another queue") {
		t.Errorf("error %v", err)
	}
	if got := count(t, from); got["crm"] != 2 {
		t.Errorf("left are %v", got)
	}
}
