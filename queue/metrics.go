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

func registerMetrics(registry *prometheus.Registry) error {
	return metrics.Register(registry, deliveriesTotal, queueCollected)
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
