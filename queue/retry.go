package queue

import (
	"math/rand/v2"
	"time"
)

// retryDelays are the waits after the first failed attempts; the last one is also
// that after all others.
var retryDelays = [...]time.Duration{
	time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
}

// maxRetryAfter is how long a backend can ask to be left alone.
const maxRetryAfter = time.Hour

// retryDelay returns how long to wait after an attempt has failed, given how many had
// failed before it. The jitter spreads out what failed at once.
func retryDelay(failedBefore int, retryAfter time.Duration) time.Duration {
	delay := retryDelays[min(failedBefore, len(retryDelays)-1)]
	delay = time.Duration(float64(delay) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // need not be unpredictable
	return max(delay, min(retryAfter, maxRetryAfter))
}
