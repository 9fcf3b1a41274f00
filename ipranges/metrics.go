package ipranges

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/metrics"
)

var (
	refreshTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metrics.Namespace, Subsystem: metrics.Subsystem,
		Name: "ip_ranges_refresh_total",
		Help: "Attempts to refresh the list of Intercom's addresses, by region and by what came of them.",
	}, []string{"region", "result"})

	listsCollected = listCollector{
		age: prometheus.NewDesc(prometheus.BuildFQName(metrics.Namespace, metrics.Subsystem, "ip_ranges_age_seconds"),
			"Time since the list of Intercom's addresses was last known to be the published one, by region.",
			[]string{"region"}, nil),
		count: prometheus.NewDesc(prometheus.BuildFQName(metrics.Namespace, metrics.Subsystem, "ip_ranges"),
			"Address ranges in the list of Intercom's addresses, by region.",
			[]string{"region"}, nil),
	}
)

// What can come of a refresh of Intercom's addresses, as the result label.
const (
	refreshUpdated   = "updated"   // there was another list
	refreshUnchanged = "unchanged" // there was the same list
	refreshRefused   = "refused"   // what was answered is no list to rely on
	refreshFailed    = "failed"    // there was no whole answer
)

// listCollector tells of the lists in use when it is asked, as ages grow by
// themselves. Of several lists of a region, it tells of the oldest.
type listCollector struct{ age, count *prometheus.Desc }

// Describe sends the descriptions of all metrics.
func (c listCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.age
	descs <- c.count
}

// Collect sends the metrics of all regions in use.
func (c listCollector) Collect(out chan<- prometheus.Metric) {
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
	for region, list := range oldest {
		age := max(0, time.Since(list.Checked).Seconds()) // less than 0 if another's clock was ahead
		out <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, age, region)
		out <- prometheus.MustNewConstMetric(c.count, prometheus.GaugeValue, float64(len(list.Ranges)), region)
	}
}

func registerMetrics(registry *prometheus.Registry) error {
	return metrics.Register(registry, refreshTotal, listsCollected)
}
