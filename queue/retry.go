package queue

import (
	"math/rand/v2"
	"time"
)

// retryDelays are the delays after the first, the second and each further failed attempt.
// The last one is used for all attempts after it.
var retryDelays = [...]time.Duration{
	time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
}

// maxRetryAfter is the longest delay that a backend can ask for with Retry-After.
const maxRetryAfter = time.Hour

// retryDelay returns the delay after a failed attempt, given how many attempts have failed
// before it. Jitter of 20 % spreads out the retries of jobs that failed at the same time.
func retryDelay(failedBefore int, retryAfter time.Duration) time.Duration {
	delay := retryDelays[min(failedBefore, len(retryDelays)-1)]
	delay = time.Duration(float64(delay) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // need not be unpredictable
	return max(delay, min(retryAfter, maxRetryAfter))
}
