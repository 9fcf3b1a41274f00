package intercomwebhook

import (
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// The vectors live as long as the process, and each config's registry gets them
// anew: Caddy makes a fresh registry at every load, and counts must not start over.
var (
	notificationsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "notifications_total",
		Help: "Verified notifications by topic (known ones, and other) and by what came of them.",
	}, []string{"topic", "outcome"})

	refusedTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "refused_total",
		Help: "Requests that were not let in, by reason.",
	}, []string{"reason"})

	answerSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "answer_seconds",
		Help: "How long Intercom waited for the answer to a notification: over 0.5 s costs priority, after 5 s it gives up.",
		// Intercom's limits are bounds, and there is one just below each.
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .4, .5, .75, 1, 2.5, 4.5, 5, 10},
	})

	backendResponsesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "backend_responses_total",
		Help: "What the backends really answered to notifications, by route and status code; error if no answer came.",
	}, []string{"route", "code"})

	consecutiveErrors = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "consecutive_errors",
		Help: "Error answers to Intercom since the last good one. At 1,000 within 15 minutes Intercom pauses all notifications.",
	}, func() float64 { return float64(errorStreak.Load()) })

	secretMatchesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "secret_matches_total",
		Help: "Verified requests by the place in client_secret, from 1, of the secret that signed them.",
	}, []string{"secret"})

	ipRangesRefreshTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "ip_ranges_refresh_total",
		Help: "Attempts to refresh the list of Intercom's addresses, by region and by what came of them.",
	}, []string{"region", "result"})

	ipRangesCollected = ipRangesCollector{
		age: prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, "ip_ranges_age_seconds"),
			"Time since the list of Intercom's addresses was last known to be the published one, by region.",
			[]string{"region"}, nil),
		count: prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, "ip_ranges"),
			"Address ranges in the list of Intercom's addresses, by region.",
			[]string{"region"}, nil),
	}
)

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "intercom_webhook"
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

// What can come of a refresh of Intercom's addresses, as the result label.
const (
	refreshUpdated   = "updated"   // there was another list
	refreshUnchanged = "unchanged" // there was the same list
	refreshRefused   = "refused"   // what was answered is no list to rely on
	refreshFailed    = "failed"    // there was no whole answer
)

// ipRangesCollector tells of the lists in use when it is asked, as ages grow by
// themselves. Of several lists of a region, it tells of the oldest.
type ipRangesCollector struct{ age, count *prometheus.Desc }

// Describe sends the descriptions of all metrics.
func (c ipRangesCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.age
	descs <- c.count
}

// Collect sends the metrics of all regions in use.
func (c ipRangesCollector) Collect(metrics chan<- prometheus.Metric) {
	oldest := make(map[string]*ipList)
	refreshers.Range(func(_, shared any) bool {
		for _, region := range shared.(*refresher).regions {
			list, other := region.list.Load(), oldest[region.region]
			if other == nil || list.Checked.Before(other.Checked) {
				oldest[region.region] = list
			}
		}
		return true
	})
	for region, list := range oldest {
		age := max(0, time.Since(list.Checked).Seconds()) // less than 0 if another's clock was ahead
		metrics <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, age, region)
		metrics <- prometheus.MustNewConstMetric(c.count, prometheus.GaugeValue, float64(len(list.Ranges)), region)
	}
}

func registerMetrics(registry *prometheus.Registry) error {
	for _, collector := range []prometheus.Collector{
		notificationsTotal, refusedTotal, answerSeconds,
		backendResponsesTotal, consecutiveErrors, secretMatchesTotal,
		ipRangesRefreshTotal, ipRangesCollected,
	} {
		err := registry.Register(collector)
		if already := (prometheus.AlreadyRegisteredError{}); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}

// topicLabel bounds the label: topics are chosen outside.
func topicLabel(topic string) string {
	if _, known := knownTopics[topic]; known {
		return topic
	}
	return "other"
}

// codeLabel bounds the label: status codes are chosen outside, too.
func codeLabel(status int, err error) string {
	switch {
	case err != nil:
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
	if success(status) {
		errorStreak.Store(0)
		return
	}
	if n := errorStreak.Add(1); n == 500 || n == 900 {
		logger.Warn("many error answers in a row: at 1,000 within 15 minutes Intercom pauses all notifications",
			zap.Int64("consecutive_errors", n),
			zap.Int("last_status", status))
	}
}
