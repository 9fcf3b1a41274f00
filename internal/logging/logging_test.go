package logging

import (
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// testClock stands still until it is set.
type testClock struct{ now time.Time }

func (c *testClock) Now() time.Time                       { return c.now }
func (*testClock) NewTicker(d time.Duration) *time.Ticker { return time.NewTicker(d) }

func TestOncePerSecondKeepsTheFirstOfEachMessage(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	clock := &testClock{now: time.Unix(1000, 0)}
	logger := OncePerSecond(zap.New(core, zap.WithClock(clock)))
	write := func() {
		for range 100 {
			logger.Warn("refused")
			logger.Error("panicked")
		}
	}
	write()
	clock.now = clock.now.Add(999 * time.Millisecond)
	write()
	clock.now = clock.now.Add(time.Millisecond)
	write()

	var got []string
	for _, entry := range logs.All() {
		got = append(got, entry.Message)
	}
	if want := []string{"refused", "panicked", "refused", "panicked"}; !slices.Equal(got, want) {
		t.Errorf("wrote %q, want %q", got, want)
	}
}
