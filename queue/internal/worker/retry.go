package worker

import (
	"errors"
	"math/rand/v2"
	"time"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// retryDelays are the delays after the first, the second and each further failed attempt.
// The last one is used for all attempts after it.
var retryDelays = [...]time.Duration{
	time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
}

// maxRetryAfter is the longest delay that a backend can ask for with Retry-After.
const maxRetryAfter = time.Hour

// retryDelay returns the delay after a failed attempt, given how many attempts have failed
// before it. Jitter of 20 % spreads out the retries of those that failed at the same time.
func retryDelay(failedBefore int, retryAfter time.Duration) time.Duration {
	delay := retryDelays[min(failedBefore, len(retryDelays)-1)]
	delay = time.Duration(float64(delay) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // need not be unpredictable
	return max(delay, min(retryAfter, maxRetryAfter))
}

// decide returns the outcome of an attempt that has ended: its state, the reason of a dead
// one, and the delay of a retrying one. Before are the attempts that ended earlier; the age
// is that at the end of the attempt.
func decide(result intercomwebhook.Delivery, before int, age time.Duration, options *Options) db.Outcome {
	switch {
	case result.Err == nil:
		return db.Outcome{State: db.Delivered}
	case errors.Is(result.Err, intercomwebhook.ErrUnrouted):
		return db.Outcome{State: db.Dead, Reason: db.Unrouted}
	case options.MaxAttempts > 0 && before+1 >= options.MaxAttempts:
		return db.Outcome{State: db.Dead, Reason: db.Attempts}
	case age >= options.MaxAge:
		return db.Outcome{State: db.Dead, Reason: db.Age}
	default:
		return db.Outcome{State: db.Retrying, Delay: retryDelay(before, result.RetryAfter)}
	}
}
