package integration

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// production is examples/production.Caddyfile while it runs, and what containers of it need.
type production struct {
	*example
	files     []string // that it reads
	variables []string
	stops     time.Duration // how long it may take to stop
}

// startProduction runs the example with a database that is away, so that nothing is ready.
func startProduction(t *testing.T) production {
	t.Helper()
	content := readFile(t, "../examples/production.Caddyfile")
	duration := func(option string) time.Duration {
		found := regexp.MustCompile(`(?m)^\s*` + option + ` (\S+)$`).FindStringSubmatch(content)
		if found == nil {
			t.Fatalf("the example has no %s", option)
		}
		d, err := time.ParseDuration(found[1])
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	grace := duration("grace_period")
	if grace <= duration("delivery_timeout") {
		t.Error("grace_period is not longer than delivery_timeout")
	}
	p := production{
		example: startExample(t, "production", map[string]string{
			"database-url": "postgres://caddy@" + nobody + "/caddy?sslmode=verify-full", "ops-password-hash": passwordHash,
		}),
		stops: duration("shutdown_delay") + 2*grace + 10*time.Second,
	}
	for _, file := range exampleFile.FindAllStringSubmatch(content, -1) {
		p.files = append(p.files, file[1])
	}
	for _, variable := range docsVariable.FindAllStringSubmatch(content, -1) {
		p.variables = append(p.variables, variable[1])
	}
	p.others[":8080"] = p.port
	return p
}

// ask asks what listens on a port of the example.
func (p production) ask(method, port, path string) int {
	p.t.Helper()
	if p.others[":"+port] == "" {
		p.t.Errorf("%s %s: the example does not listen on port %s", method, path, port)
		return 0
	}
	r, err := http.NewRequest(method, "http://127.0.0.1:"+p.others[":"+port]+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	response, err := p.client.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// container is what Compose or Kubernetes makes of the image.
type container struct {
	ports     []string
	command   []string
	variables []string
	mounts    []string          // paths in it
	probes    map[string]string // what listens on which port and path, by "ready", "live" and "metrics"
	kill      time.Duration     // after a stop
}

// wantFit asserts that a container has what the example needs, and asks where it listens.
func (p production) wantFit(c container) {
	p.t.Helper()
	slices.Sort(c.ports)
	if !slices.Equal(c.ports, []string{"8080", "9090"}) || len(p.others) != 2 {
		p.t.Errorf("the container has the ports %v, and the example %v", c.ports, p.others)
	}
	mounted := func(file string) bool {
		return slices.ContainsFunc(c.mounts, func(mount string) bool { return file == mount || strings.HasPrefix(file, mount+"/") })
	}
	config := c.command[slices.Index(c.command, "--config")+1]
	for _, file := range append([]string{config}, p.files...) {
		if !mounted(file) {
			p.t.Errorf("%s is not mounted: there is %v", file, c.mounts)
		}
	}
	for _, variable := range p.variables {
		if !slices.Contains(c.variables, variable) {
			p.t.Errorf("the variable %s is not set", variable)
		}
	}
	if !mounted("/data") {
		p.t.Error("/data is lost with the container")
	}
	if c.kill < p.stops {
		p.t.Errorf("it is killed after %s, and may need %s to stop", c.kill, p.stops)
	}
	// the database is away
	for probe, want := range map[string]int{"ready": 503, "live": 200, "metrics": 200} {
		at, ok := c.probes[probe]
		if !ok {
			continue
		}
		port, path, _ := strings.Cut(at, "/")
		if got := p.ask(http.MethodGet, port, "/"+path); got != want {
			p.t.Errorf("%s asks %s and gets %d, want %d", probe, at, got, want)
		}
	}
	if got := p.ask(http.MethodGet, "9090", "/readyz"); got != 404 {
		p.t.Errorf("a probe with a wrong path gets %d, want 404", got)
	}
}

func TestComposeFitsTheExample(t *testing.T) {
	p := startProduction(t)
	var file struct {
		Services struct {
			Caddy struct {
				Build           string
				Command         []string
				Ports, Volumes  []string
				Environment     map[string]string
				StopGracePeriod string `yaml:"stop_grace_period"`
				Healthcheck     struct{ Test []string }
				CapAdd          []string `yaml:"cap_add"`
			}
		}
	}
	readYAML(t, "../contrib/compose/compose.yaml", &file)
	caddy := file.Services.Caddy
	if _, err := os.Stat(filepath.Join("../contrib/compose", caddy.Build, "Dockerfile")); err != nil {
		t.Error(err)
	}
	kill, err := time.ParseDuration(caddy.StopGracePeriod)
	if err != nil {
		t.Error(err)
	}
	c := container{command: caddy.Command, kill: kill}
	for _, port := range caddy.Ports {
		c.ports = append(c.ports, port[strings.LastIndex(port, ":")+1:])
	}
	for variable := range caddy.Environment {
		c.variables = append(c.variables, variable)
	}
	for _, volume := range caddy.Volumes {
		c.mounts = append(c.mounts, strings.Split(volume, ":")[1])
	}
	health, err := url.Parse(caddy.Healthcheck.Test[len(caddy.Healthcheck.Test)-1])
	if err != nil {
		t.Fatal(err)
	}
	c.probes = map[string]string{"ready": health.Port() + health.Path}
	p.wantFit(c)
}

// manifest is what the tests want to know of those for Kubernetes.
type manifest struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Selector map[string]any // of the Deployment and the PodDisruptionBudget: matchLabels
		Ports    []struct {
			TargetPort string `yaml:"targetPort"`
		}
		Template struct {
			Metadata struct{ Labels, Annotations map[string]string }
			Spec     struct {
				Containers []struct {
					Args           []string
					Env            []struct{ Name string }
					Ports          []namedPort
					ReadinessProbe probe `yaml:"readinessProbe"`
					LivenessProbe  probe `yaml:"livenessProbe"`
					VolumeMounts   []struct {
						Name      string
						MountPath string `yaml:"mountPath"`
					} `yaml:"volumeMounts"`
				}
				Volumes []struct {
					Name      string
					ConfigMap struct{ Name string } `yaml:"configMap"`
					Secret    struct {
						SecretName string `yaml:"secretName"`
					}
				}
				TerminationGracePeriodSeconds int `yaml:"terminationGracePeriodSeconds"`
			}
		}
	}
	StringData map[string]string `yaml:"stringData"`
}

type namedPort struct {
	Name          string
	ContainerPort string `yaml:"containerPort"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

func TestKubernetesFitsTheExample(t *testing.T) {
	p := startProduction(t)
	manifests := make(map[string]manifest)
	files, err := filepath.Glob("../contrib/kubernetes/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		var m manifest
		readYAML(t, file, &m)
		manifests[m.Kind] = m
	}
	deployment, service, secret, budget := manifests["Deployment"], manifests["Service"], manifests["Secret"], manifests["PodDisruptionBudget"]
	pod := deployment.Spec.Template
	caddy := pod.Spec.Containers[0]
	port := func(of string) string { // by its name or its number
		for _, p := range caddy.Ports {
			if of == p.Name || of == p.ContainerPort {
				return p.ContainerPort
			}
		}
		t.Errorf("the pod has no port %s", of)
		return ""
	}
	c := container{command: caddy.Args, kill: time.Duration(pod.Spec.TerminationGracePeriodSeconds) * time.Second, probes: map[string]string{
		"ready":   port(caddy.ReadinessProbe.HTTPGet.Port) + caddy.ReadinessProbe.HTTPGet.Path,
		"live":    port(caddy.LivenessProbe.HTTPGet.Port) + caddy.LivenessProbe.HTTPGet.Path,
		"metrics": port(pod.Metadata.Annotations["prometheus.io/port"]) + pod.Metadata.Annotations["prometheus.io/path"],
	}}
	for _, port := range caddy.Ports {
		c.ports = append(c.ports, port.ContainerPort)
	}
	for _, variable := range caddy.Env {
		c.variables = append(c.variables, variable.Name)
	}
	for _, mount := range caddy.VolumeMounts {
		c.mounts = append(c.mounts, mount.MountPath)
		for _, volume := range pod.Spec.Volumes {
			if volume.Name != mount.Name || volume.Secret.SecretName == "" {
				continue
			}
			if volume.Secret.SecretName != secret.Metadata.Name {
				t.Errorf("the pod has the Secret %s, and there is %s", volume.Secret.SecretName, secret.Metadata.Name)
			}
			for _, file := range p.files {
				if dir, key := path.Split(file); path.Clean(dir) == mount.MountPath && secret.StringData[key] == "" {
					t.Errorf("the Secret has no %s", key)
				}
			}
		}
	}
	p.wantFit(c)

	if len(service.Spec.Ports) != 1 {
		t.Errorf("the Service has %d ports, want that of the site alone", len(service.Spec.Ports))
	}
	if got := p.ask(http.MethodHead, port(service.Spec.Ports[0].TargetPort), "/intercom"); got != http.StatusOK {
		t.Errorf("behind the Service, the URL is validated with %d", got)
	}
	if readme := readPage(t, "../contrib/README.md"); !slices.ContainsFunc(readme.blocks, func(b block) bool {
		return strings.Contains(b.text, "kubectl exec deploy/"+deployment.Metadata.Name+" -- caddy ")
	}) {
		t.Errorf("contrib/README.md does not say how to run the commands in %s", deployment.Metadata.Name)
	}
	label := pod.Metadata.Labels["app"]
	for kind, selector := range map[string]map[string]any{
		"Service":             service.Spec.Selector,
		"Deployment":          deployment.Spec.Selector["matchLabels"].(map[string]any),
		"PodDisruptionBudget": budget.Spec.Selector["matchLabels"].(map[string]any),
	} {
		if label == "" || len(selector) != 1 || selector["app"] != label {
			t.Errorf("the %s selects %v, and the pods have %s", kind, selector, label)
		}
	}
}

// Each alert says what to do, and leads to a page of the docs that names it.
func TestAlertsSayWhatToDo(t *testing.T) {
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert               string
				Labels, Annotations map[string]string
			}
		}
	}
	readYAML(t, "../contrib/prometheus/alerts.yml", &file)
	pages := readPage(t, "../docs/incident.md").prose + readPage(t, "../contrib/README.md").prose
	if len(file.Groups) != 1 || len(file.Groups[0].Rules) < 13 {
		t.Fatalf("the alerts are %v", file)
	}
	for _, rule := range file.Groups[0].Rules {
		runbook := rule.Annotations["runbook_url"]
		if !strings.HasPrefix(runbook, "https://github.com/caddy-intercom/caddy-intercom-webhook/blob/main/docs/incident.md#") { // TestMentionsOfTheDocs follows it
			t.Errorf("%s: the runbook is %q", rule.Alert, runbook)
		}
		if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
			t.Errorf("%s has no severity, summary or description", rule.Alert)
		}
		if strings.Count(pages, "`"+rule.Alert+"`") != 2 {
			t.Errorf("%s is not named once in docs/incident.md and once in contrib/README.md", rule.Alert)
		}
	}
}

// readYAML reads a file that has one document.
func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(readFile(t, file)))
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		t.Errorf("%s has more than one document: %v", file, cmp.Or(err, errors.New("no error")))
	}
}
