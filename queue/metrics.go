package queue

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// As in the root package, the vectors live as long as the process.
var (
	deliveriesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "queue_deliveries_total",
		Help: "Attempts to deliver from the queue, by lane and by what came of them.",
	}, []string{"lane", "result"})

	queueCollected = queueCollector{
		jobs: prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, "queue_jobs"),
			"Notifications in the queue, by lane and by River's state.",
			[]string{"lane", "state"}, nil),
		oldest: prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, "queue_oldest_seconds"),
			"Age of the oldest notification that is neither delivered nor a dead letter, by lane; 0 if there is none.",
			[]string{"lane"}, nil),
	}
)

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "intercom_webhook"
)

// What can come of an attempt to deliver, as the result label.
const (
	resultDelivered  = "delivered"
	resultFailed     = "failed"     // will be tried again
	resultDiscarded  = "discarded"  // was the last attempt
	resultUnrouted   = "unrouted"   // no route fits
	resultUnreadable = "unreadable" // what is stored is no request
)

func registerMetrics(registry *prometheus.Registry) error {
	for _, collector := range []prometheus.Collector{deliveriesTotal, queueCollected} {
		err := registry.Register(collector)
		if already := (prometheus.AlreadyRegisteredError{}); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}

// unfinished reports whether a notification in this state is yet to be delivered.
func unfinished(state rivertype.JobState) bool {
	switch state {
	case rivertype.JobStateCompleted, rivertype.JobStateCancelled, rivertype.JobStateDiscarded:
		return false
	case rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable,
		rivertype.JobStateRunning, rivertype.JobStateScheduled:
		return true
	}
	return true
}

// census is what a database had in it a moment ago. To count takes time, however
// often somebody asks.
type census struct {
	mu     sync.Mutex
	taken  time.Time
	counts []jobCount
	oldest map[string]time.Time
}

const (
	censusValidity = 2 * time.Second
	censusTimeout  = 3 * time.Second
)

// queueCollector counts when it is asked.
type queueCollector struct{ jobs, oldest *prometheus.Desc }

// Describe sends the descriptions of all metrics.
func (c queueCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.jobs
	descs <- c.oldest
}

// Collect sends the metrics of all lanes. Those of several databases are added up.
func (c queueCollector) Collect(metrics chan<- prometheus.Metric) {
	type laneState struct{ lane, state string }
	jobs := make(map[laneState]int64)
	oldest := make(map[string]float64)
	engines.Range(func(_, shared any) bool {
		e := shared.(*engine)
		counts, since := e.takeCensus()
		for name, endpoint := range e.current() {
			for _, lane := range append(endpoint.target.Lanes(), unroutedLane) {
				oldest[riverQueue(name, lane)] += 0 // so that a lane with nothing in it shows
			}
		}
		for _, count := range counts {
			jobs[laneState{count.queue, string(count.state)}] += count.n
		}
		for queue, at := range since {
			oldest[queue] = max(oldest[queue], time.Since(at).Seconds())
		}
		return true
	})
	for lane := range oldest {
		for _, state := range []rivertype.JobState{rivertype.JobStateAvailable, rivertype.JobStateRunning, rivertype.JobStateRetryable, rivertype.JobStateCompleted, rivertype.JobStateDiscarded, rivertype.JobStateCancelled} {
			jobs[laneState{lane, string(state)}] += 0
		}
		metrics <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, oldest[lane], lane)
	}
	for key, n := range jobs {
		metrics <- prometheus.MustNewConstMetric(c.jobs, prometheus.GaugeValue, float64(n), key.lane, key.state)
	}
}

// takeCensus counts, unless that was just done. If it cannot, it tells what it knows.
func (e *engine) takeCensus() ([]jobCount, map[string]time.Time) {
	c := &e.census
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.taken) < censusValidity {
		return c.counts, c.oldest
	}
	ctx, cancel := context.WithTimeout(e.ctx, censusTimeout)
	defer cancel()
	counts, err := e.db.count(ctx)
	var oldest map[string]time.Time
	if err == nil {
		oldest, err = e.db.oldest(ctx)
	}
	if err != nil {
		caddy.Log().Named(loggerName).Debug("counting what is stored failed", zap.Error(err))
		return c.counts, c.oldest
	}
	c.counts, c.oldest, c.taken = counts, oldest, time.Now()
	return counts, oldest
}
