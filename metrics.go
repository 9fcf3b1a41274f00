package intercomwebhook

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/history"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/metrics"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/stream"
)

// The metrics live as long as the process, so that counters do not start over when Caddy
// makes a new registry for each config.
var (
	notificationsTotal = prometheus.NewCounterVec(prometheus.CounterOpts(metrics.Opts("notifications_total",
		"Verified notifications by topic (known ones, and other) and by what came of them.")), []string{"topic", "outcome"})

	refusedTotal = prometheus.NewCounterVec(prometheus.CounterOpts(metrics.Opts("refused_total",
		"Requests that were not let in, by reason.")), []string{"reason"})

	answerSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem, Name: "answer_seconds",
		Help: "How long Intercom waited for the answer to a notification: over 0.5 s costs priority, after 5 s it gives up.",
		// Both limits of Intercom, 0.5 and 5, are bounds, and so is a value below each.
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .4, .5, .75, 1, 2.5, 4.5, 5, 10},
	})

	backendResponsesTotal = prometheus.NewCounterVec(prometheus.CounterOpts(metrics.Opts("backend_responses_total",
		"What the backends really answered to notifications, by lane and status code; error if no answer came.")), []string{"lane", "code"})

	backendSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem, Name: "backend_seconds",
		Help: "How long each attempt to deliver to a backend took, with and without a queue, by lane.",
		// 4.5 and 30 are the default time limits, without and with a queue.
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 4.5, 10, 20, 30, 60, 300},
	}, []string{"lane"})

	consecutiveErrors = prometheus.NewGaugeFunc(prometheus.GaugeOpts(metrics.Opts("consecutive_errors",
		"Error answers to Intercom since the last good one. At 1,000 within 15 minutes Intercom pauses all notifications.")), func() float64 { return float64(history.Intercom.Errors.Load()) })

	lastVerified = newLastVerified()

	secretMatchesTotal = prometheus.NewCounterVec(prometheus.CounterOpts(metrics.Opts("secret_matches_total",
		"Verified requests by the place in client_secret, from 1, of the secret that signed them, or by fin_ and the place in fin_secret.")), []string{"secret"})
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
	outcomeIgnored   = "ignored"   // for no route, by ignore or once
)

// newLastVerified returns a gauge that has the time of the start. Without that, alerts would
// take each restart for a long silence, or would miss a silence that began before it.
func newLastVerified() prometheus.Gauge {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts(metrics.Opts("last_verified_timestamp_seconds",
		"When the last verified notification came, pings too, in Unix seconds; before the first one, when Caddy started. Intercom sends nothing to a suspended subscription.")))
	gauge.SetToCurrentTime()
	return gauge
}

func registerMetrics(registry *prometheus.Registry) error {
	for _, reason := range refusalReasons {
		refusedTotal.WithLabelValues(reason)
	}
	return metrics.Register(registry, notificationsTotal, refusedTotal, answerSeconds,
		backendResponsesTotal, backendSeconds, consecutiveErrors, lastVerified, secretMatchesTotal, metrics.Lanes.Collector())
}

// startCounters makes the series of a lane with the value 0. Without that, the first failure
// would make a new series with the value 1, which Prometheus does not take for an increase.
// They stay until Caddy ends.
func startCounters(label string) {
	backendSeconds.WithLabelValues(label)
	for _, code := range []string{"200", codeError} {
		backendResponsesTotal.WithLabelValues(label, code)
	}
}

// secretMatches returns the counter of the secret at a place, counted from 0.
func secretMatches(scheme *signature.Scheme, place int) prometheus.Counter {
	label := strconv.Itoa(place + 1)
	if scheme == signature.Fin {
		label = "fin_" + label
	}
	return secretMatchesTotal.WithLabelValues(label)
}

// startSecretMatches makes the counters of so many secrets, so that a secret that is never used
// has one, too.
func startSecretMatches(scheme *signature.Scheme) func(n int) {
	return func(n int) {
		for i := range n {
			secretMatches(scheme, i)
		}
	}
}

// codeError is the label of an answer that is not whole, or did not come.
const codeError = "error"

// codeLabel returns the label of what a backend answered. Backends can choose any status
// code, so unusual ones share the label other.
func codeLabel(status int, err error) string {
	switch {
	case err != nil && !errors.Is(err, shield.ErrStatus):
		return codeError
	case status < 100 || status > 599:
		return "other"
	default:
		return strconv.Itoa(status)
	}
}

// live tells of all notifications of this process. It outlives configs.
var live stream.Broadcaster

// recorder counts the answers that Intercom gets.
type recorder struct {
	queued      bool // there is a queue
	logger      *zap.Logger
	floodLogger *zap.Logger
	events      *events.Emitter
}

// refused counts and logs the refusal of a request.
func (o *recorder) refused(r *http.Request, why *refusal) {
	refusedTotal.WithLabelValues(why.reason).Inc()
	switch why.reason {
	case reasonMethod, reasonEarlyData, reasonSource: // not proven to come from Intercom
	default:
		o.answered(why.status)
	}
	if c := o.floodLogger.Check(zap.WarnLevel, "refused request: "+why.reason); c != nil {
		clientIP, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
		c.Write(
			zap.String("reason", why.reason),
			zap.String("client_ip", clientIP),
			zap.String("remote_addr", r.RemoteAddr),
			zap.Int("status", why.status),
			zap.Error(why))
	}
}

// answered counts error answers since the last good one, over all handlers of the process; only answers to allowed
// senders count. It warns and emits an event before Intercom's limit
// (intercom.MaxErrors) is reached.
func (o *recorder) answered(status int) {
	if intercom.Accepts(status) {
		history.Intercom.Errors.Store(0)
		return
	}
	if n := history.Intercom.Errors.Add(1); n == 500 || n == 900 {
		o.logger.Warn("many error answers in a row: at 1,000 within 15 minutes Intercom pauses all notifications; check the backends",
			zap.Int64("consecutive_errors", n),
			zap.Int("last_status", status))
		o.events.Emit(events.ErrorBudget, func() map[string]any {
			return map[string]any{"consecutive_errors": n, "last_status": status}
		})
	}
}

// observe counts a notification by its outcome, and the answer by its status and time. It
// tells those who listen of both.
func (o *recorder) observe(t *tag, outcome string, status int, received, answered time.Time) {
	waited := answered.Sub(received)
	answerSeconds.Observe(waited.Seconds())
	switch { // whatever the handlers or the queue did after the answer
	case status == http.StatusGatewayTimeout:
		outcome = outcomeTimeout
	case status == http.StatusServiceUnavailable && o.queued:
		outcome = outcomeUnqueued
	}
	notificationsTotal.WithLabelValues(intercom.Label(t.Topic), outcome).Inc()
	o.answered(status)
	history.Intercom.Took(answered, kindOf(status), waited)
	if outcome == outcomePing {
		history.Intercom.Ping.Set(received)
	}
	if live.Listened() {
		live.Publish(&stream.Event{
			Event: adminapi.Event{
				At: received.UTC(), Kind: t.kind, Topic: t.Topic, Workspace: t.AppID, ID: t.ID,
				Outcome: outcome, Lane: t.result.lane, Status: status, Seconds: waited.Seconds(),
			},
			Request: t.request,
		})
	}
}

// kindOf returns what an answer to Intercom counts as.
func kindOf(status int) history.Kind {
	if intercom.Accepts(status) {
		return history.Accepted
	}
	return history.Failed
}

// outcomeOf returns the outcome of a delivery after which Intercom got this status.
func outcomeOf(status int) string {
	if intercom.Accepts(status) {
		return outcomeDelivered
	}
	return outcomeFailed
}

// logPanic logs a panic of a handler or a matcher, together with fields that identify the
// notification.
func logPanic(logger *zap.Logger, panicked *shield.PanicError, fields ...zap.Field) {
	if c := logger.Check(zap.ErrorLevel, "a handler panicked"); c != nil {
		c.Write(append(fields, zap.String("panic", panicked.Value), zap.ByteString("stack", panicked.Stack))...)
	}
}
