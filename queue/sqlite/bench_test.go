package sqlite

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func benchmarkBatch(n, workspaces int, token db.Token) []*db.NewNotification {
	batch := make([]*db.NewNotification, n)
	for i := range batch {
		body := make([]byte, 5<<10)
		for at := range body {
			body[at] = byte('a' + at%26)
		}
		batch[i] = &db.NewNotification{
			Notification: &db.Notification{
				Endpoint: "intercom", Workspace: fmt.Sprintf("workspace%d", i%workspaces), Topic: "conversation.user.created",
				NotificationID: fmt.Sprintf("notif_%016x%016x", rand.Uint64(), rand.Uint64()), Object: fmt.Sprintf("conversation:%d", rand.Uint64()), ReceivedAt: time.Now(),
				Request: db.Request{
					Method: "POST", URI: "/intercom", Proto: "HTTP/1.1", Host: "example.com", RemoteAddr: "192.0.2.1:45678", LocalAddr: "192.0.2.2:443", LocalNet: "tcp", HTTPS: true,
					Header: map[string][]string{
						"Content-Type": {"application/json"}, "X-Hub-Signature": {"sha1=0123456789012345678901234567890123456789"}, "User-Agent": {"intercom-notification-dispatcher"},
						"Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "X-Intercom-Topic": {"conversation.user.created"},
					},
				},
				Body: body,
			},
			Deliveries: []db.NewDelivery{{Lane: "conversation", Token: token}},
		}
	}
	return batch
}

// The figures of the docs: storing and completing in batches of 32.
func BenchmarkStoreAndFinish(b *testing.B) {
	d, err := Open(b.Context(), filepath.Join(b.TempDir(), "queue.db"), zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	var batches [][]*db.NewNotification
	for range b.N {
		batches = append(batches, benchmarkBatch(32, 1, 7))
	}
	began := processorTime(b)
	b.ResetTimer()
	for _, batch := range batches {
		stored, err := d.Store(b.Context(), func() []*db.NewNotification { return batch })
		if err != nil {
			b.Fatal(err)
		}
		outcomes := make([]db.Outcome, len(stored))
		for i, s := range stored {
			outcomes[i] = db.Outcome{ID: db.DeliveryID(s.ID, 0), Token: 7, State: db.Delivered, Attempt: &db.Attempt{At: time.Now(), Instance: d.Instance(), Upstream: "127.0.0.1:8080", Status: 200, Duration: time.Millisecond}}
		}
		if applied, err := d.Finish(b.Context(), outcomes); err != nil || len(applied) != 32 {
			b.Fatal(len(applied), err)
		}
	}
	b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(32*b.N), "cpu-µs/notification")
}

func BenchmarkClaim(b *testing.B) {
	for _, workspaces := range []int{1, 2, 100} {
		b.Run(fmt.Sprintf("workspaces=%d", workspaces), func(b *testing.B) {
			d, err := Open(b.Context(), filepath.Join(b.TempDir(), "queue.db"), zap.NewNop())
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			for range 20 {
				if _, err := d.Store(b.Context(), func() []*db.NewNotification { return benchmarkBatch(500, workspaces, 0) }); err != nil {
					b.Fatal(err)
				}
			}
			e := d.(*engine) //nolint:forcetypeassert // it was opened so
			b.Run("choose", func(b *testing.B) {
				for b.Loop() {
					ids, _, err := choose(context.Background(), e.read, db.Claim{Lane: db.Lane{Endpoint: "intercom", Name: "conversation"}, Limit: 64, MaxBytes: 1 << 30, After: "workspace3"})
					if err != nil || len(ids) != 64 {
						b.Fatal(len(ids), err)
					}
				}
			})
			b.Run("claim and release", func(b *testing.B) {
				for b.Loop() {
					claimed, _, err := d.Claim(context.Background(), db.Claim{Lane: db.Lane{Endpoint: "intercom", Name: "conversation"}, Token: 8, Limit: 64, MaxBytes: 1 << 30})
					if err != nil || len(claimed) != 64 {
						b.Fatal(len(claimed), err)
					}
					outcomes := make([]db.Outcome, len(claimed))
					for i, c := range claimed {
						outcomes[i] = db.Outcome{ID: c.ID, Token: 8, State: db.Waiting}
					}
					if applied, err := d.Finish(context.Background(), outcomes); err != nil || len(applied) != 64 {
						b.Fatal(len(applied), err)
					}
				}
			})
		})
	}
}
