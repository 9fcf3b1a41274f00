package queue

import (
	"testing"
	"time"
)

func TestRetriesGrowToAnHour(t *testing.T) {
	want := []time.Duration{
		time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, time.Hour,
	}
	for failedBefore, about := range want {
		seen := make(map[time.Duration]bool)
		for range 100 {
			delay := retryDelay(failedBefore, 0)
			if delay < about*8/10 || delay > about*12/10 {
				t.Errorf("after %d failures: %s, want about %s", failedBefore, delay, about)
			}
			seen[delay] = true
		}
		if len(seen) < 50 {
			t.Errorf("after %d failures: only %d different delays of 100, want jitter", failedBefore, len(seen))
		}
	}
}

func TestRetryAfterIsHonoredUpToAnHour(t *testing.T) {
	for _, c := range []struct {
		asked, least, most time.Duration
	}{
		{0, 0, 2 * time.Second},
		{time.Millisecond, 500 * time.Millisecond, 2 * time.Second}, // not sooner than without
		{7 * time.Minute, 7 * time.Minute, 7 * time.Minute},
		{24 * time.Hour, time.Hour, time.Hour},
	} {
		if got := retryDelay(0, c.asked); got < c.least || got > c.most {
			t.Errorf("asked for %s: %s, want %s to %s", c.asked, got, c.least, c.most)
		}
	}
}
