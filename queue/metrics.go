package queue

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/metrics"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// As in the root package, the vectors are made once per process and keep their values when a
// config is loaded.
var (
	deliveriesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem,
		Name: "queue_deliveries_total",
		Help: "Attempts to deliver from the queue, by lane and by what came of them.",
	}, []string{"lane", "result"})

	waitSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem,
		Name:    "queue_wait_seconds",
		Help:    "How long notifications waited in the queue before the first attempt to deliver them, by lane.",
		Buckets: []float64{.005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21600},
	}, []string{"lane"})

	deadLettersTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem,
		Name: "dead_letters_total",
		Help: "Notifications that will not be tried again unless a person retries them, by lane and topic (known ones, and other). Those that a person has cancelled are not counted.",
	}, []string{"lane", "topic"})

	queueCollected = queueCollector{
		jobs: prometheus.NewDesc(prometheus.BuildFQName(metrics.Namespace, metrics.Subsystem, "queue_jobs"),
			"Notifications in the queue, by lane and by River's state.",
			[]string{"lane", "state"}, nil),
		oldest: prometheus.NewDesc(prometheus.BuildFQName(metrics.Namespace, metrics.Subsystem, "queue_oldest_seconds"),
			"Age of the oldest notification that is neither delivered nor a dead letter, by lane; 0 if there is none.",
			[]string{"lane"}, nil),
	}
)

// The values of the label result.
const (
	resultDelivered  = "delivered"
	resultFailed     = "failed"     // will be tried again
	resultDiscarded  = "discarded"  // was the last attempt
	resultUnrouted   = "unrouted"   // no route fits
	resultUnreadable = "unreadable" // the stored notification cannot be decoded
)

var results = []string{resultDelivered, resultFailed, resultDiscarded, resultUnrouted, resultUnreadable}

func registerMetrics(registry *prometheus.Registry) error {
	return metrics.Register(registry, deliveriesTotal, waitSeconds, deadLettersTotal, queueCollected)
}

// startCounters makes the series of the lanes with the value 0, as the root package does for
// its own.
func (a *attachment) startCounters() {
	for _, lane := range append(a.target.Lanes(), unroutedLane) {
		queue := riverQueue(a.options.Name, lane)
		waitSeconds.WithLabelValues(queue)
		for _, result := range results {
			deliveriesTotal.WithLabelValues(queue, result)
		}
		if lane == unroutedLane {
			lane = "" // as Topics calls it
		}
		for _, topic := range a.target.Topics(lane) {
			deadLettersTotal.WithLabelValues(queue, topic)
		}
	}
}

// queueCollector counts the jobs when the metrics are read.
type queueCollector struct{ jobs, oldest *prometheus.Desc }

// Describe sends the descriptions of all metrics.
func (c queueCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.jobs
	descs <- c.oldest
}

// Collect sends the metrics of all lanes. For a lane that is in several databases, it sends
// the sum of the jobs and the greatest age.
func (c queueCollector) Collect(collected chan<- prometheus.Metric) {
	type laneState struct {
		lane  string
		state jobdb.State
	}
	jobs := make(map[laneState]int64)
	oldest := make(map[string]time.Duration)
	dispatchers.Range(func(_, shared any) bool {
		d := shared.(*dispatcher)
		counts, ages := d.snapshot()
		for name, a := range d.current() {
			for _, queue := range a.queues(name) {
				oldest[queue] += 0 // so that an empty lane has a metric, too
			}
		}
		for state, byQueue := range counts {
			for queue, n := range byQueue {
				jobs[laneState{queue, state}] += n
			}
		}
		for queue, age := range ages {
			oldest[queue] = max(oldest[queue], age)
		}
		return true
	})
	for lane, age := range oldest {
		for _, state := range countedStates {
			jobs[laneState{lane, state}] += 0
		}
		collected <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, age.Seconds(), lane)
	}
	for key, n := range jobs {
		collected <- prometheus.MustNewConstMetric(c.jobs, prometheus.GaugeValue, float64(n), key.lane, string(key.state))
	}
}
