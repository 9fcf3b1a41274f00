//go:build prometheus

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// expression is one in PromQL, of the dashboard or of an alert.
type expression struct {
	at     string
	text   string
	labels []string // that its legend or its texts show
}

var (
	promSelector = regexp.MustCompile(`caddy_intercom_webhook_\w+(?:\{[^}]*\})?`)
	promGrouping = regexp.MustCompile(`\b(by|on|without) ?\(([^)]*)\)`)
	promLegend   = regexp.MustCompile(`\{\{ *(\w+) *\}\}`)
	promShown    = regexp.MustCompile(`\$labels\.(\w+)`)
	promOptions  = regexp.MustCompile(`label_values\((.+), *(\w+)\)`)
)

// A name or label that the gateway does not have makes a panel empty, and an alert silent
// for ever. So each one is looked up in a Prometheus that scrapes a gateway that has had all
// kinds of traffic.
func TestDashboardAndAlertsFitTheMetrics(t *testing.T) {
	good, bad := newTally(t, 0), answering(t, http.StatusInternalServerError)
	publisher := newPublisher(t, publishedAddress)
	p := newProcess(t)
	s := p.queued("route conversation.* as support to "+good.address+"\nroute contact.* as crm to "+bad.address+"\ncopy contact.* as staging to "+bad.address, "max_attempts 1")
	s.allow = "static 127.0.0.1\nallow " + publisher.source("us", "")
	p.start(s)
	prometheus := startPrometheus(t, p.metrics)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			p.trafficOfAllKinds()
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()

	panels := dashboardExpressions(t)
	if len(panels) < 20 {
		t.Errorf("the dashboard has only %d expressions", len(panels))
	}
	for _, e := range panels {
		prometheus.wantFit(t, e)
		within(t, longPatience, fmt.Sprintf("%s: %s gives values", e.at, e.text), func() bool {
			result := prometheus.query(t, e.text)
			return slices.ContainsFunc(result, func(s sample) bool { return s.value() != "NaN" })
		})
		for _, series := range prometheus.query(t, e.text) {
			for _, label := range e.labels {
				if series.Metric[label] == "" {
					t.Errorf("%s: the legend shows %s, which %s leaves out", e.at, label, e.text)
				}
			}
		}
	}

	alerts := prometheus.alerts(t)
	if len(alerts) < 9 {
		t.Errorf("there are only %d alerts", len(alerts))
	}
	for _, rule := range alerts {
		for _, of := range []string{rule.Labels["severity"], rule.Annotations["summary"], rule.Annotations["description"]} {
			if of == "" {
				t.Errorf("%s has no severity, summary or description", rule.Name)
			}
		}
		e := expression{at: rule.Name, text: rule.Query}
		for _, shown := range promShown.FindAllStringSubmatch(fmt.Sprint(rule.Annotations), -1) {
			e.labels = append(e.labels, shown[1])
		}
		prometheus.wantFit(t, e)
	}
	// the one that these backends cause without a delay
	within(t, longPatience, "the alert on dead letters fires", func() bool {
		return slices.ContainsFunc(prometheus.alerts(t), func(rule alertRule) bool {
			return rule.Name == "IntercomDeadLetters" && slices.ContainsFunc(rule.Alerts, func(a activeAlert) bool {
				return a.State == "firing" && strings.Contains(a.Annotations["summary"], "lane crm")
			})
		})
	})
	for _, rule := range prometheus.alerts(t) {
		if rule.Health != "ok" {
			t.Errorf("%s is %s: %s", rule.Name, rule.Health, rule.LastError)
		}
	}
}

// trafficOfAllKinds sends what makes each metric move.
func (p *process) trafficOfAllKinds() {
	delivered := signed(notification(topic, newID()))
	for _, m := range []message{
		delivered,
		delivered, // a duplicate
		signed(notification("contact.user.created", newID())), // its backend fails
		signed(notification("ticket.created", newID())),       // no route fits
		signed(ping),
		{body: body},
		{method: http.MethodGet},
	} {
		_, _ = p.try(m) // the metrics show what came of it
	}
}

// dashboardExpressions returns the expressions of all panels, with Grafana's variables
// replaced, and those of the variables themselves.
func dashboardExpressions(t *testing.T) []expression {
	t.Helper()
	content, err := os.ReadFile("../contrib/grafana/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Templating struct {
			List []struct {
				Name, Definition string
			}
		}
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(content, &dashboard); err != nil {
		t.Fatal(err)
	}
	var all []expression
	for _, variable := range dashboard.Templating.List {
		if options := promOptions.FindStringSubmatch(variable.Definition); options != nil {
			all = append(all, expression{"variable " + variable.Name, options[1], options[2:]})
		}
	}
	variables := strings.NewReplacer("$__rate_interval", "10s", "$job", ".*")
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			e := expression{at: panel.Title, text: variables.Replace(target.Expr)}
			for _, shown := range promLegend.FindAllStringSubmatch(target.LegendFormat, -1) {
				e.labels = append(e.labels, shown[1])
			}
			all = append(all, e)
		}
	}
	return all
}

// prometheus is a running Prometheus.
type prometheus struct{ url string }

// startPrometheus starts Debian's Prometheus, which scrapes a gateway and evaluates our
// alerts.
func startPrometheus(t *testing.T, target string) prometheus {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs("../contrib/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [%q],
		"scrape_configs": [{"job_name": "caddy", "metrics_path": "/", "static_configs": [{"targets": [%q]}]}]}`, rules, target)
	file := filepath.Join(dir, "prometheus.yml") // JSON is YAML
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + freePort(t)
	run := exec.Command("prometheus", "--config.file", file, "--storage.tsdb.path", dir, "--web.listen-address", address)
	var log lockedBuffer
	run.Stderr = &log
	if err := run.Start(); err != nil {
		t.Fatalf("starting Prometheus, which .ci/prometheus installs: %v", err)
	}
	t.Cleanup(func() {
		_ = run.Process.Kill()
		_ = run.Wait()
		if t.Failed() {
			t.Logf("Prometheus said: %s", log.String())
		}
	})
	p := prometheus{"http://" + address}
	within(t, longPatience, "Prometheus is ready", func() bool {
		response, err := http.Get(p.url + "/-/ready")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return p
}

// get asks Prometheus's API.
func (p prometheus) get(t *testing.T, path string, query url.Values, data any) {
	t.Helper()
	response, err := http.Get(p.url + path + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if answer.Error != "" {
		t.Fatalf("%s: %s", query, answer.Error)
	}
}

// sample is the value of a series.
type sample struct {
	Metric map[string]string
	Value  [2]any // the time and the value
}

func (s sample) value() string {
	text, _ := s.Value[1].(string)
	return text
}

func (p prometheus) query(t *testing.T, text string) []sample {
	t.Helper()
	var data struct{ Result []sample }
	p.get(t, "/api/v1/query", url.Values{"query": {text}}, &data)
	return data.Result
}

// alertRule is an alert as Prometheus has read it.
type alertRule struct {
	Name, Query         string
	Labels, Annotations map[string]string
	Health, LastError   string
	Alerts              []activeAlert
}

type activeAlert struct {
	State       string
	Annotations map[string]string
}

func (p prometheus) alerts(t *testing.T) []alertRule {
	t.Helper()
	var data struct {
		Groups []struct{ Rules []alertRule }
	}
	p.get(t, "/api/v1/rules", url.Values{"type": {"alert"}}, &data)
	var all []alertRule
	for _, group := range data.Groups {
		all = append(all, group.Rules...)
	}
	return all
}

// wantFit asserts that each selector of an expression selects something, and that each label
// that it groups by or shows is one of what is selected.
func (p prometheus) wantFit(t *testing.T, e expression) {
	t.Helper()
	selectors := promSelector.FindAllString(e.text, -1)
	if len(selectors) == 0 {
		t.Errorf("%s: %s selects nothing of this module", e.at, e.text)
	}
	labels := make(map[string]bool)
	for _, selector := range selectors {
		var selected []sample
		within(t, longPatience, e.at+": the gateway has "+selector, func() bool {
			selected = p.query(t, selector)
			return len(selected) > 0
		})
		for _, s := range selected {
			for label := range s.Metric {
				labels[label] = true
			}
		}
	}
	wanted := slices.Clone(e.labels)
	for _, grouping := range promGrouping.FindAllStringSubmatch(e.text, -1) {
		for label := range strings.SplitSeq(grouping[2], ", ") {
			switch {
			case grouping[1] != "without":
				wanted = append(wanted, label)
			case slices.Contains(e.labels, label):
				t.Errorf("%s shows the label %s, which %s leaves out", e.at, label, e.text)
			}
		}
	}
	for _, label := range wanted {
		if !labels[label] {
			t.Errorf("%s: none of %q has the label %s", e.at, selectors, label)
		}
	}
}
