package intercomwebhook

import (
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/metrics"
)

// The vectors live as long as the process, and each config's registry gets them
// anew: Caddy makes a fresh registry at every load, and counts must not start over.
var (
	notificationsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem,
		Name: "notifications_total",
		Help: "Verified notifications by topic (known ones, and other) and by what came of them.",
	}, []string{"topic", "outcome"})

	refusedTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem,
		Name: "refused_total",
		Help: "Requests that were not let in, by reason.",
	}, []string{"reason"})

	answerSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem,
		Name: "answer_seconds",
		Help: "How long Intercom waited for the answer to a notification: over 0.5 s costs priority, after 5 s it gives up.",
		// Intercom's limits are bounds, and there is one just below each.
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .4, .5, .75, 1, 2.5, 4.5, 5, 10},
	})

	backendResponsesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem,
		Name: "backend_responses_total",
		Help: "What the backends really answered to notifications, by route and status code; error if no answer came.",
	}, []string{"route", "code"})

	consecutiveErrors = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem,
		Name: "consecutive_errors",
		Help: "Error answers to Intercom since the last good one. At 1,000 within 15 minutes Intercom pauses all notifications.",
	}, func() float64 { return float64(errorStreak.Load()) })

	secretMatchesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem,
		Name: "secret_matches_total",
		Help: "Verified requests by the place in client_secret, from 1, of the secret that signed them.",
	}, []string{"secret"})
)

// What can come of a verified notification, as the outcome label.
const (
	outcomeDelivered = "delivered" // taken by a backend
	outcomeFailed    = "failed"    // not taken, or no backend reached
	outcomeTimeout   = "timeout"   // not taken in time
	outcomePing      = "ping"      // answered here
	outcomeUnrouted  = "unrouted"  // no route fits
	outcomeQueued    = "queued"    // stored, to be delivered later
	outcomeDuplicate = "duplicate" // stored already
	outcomeUnqueued  = "unqueued"  // could not be stored
)

func registerMetrics(registry *prometheus.Registry) error {
	return metrics.Register(registry, notificationsTotal, refusedTotal, answerSeconds,
		backendResponsesTotal, consecutiveErrors, secretMatchesTotal)
}

// topicLabel bounds the label: topics are chosen outside.
func topicLabel(topic string) string {
	if intercom.IsKnown(topic) {
		return topic
	}
	return "other"
}

// codeLabel bounds the label: status codes are chosen outside, too.
func codeLabel(status int, err error) string {
	switch {
	case err != nil && !errors.Is(err, errStatus):
		return "error"
	case status < 100 || status > 599:
		return "other"
	default:
		return strconv.Itoa(status)
	}
}

// errorStreak counts the answers since the last good one to a sender that is
// allowed, over all handlers of the process.
var errorStreak atomic.Int64

// watchAnswer keeps the streak, and warns while there is still time to act.
// Source of the limit: https://developers.intercom.com/docs/webhooks/webhook-notifications
func watchAnswer(status int, logger *zap.Logger) {
	if intercom.Accepts(status) {
		errorStreak.Store(0)
		return
	}
	if n := errorStreak.Add(1); n == 500 || n == 900 {
		logger.Warn("many error answers in a row: at 1,000 within 15 minutes Intercom pauses all notifications",
			zap.Int64("consecutive_errors", n),
			zap.Int("last_status", status))
	}
}

// observe counts a notification by what came of it and what Intercom was answered.
func (h *Handler) observe(t *tag, outcome string, status int, waited time.Duration) {
	answerSeconds.Observe(waited.Seconds())
	if status == http.StatusGatewayTimeout {
		outcome = outcomeTimeout // even if the handlers came to another end later
	}
	notificationsTotal.WithLabelValues(topicLabel(t.topic), outcome).Inc()
	watchAnswer(status, h.logger)
}

func outcomeOf(status int) string {
	if intercom.Accepts(status) {
		return outcomeDelivered
	}
	return outcomeFailed
}
