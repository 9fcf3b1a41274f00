package intercomwebhook

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMetricsSurviveAReload(t *testing.T) {
	secretMatchesTotal.WithLabelValues("1").Inc()
	before := testutil.ToFloat64(secretMatchesTotal.WithLabelValues("1"))
	for range 2 { // two loads, each with two handlers
		registry := prometheus.NewRegistry()
		for range 2 {
			if err := registerMetrics(registry); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := testutil.GatherAndCount(registry, "caddy_intercom_webhook_secret_matches_total"); n != 1 || err != nil {
			t.Errorf("gathered %d, %v", n, err)
		}
	}
	if after := testutil.ToFloat64(secretMatchesTotal.WithLabelValues("1")); after != before {
		t.Errorf("%v became %v", before, after)
	}
}

func TestMetricsOfAnotherWithTheSameNameAreAnError(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "caddy_intercom_webhook_refused_total", Help: "another"}))
	if registerMetrics(registry) == nil {
		t.Error("no error")
	}
}

func TestLabelsAreBounded(t *testing.T) {
	if got := topicLabel("conversation.user.replied"); got != "conversation.user.replied" {
		t.Error(got)
	}
	if got := topicLabel("made.up"); got != "other" {
		t.Error(got)
	}
	for _, tc := range []struct {
		status int
		err    error
		want   string
	}{{200, nil, "200"}, {599, nil, "599"}, {999, nil, "other"}, {0, errors.New("x"), "error"}, {200, errCutShort, "error"}, {410, statusError(410), "410"}} {
		if got := codeLabel(tc.status, tc.err); got != tc.want {
			t.Errorf("%d, %v: got %s, want %s", tc.status, tc.err, got, tc.want)
		}
	}
}

func TestErrorStreakWarnsOnceAt500And900(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	logger := zap.New(core)
	watchAnswer(200, logger)
	for i, want := range []int{499: 0, 500: 1, 899: 1, 900: 2, 1200: 2} {
		if i > 0 {
			watchAnswer(502, logger)
		}
		switch i {
		case 499, 500, 899, 900, 1200:
			if got := logs.Len(); got != want {
				t.Errorf("%d warnings after %d errors, want %d", got, i, want)
			}
		}
	}
	if logs.Len() != 2 || logs.All()[0].ContextMap()["consecutive_errors"] != int64(500) || logs.All()[1].ContextMap()["consecutive_errors"] != int64(900) {
		t.Errorf("warned %v", logs.All())
	}
	if got := testutil.ToFloat64(consecutiveErrors); got != 1200 {
		t.Errorf("the gauge says %v", got)
	}
	watchAnswer(200, logger)
	if got := testutil.ToFloat64(consecutiveErrors); got != 0 {
		t.Errorf("the gauge says %v after a good answer", got)
	}
}
