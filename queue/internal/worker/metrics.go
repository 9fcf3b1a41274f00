package worker

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/metrics"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// As in the root package, the vectors are made once per process and keep their values when a
// config is loaded.
var (
	attemptsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem,
		Name: "queue_attempts_total",
		Help: "Attempts to deliver from the queue, by lane and by what came of them: delivered, failed (to be tried again), or the reason of a dead letter.",
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
		Help: "Notifications that will not be tried again unless a person retries them, by lane and topic (known ones, and other). Those that a person has cancelled or dropped are not counted.",
	}, []string{"lane", "topic"})

	allLanes = laneCollector{
		paused:     laneDesc("lane_paused", "Whether a person has paused the lane.", "lane"),
		deliveries: laneDesc("queue_deliveries", "Deliveries in the queue's database, by lane and state; delivered ones are not counted.", "lane", "state"),
		oldest:     laneDesc("queue_oldest_seconds", "Age of the oldest delivery that is neither delivered nor dead, by lane; 0 if there is none.", "lane"),
		heldBack:   laneDesc("queue_held_back", "Objects of which deliveries wait for an earlier one that is not finished, by lane; 0 unless the lane is ordered.", "lane"),
	}
)

// resultFailed is the result of an attempt that will be made again.
const resultFailed = "failed"

// results are the values of the label result.
var results = []string{string(db.Delivered), resultFailed, string(db.Attempts), string(db.Age), string(db.Refused), string(db.Unrouted)}

func laneDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(metrics.Namespace, metrics.Subsystem, name), help, labels, nil)
}

// Register registers the metrics of all workers.
func Register(registry *prometheus.Registry) error {
	return metrics.Register(registry, attemptsTotal, waitSeconds, deadLettersTotal, allLanes)
}

// startCounters makes the series of the lanes with the value 0, as the root package does for
// its own.
func (c Config) startCounters() {
	for _, lane := range c.lanes() {
		label := Label(lane.Lane)
		waitSeconds.WithLabelValues(label)
		deadLettersTotal.WithLabelValues(label, intercom.OtherTopics)
		for _, result := range results {
			attemptsTotal.WithLabelValues(label, result)
		}
	}
}

// sources return the lanes of the workers that are open, by worker.
var sources sync.Map // of any to func() []LaneStatus

// laneCollector counts the deliveries when the metrics are read.
type laneCollector struct{ paused, deliveries, oldest, heldBack *prometheus.Desc }

// Describe sends the descriptions of all metrics.
func (c laneCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.paused
	descs <- c.deliveries
	descs <- c.oldest
	descs <- c.heldBack
}

// Collect sends the metrics of all lanes. For a lane that is in several databases, it sends
// the sum of the deliveries and the greatest age.
func (c laneCollector) Collect(metrics chan<- prometheus.Metric) {
	byLabel := make(map[string]*LaneStatus)
	sources.Range(func(_, lanes any) bool {
		for _, status := range lanes.(func() []LaneStatus)() {
			label := Label(status.Lane)
			sum := byLabel[label]
			if sum == nil {
				byLabel[label] = &status
				continue
			}
			for state, n := range status.Counts {
				sum.Counts[state] += n
			}
			sum.Oldest = max(sum.Oldest, status.Oldest)
			sum.Held.Objects += status.Held.Objects
			if status.State == LanePaused {
				sum.State = LanePaused
			}
		}
		return true
	})
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for label, lane := range byLabel {
		paused := 0.0
		if lane.State == LanePaused {
			paused = 1
		}
		gauge(c.paused, paused, label)
		gauge(c.oldest, lane.Oldest.Seconds(), label)
		gauge(c.heldBack, float64(lane.Held.Objects), label)
		for state, n := range lane.Counts {
			gauge(c.deliveries, float64(n), label, string(state))
		}
	}
}
