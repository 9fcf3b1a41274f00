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

// The metrics live as long as the process, so that counters do not start over when Caddy
// makes a new registry for each config.
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
		// Both limits of Intercom, 0.5 and 5, are bounds, and so is a value below each.
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

// The outcomes of a verified notification, as the outcome label.
const (
	outcomeDelivered = "delivered" // the backend answered 2xx
	outcomeFailed    = "failed"    // the backend answered something else, or not at all
	outcomeTimeout   = "timeout"   // the backend did not answer in time
	outcomePing      = "ping"      // answered by the handler itself
	outcomeUnrouted  = "unrouted"  // no route fits
	outcomeQueued    = "queued"    // stored, to be delivered later
	outcomeDuplicate = "duplicate" // already stored
	outcomeUnqueued  = "unqueued"  // could not be stored
)

func registerMetrics(registry *prometheus.Registry) error {
	return metrics.Register(registry, notificationsTotal, refusedTotal, answerSeconds,
		backendResponsesTotal, consecutiveErrors, secretMatchesTotal)
}

// topicLabel returns the label of a topic. Senders can choose any topic, so unknown ones
// share the label other.
func topicLabel(topic string) string {
	if intercom.IsKnown(topic) {
		return topic
	}
	return "other"
}

// codeLabel returns the label of what a backend answered. Backends can choose any status
// code, so unusual ones share the label other.
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

// errorStreak counts the error answers since the last good one, over all handlers of the
// process. Only answers to allowed senders count.
var errorStreak atomic.Int64

// watchAnswer counts an answer in errorStreak, and warns before Intercom's limit
// (intercom.MaxErrors) is reached.
func watchAnswer(status int, logger *zap.Logger) {
	if intercom.Accepts(status) {
		errorStreak.Store(0)
		return
	}
	if n := errorStreak.Add(1); n == 500 || n == 900 {
		logger.Warn("many error answers in a row: at 1,000 within 15 minutes Intercom pauses all notifications; check the backends",
			zap.Int64("consecutive_errors", n),
			zap.Int("last_status", status))
	}
}

// observe counts a notification by its outcome, and the answer by its status and time.
func (h *Handler) observe(t *tag, outcome string, status int, waited time.Duration) {
	answerSeconds.Observe(waited.Seconds())
	if status == http.StatusGatewayTimeout {
		outcome = outcomeTimeout // whatever the handlers did after the answer
	}
	notificationsTotal.WithLabelValues(topicLabel(t.topic), outcome).Inc()
	watchAnswer(status, h.logger)
}

// outcomeOf returns the outcome of a delivery after which Intercom got this status.
func outcomeOf(status int) string {
	if intercom.Accepts(status) {
		return outcomeDelivered
	}
	return outcomeFailed
}
