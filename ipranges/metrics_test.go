package ipranges

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMetricsOfIPRangesAreThoseOfTheOldestList(t *testing.T) {
	for _, tc := range []struct {
		ages      []time.Duration // of lists with 1, 2, 3 ranges of one region
		wantAge   time.Duration
		wantCount float64
	}{
		{[]time.Duration{time.Hour}, time.Hour, 1},
		{[]time.Duration{time.Minute, 2 * time.Hour, time.Hour}, 2 * time.Hour, 2},
		{[]time.Duration{-time.Hour}, 0, 1}, // confirmed by another instance, whose clock is ahead
	} {
		var lists []*refresher
		for i, age := range tc.ages {
			list, err := acquireRefresher(setting{urls: [3]string{"http://intercom/"}, timeout: time.Duration(i)}, silentSubscriber(t))
			if err != nil {
				t.Fatal(err)
			}
			list.regions[0].list.Store(&List{Ranges: make([]netip.Prefix, i+1), Checked: time.Now().Add(-age)})
			lists = append(lists, list)
		}
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(listsCollected)
		got := make(map[string]float64)
		families, err := registry.Gather()
		if err != nil {
			t.Error(err)
		}
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				got[family.GetName()+" "+metric.GetLabel()[0].GetValue()] = metric.GetGauge().GetValue()
			}
		}
		if count := got["caddy_intercom_webhook_ip_ranges us"]; count != tc.wantCount || len(got) != 2 {
			t.Errorf("%v: got %v, want %v ranges", tc.ages, got, tc.wantCount)
		}
		if late := got["caddy_intercom_webhook_ip_ranges_age_seconds us"] - tc.wantAge.Seconds(); late < 0 || late > 600 {
			t.Errorf("%v: got %v, want an age of %v", tc.ages, got, tc.wantAge)
		}
		for _, list := range lists {
			list.release(nil)
		}
	}
}

// An increase from nothing to 1 is none to Prometheus.
func TestCountersOfRefreshesBeginAt0(t *testing.T) {
	refreshTotal.Reset()
	list, err := acquireRefresher(setting{urls: [3]string{"", "http://intercom/", ""}}, silentSubscriber(t))
	if err != nil {
		t.Fatal(err)
	}
	defer list.release(nil)
	const want = `
		# HELP caddy_intercom_webhook_ip_ranges_refresh_total Attempts to refresh the list of Intercom's addresses, by region and by what came of them.
		# TYPE caddy_intercom_webhook_ip_ranges_refresh_total counter
		caddy_intercom_webhook_ip_ranges_refresh_total{region="eu",result="failed"} 0
		caddy_intercom_webhook_ip_ranges_refresh_total{region="eu",result="refused"} 0
		caddy_intercom_webhook_ip_ranges_refresh_total{region="eu",result="unchanged"} 0
		caddy_intercom_webhook_ip_ranges_refresh_total{region="eu",result="updated"} 0
	`
	if err := testutil.CollectAndCompare(refreshTotal, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
