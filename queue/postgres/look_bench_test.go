//go:build postgres

package postgres

import (
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// BenchmarkPostgresLook looks at a million deliveries, of which a tenth are dead.
func BenchmarkPostgresLook(b *testing.B) {
	p := newTestDB(b)
	p.run(`INSERT INTO {s}notification (id, endpoint, workspace, topic, notification_id, received_at, request, body)
		SELECT n, 'intercom', 'w' || n % 50, 'conversation.user.created', 'notif_' || md5(n::text), now(), '{"method":"POST"}', 'body' FROM generate_series(1, 1000000) AS n`)
	p.run(`INSERT INTO {s}delivery (id, notification, endpoint, lane, workspace, topic, state, reason, attempts, finished_at, error)
		SELECT n * 100, n, 'intercom', 'lane' || n % 7, 'w' || n % 50, CASE n % 3 WHEN 0 THEN 'contact.created' ELSE 'conversation.user.created' END,
			CASE WHEN n % 10 = 0 THEN 'dead' ELSE 'delivered' END, CASE WHEN n % 10 = 0 THEN 'attempts' END, 1, now(), CASE WHEN n % 10 = 0 THEN 'status 503' END
		FROM generate_series(1, 1000000) AS n`)
	p.run("ANALYZE {s}delivery")
	for name, filter := range map[string]db.Filter{
		"first page of all":   {},
		"first page by topic": {Topic: "contact.*", States: []db.State{db.Delivered}},
		"first page of dead":  {States: []db.State{db.Dead}},
		"nothing":             {Workspace: "nobody's"},
		"nothing by error":    {Error: "nothing"},
		"nothing dead":        {States: []db.State{db.Dead}, Topic: "company.*"},
		"nothing waiting":     {States: []db.State{db.Waiting, db.Retrying}},
		"one by id":           {Notification: "notif_c4ca4238a0b923820dcc509a6f75849b"},
	} {
		filter.Endpoint = "intercom"
		for _, newest := range []bool{false, true} {
			b.Run(name, func(b *testing.B) {
				calls, longest := 0, time.Duration(0)
				for b.Loop() {
					from, found := int64(0), 0
					for ok := true; ok && found == 0; ok = from != 0 {
						began := time.Now()
						list, next, err := p.List(b.Context(), filter, db.Page{From: from, Limit: 50, Newest: newest})
						if err != nil {
							b.Fatal(err)
						}
						calls, longest, from, found = calls+1, max(longest, time.Since(began)), next, found+len(list)
					}
				}
				b.ReportMetric(float64(calls)/float64(b.N), "calls")
				b.ReportMetric(float64(longest.Milliseconds()), "ms-longest")
			})
		}
	}
	b.Run("groups of dead", func(b *testing.B) {
		for b.Loop() {
			if _, err := p.DeadGroups(b.Context(), "intercom"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("backlog", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := p.Backlog(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("expire nothing", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := p.Expire(b.Context(), db.Expiry{Endpoint: "intercom", KeepDelivered: time.Hour, KeepDead: time.Hour, Limit: 1000}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
