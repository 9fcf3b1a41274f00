package intercomwebhook

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
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
	if got := intercom.Label("conversation.user.replied"); got != "conversation.user.replied" {
		t.Error(got)
	}
	if got := intercom.Label("made.up"); got != "other" {
		t.Error(got)
	}
	for _, tc := range []struct {
		status int
		err    error
		want   string
	}{{200, nil, "200"}, {599, nil, "599"}, {999, nil, "other"}, {0, errors.New("x"), "error"}, {200, shield.ErrCutShort, "error"}, {410, fmt.Errorf("%w 410", shield.ErrStatus), "410"}} {
		if got := codeLabel(tc.status, tc.err); got != tc.want {
			t.Errorf("%d, %v: got %s, want %s", tc.status, tc.err, got, tc.want)
		}
	}
}

func TestErrorStreakWarnsOnceAt500And900(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	o := &recorder{logger: zap.New(core)}
	o.answered(200)
	for i, want := range []int{499: 0, 500: 1, 899: 1, 900: 2, 1200: 2} {
		if i > 0 {
			o.answered(502)
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
	o.answered(200)
	if got := testutil.ToFloat64(consecutiveErrors); got != 0 {
		t.Errorf("the gauge says %v after a good answer", got)
	}
}

// Without a series at 0, Prometheus does not see the first increase.
func TestCountersOfTheConfigStartAtZero(t *testing.T) {
	for _, vector := range []interface{ Reset() }{refusedTotal, notificationsTotal, backendResponsesTotal, backendSeconds} {
		vector.Reset()
	}
	provisioned(t, `[
		{"match":[{"intercom_topic":["ticket.created","tomorrow"]}],"handle":[{"handler":"static_response"}]},
		{"match":[{"intercom_topic":["ticket.*"],"header":{"A":["b"]}}],"handle":[{"handler":"static_response"}],"lane":"some"}
	]`)
	registry := prometheus.NewRegistry()
	if err := registerMetrics(registry); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, family := range families {
		for _, metric := range family.Metric {
			name := strings.TrimPrefix(family.GetName(), "caddy_intercom_webhook_")
			for _, label := range metric.Label {
				name += " " + label.GetValue()
			}
			got[name] = true
			if metric.Counter.GetValue() != 0 && family.GetName() != "caddy_intercom_webhook_secret_matches_total" {
				t.Errorf("%s is %v", name, metric.Counter.GetValue())
			}
		}
	}
	for name, want := range map[string]bool{
		"refused_total source":                         true,
		"refused_total memory":                         true,
		"backend_responses_total error ticket-created": true,
		"backend_seconds some":                         true,
		"lane_info route some":                         true,
		"notifications_total delivered ticket.created": false, // once there is one
	} {
		if got[name] != want {
			t.Errorf("%s: is there: %t, want %t", name, got[name], want)
		}
	}
}

func TestEveryRefusalReasonStartsAtZero(t *testing.T) {
	source, err := os.ReadFile("verify.go")
	if err != nil {
		t.Fatal(err)
	}
	reasons := regexp.MustCompile(`(?m)^\treason\w+ += "(\w+)"`).FindAllSubmatch(source, -1)
	if len(reasons) != len(refusalReasons) {
		t.Errorf("%d reasons, but %d are found in verify.go", len(refusalReasons), len(reasons))
	}
	for _, reason := range reasons {
		if !slices.Contains(refusalReasons, string(reason[1])) {
			t.Errorf("%s is missing", reason[1])
		}
	}
}

func TestSilenceBeginsWithTheProcess(t *testing.T) {
	if began := testutil.ToFloat64(newLastVerified()); math.Abs(began-float64(time.Now().Unix())) > 10 {
		t.Errorf("the gauge begins with %v, want the time of now", began)
	}
}

// What a notification costs more because others could listen.
func TestStreamsCostNothingWithoutListeners(t *testing.T) {
	o := &recorder{logger: zap.NewNop()}
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	body := []byte("{}")
	now := time.Now()
	observed := testing.AllocsPerRun(100, func() {
		tag := tag{Envelope: envelope.Envelope{Topic: "ping"}}
		tag.request = live.Capture(r, tag.Envelope, body, now)
		o.observe(&tag, outcomeQueued, http.StatusOK, now, now)
	})
	if observed > 0 {
		t.Errorf("%v allocations", observed)
	}
}
