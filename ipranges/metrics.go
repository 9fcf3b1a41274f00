package ipranges

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/metrics"
)

var (
	refreshTotal = prometheus.NewCounterVec(prometheus.CounterOpts(metrics.Opts("ip_ranges_refresh_total",
		"Attempts to refresh the list of Intercom's addresses, by region and by what came of them.")), []string{"region", "result"})

	listsCollected = listCollector{
		age: prometheus.NewDesc(prometheus.BuildFQName(metrics.Namespace, metrics.Subsystem, "ip_ranges_age_seconds"),
			"Time since the list of Intercom's addresses was last known to be the published one, by region.",
			[]string{"region"}, nil),
		count: prometheus.NewDesc(prometheus.BuildFQName(metrics.Namespace, metrics.Subsystem, "ip_ranges"),
			"Address ranges in the list of Intercom's addresses, by region.",
			[]string{"region"}, nil),
	}
)

// startCounters makes the series of a region, with the value 0. Without that, the first
// list that is refused would make a new series with the value 1, which Prometheus does not
// take for an increase.
func startCounters(region string) {
	for _, result := range []string{refreshUpdated, refreshUnchanged, refreshRefused, refreshFailed} {
		refreshTotal.WithLabelValues(region, result)
	}
}

// The results of a refresh, as the result label.
const (
	refreshUpdated   = "updated"   // the list has changed
	refreshUnchanged = "unchanged" // the list has not changed
	refreshRefused   = "refused"   // the answer is not a list to rely on
	refreshFailed    = "failed"    // there was no complete answer
)

// listCollector reads the lists in use at each collection, because ages change with
// time.
type listCollector struct{ age, count *prometheus.Desc }

// Describe implements prometheus.Collector.
func (c listCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.age
	descs <- c.count
}

// InUse returns the lists that the configs use, by region: the oldest one if a region has several.
func InUse() map[string]*List {
	oldest := make(map[string]*List)
	refreshers.Range(func(_, shared any) bool {
		for _, region := range shared.(*refresher).regions {
			list, other := region.list.Load(), oldest[region.Region]
			if other == nil || list.Checked.Before(other.Checked) {
				oldest[region.Region] = list
			}
		}
		return true
	})
	return oldest
}

// Collect implements prometheus.Collector.
func (c listCollector) Collect(out chan<- prometheus.Metric) {
	for region, list := range InUse() {
		age := max(0, time.Since(list.Checked).Seconds()) // negative if another instance's clock was ahead
		out <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, age, region)
		out <- prometheus.MustNewConstMetric(c.count, prometheus.GaugeValue, float64(len(list.Ranges)), region)
	}
}

func registerMetrics(registry *prometheus.Registry) error {
	return metrics.Register(registry, refreshTotal, listsCollected)
}
