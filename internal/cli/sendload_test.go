package cli

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowServer answers each request after a time, without a network, so that tests
// can run on the clock of a synctest bubble.
type slowServer struct {
	takes             func(request int64) time.Duration
	requests          atomic.Int64
	inFlight, highest atomic.Int64
}

func (s *slowServer) RoundTrip(r *http.Request) (*http.Response, error) {
	n := s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	for highest := s.highest.Load(); n > highest; highest = s.highest.Load() {
		s.highest.CompareAndSwap(highest, n)
	}
	select {
	case <-time.After(s.takes(s.requests.Add(1))):
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// always answers after the same time.
func always(d time.Duration) func(int64) time.Duration {
	return func(int64) time.Duration { return d }
}

func (s *slowServer) sender() *sender {
	return &sender{client: &http.Client{Transport: s, Timeout: 10 * time.Second}, url: "http://localhost", scheme: notificationScheme, name: "ping"}
}

func TestLoadPace(t *testing.T) {
	tests := []struct {
		name         string
		load         sendLoad
		takes        time.Duration
		wantElapsed  time.Duration
		wantInFlight int64
	}{
		{"without a rate, one at a time", sendLoad{count: 10}, 100 * time.Millisecond, time.Second, 1},
		{"a rate that needs none to overlap", sendLoad{count: 11, rate: 10}, 50 * time.Millisecond, 1050 * time.Millisecond, 1},
		{"a rate that needs some to overlap", sendLoad{count: 101, rate: 100}, 95 * time.Millisecond, 1095 * time.Millisecond, 10},
		{"a rate that cannot be held", sendLoad{count: 64, rate: 10_000}, time.Second, 2 * time.Second, maxInFlight},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &slowServer{takes: always(tt.takes)}
				tally := tt.load.run(t.Context(), server.sender(), io.Discard)
				if tally.ok != tt.load.count {
					t.Errorf("%d of %d answered", tally.ok, tt.load.count)
				}
				if off := (tally.elapsed - tt.wantElapsed).Abs(); off > 10*time.Millisecond {
					t.Errorf("took %s, want %s", tally.elapsed, tt.wantElapsed)
				}
				if got := server.highest.Load(); got != tt.wantInFlight {
					t.Errorf("%d were in flight at once, want %d", got, tt.wantInFlight)
				}
			})
		})
	}
}

func TestLoadReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes := []time.Duration{20 * time.Millisecond, 700 * time.Millisecond, 30 * time.Millisecond, 6 * time.Second, time.Minute}
		server := &slowServer{takes: func(request int64) time.Duration { return takes[request-1] }}
		var progress, report strings.Builder
		sendLoad{count: 5}.run(t.Context(), server.sender(), &progress).report(&report)

		want := `5 sent in 16.75s (0.3 per second), 1.5 kB
       4  200 OK
       1  no answer, the first: sending: no answer within 10s (Intercom waits 5s; see --timeout)
p50 30ms, p99 6s, max 6s
1 took over 500ms: Intercom gives the endpoint a lower priority
2 took over 5s: Intercom gives up, and tries again once
`
		if report.String() != want {
			t.Errorf("report:\n%s\nwant:\n%s", report.String(), want)
		}
		if first, _, _ := strings.Cut(progress.String(), "\n"); first != "3 of 5 sent, 0 not answered with a 2xx" {
			t.Errorf("progress:\n%s", progress.String())
		}
	})
}

func TestLoadEndsWhenInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2500*time.Millisecond, cancel)
		server := &slowServer{takes: always(time.Second)}
		tally := sendLoad{count: 100}.run(ctx, server.sender(), io.Discard)
		if tally.sent != 2 || tally.noAnswer != 0 {
			t.Errorf("%d sent, %d without an answer, want 2 and 0", tally.sent, tally.noAnswer)
		}
	})
}
