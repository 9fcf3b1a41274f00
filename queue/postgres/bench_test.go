//go:build postgres

package postgres

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// benchBody is a JSON object of some 5 KiB, of words.
func benchBody() string {
	text := []byte(`{"type":"notification_event","topic":"conversation.user.created","data":{"item":{"type":"conversation","parts":[`)
	for len(text) < 5000 {
		text = fmt.Appendf(text, `{"type":"conversation_part","id":"%d","part_type":"comment","created_at":%d,"author":{"type":"user","id":"%08x%08x","name":null},"body":"<p>word%d word%d word%d</p>","attachments":[]},`,
			rand.N(1_000_000_000), 1_700_000_000+rand.N(100_000_000), rand.Uint32(), rand.Uint32(), rand.N(5000), rand.N(5000), rand.N(5000))
	}
	return string(append(text, `{}]}}}`...))
}

func benchBatch(n int, token db.Token) []*db.NewNotification {
	batch := make([]*db.NewNotification, n)
	for i := range batch {
		batch[i] = newNotification(fmt.Sprintf("notif_%016x-%016x", rand.Uint64(), rand.Uint64()), benchBody(), db.NewDelivery{Lane: "talk", Token: token})
		batch[i].Request.Header = map[string][]string{
			"Content-Type": {"application/json"}, "User-Agent": {"intercom-integration-webhook"}, "X-Hub-Signature": {"sha1=0123456789abcdef0123456789abcdef01234567"},
			"Accept": {"*/*"}, "Accept-Encoding": {"gzip"},
		}
	}
	return batch
}

// backends returns the processor time of all the server's processes for this database.
func (p *testDB) backends() time.Duration {
	ticks := 0
	for pid := range strings.SplitSeq(p.text("SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'caddy-intercom-webhook'"), ",") {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			p.Fatal("this benchmark needs the server on the same machine: ", err)
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, place := range []int{11, 12} { // utime, stime
			n, _ := strconv.Atoi(fields[place])
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func (p *testDB) walBytes() int64 {
	n, _ := strconv.ParseInt(p.text("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"), 10, 64)
	return n
}

// BenchmarkPostgresServer stores and completes batches of 32. It reports what that costs the
// server a notification.
func BenchmarkPostgresServer(b *testing.B) {
	for _, way := range []string{"from memory", "claimed"} {
		b.Run(way, func(b *testing.B) {
			const batch = 32
			p := newTestDB(b)
			prepared := make([][]*db.NewNotification, 64)
			token := db.Token(0)
			if way == "from memory" {
				token = 7
			}
			for i := range prepared {
				prepared[i] = benchBatch(batch, token)
			}
			n := 0
			cpu, wal := p.backends(), p.walBytes()
			for b.Loop() {
				notifications := prepared[n%len(prepared)]
				for _, notification := range notifications {
					notification.NotificationID = fmt.Sprintf("notif_%016x-%016x", rand.Uint64(), rand.Uint64())
				}
				outcomes := make([]db.Outcome, 0, batch)
				for _, stored := range p.store(notifications...) {
					outcomes = append(outcomes, db.Outcome{ID: db.DeliveryID(stored.ID, 0), Token: token, State: db.Delivered})
				}
				if token == 0 {
					claimed, _ := p.claim(db.Claim{Limit: batch, MaxBytes: 1 << 20, Token: db.Token(n) + 1000})
					outcomes = outcomes[:0]
					for _, c := range claimed {
						outcomes = append(outcomes, db.Outcome{ID: c.ID, Token: db.Token(n) + 1000, State: db.Delivered})
					}
				}
				for i := range outcomes {
					outcomes[i].Attempt = &db.Attempt{At: time.Now(), Instance: p.Instance(), Upstream: "10.0.0.1:8080", Status: 200, Duration: 12 * time.Millisecond}
				}
				if applied, err := p.Finish(b.Context(), outcomes); err != nil || len(applied) != batch {
					b.Fatalf("finished %d: %v", len(applied), err)
				}
				n++
			}
			all := float64(n * batch)
			b.ReportMetric(float64((p.backends()-cpu).Microseconds())/all, "server-µs/notification")
			b.ReportMetric(float64(p.walBytes()-wal)/all, "wal-B/notification")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/all, "µs/notification")
		})
	}
}
