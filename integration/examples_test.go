package integration

import (
	"cmp"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Addresses that a load balancer appends to X-Forwarded-For.
const (
	intercomsAddress = "34.231.68.152"
	strangersAddress = "192.0.2.66"
)

var (
	exampleSite     = regexp.MustCompile(`(?m)^(hooks\.example\.com|:\d+) \{$`)
	exampleUpstream = regexp.MustCompile(`\b([a-z0-9-]+):9000\b`)
	exampleFile     = regexp.MustCompile(`\{file\.([^}]+)\}`)
)

// byTopic is which backend gets a topic in most of the examples.
var byTopic = map[string]string{
	"conversation.user.replied": "support",
	"ticket.created":            "support",
	"contact.user.created":      "crm",
	"job.completed":             "archive",
}

// TestExamples checks the form of all examples; how each behaves is tested below, and in
// the other files of that name.
func TestExamples(t *testing.T) {
	readme := readFile(t, "../examples/README.md")
	files, err := filepath.Glob("../examples/*")
	if err != nil || len(files) < 2 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if name == "README.md" {
			continue
		}
		content := readFile(t, file)
		if string(caddyfile.Format([]byte(content))) != content {
			t.Errorf("%s is not formatted: caddy fmt --overwrite", name)
		}
		if _, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(content), nil); err != nil || len(warnings) > 0 {
			t.Errorf("%s: error %v, warnings %v", name, err, warnings)
		}
		for _, want := range []string{"# When: ", "# Change: ", "\n\trespond 404\n}\n"} {
			if !strings.Contains(content, want) {
				t.Errorf("%s does not have %q", name, want)
			}
		}
		if !strings.Contains(readme, "| ["+name+"]("+name+") |") {
			t.Errorf("the README of the examples has no line for %s", name)
		}
	}
}

func TestExampleWithoutQueue(t *testing.T) {
	e := startExample(t, "without-queue", nil)
	e.wantRouted(byTopic)
	if got := e.received("support-1") + e.received("support-2"); got != 2 {
		t.Errorf("the upstreams of support got %d notifications, want 2", got)
	}
}

func TestExampleBehindALoadBalancer(t *testing.T) {
	e := startExample(t, "load-balancer", nil)
	e.wantRouted(byTopic)
	e.wantOnlyIntercomBehindTheProxy()
	e.wantStatus("/ready", http.StatusOK)
}

func TestExampleWithTheWebUI(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("of-the-tests"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	e := startExample(t, "web-ui", map[string]string{"OPS_PASSWORD_HASH": string(hash)})
	e.wantRouted(byTopic)
	e.wantStatus("/queue", http.StatusUnauthorized)
	ask := func(password string) int {
		answer, err := e.do(func() (*http.Request, error) {
			r, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+e.port+"/queue/", nil)
			if err == nil {
				r.Host = e.host()
				r.SetBasicAuth("ops", password)
			}
			return r, err
		})
		if err != nil {
			t.Fatal(err)
		}
		return answer.status
	}
	for password, want := range map[string]int{"of-the-tests": 200, "another": 401} {
		if got := ask(password); got != want {
			t.Errorf("the web UI answers %d to the password %q, want %d", got, password, want)
		}
	}
}

// example is a gateway that runs one of the examples, with a backend for each upstream.
type example struct {
	*gateway
	backends map[string]*backend // by the host of the upstream
	others   map[string]string   // ports of the further sites, by those in the file
	proxied  bool                // behind a proxy, which is this test
}

// startExample runs an example. Only what must be here is changed: ports, hosts of upstreams,
// the addresses of proxies, paths of files, the delay of a stop; and where no proxy is in front,
// this machine is allowed. A file has what variables have of its name, or else the secret.
func startExample(t *testing.T, name string, variables map[string]string) *example {
	t.Helper()
	config := readFile(t, "../examples/"+name+".Caddyfile")
	e := &example{gateway: newGateway(t), backends: make(map[string]*backend), others: make(map[string]string)}
	t.Setenv("XDG_DATA_HOME", e.dir)
	t.Setenv("INTERCOM_CLIENT_SECRET", secret)
	for variable, value := range variables {
		t.Setenv(variable, value)
	}
	config = exampleFile.ReplaceAllStringFunc(config, func(placeholder string) string {
		path := exampleFile.FindStringSubmatch(placeholder)[1]
		text := cmp.Or(variables[filepath.Base(path)], secret)
		file := filepath.Join(e.dir, strings.ReplaceAll(path, "/", "-"))
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return "{file." + file + "}"
	})
	config = exampleUpstream.ReplaceAllStringFunc(config, func(upstream string) string {
		host := exampleUpstream.FindStringSubmatch(upstream)[1]
		if e.backends[host] == nil {
			e.backends[host] = newBackend(t, nil)
		}
		return e.backends[host].address
	})
	config = regexp.MustCompile(`(?m)^\tshutdown_delay .*$`).ReplaceAllString(config, "")
	sites := 0
	config = exampleSite.ReplaceAllStringFunc(config, func(line string) string {
		address, port := exampleSite.FindStringSubmatch(line)[1], e.port
		if sites++; sites > 1 {
			port = freePort(t)
			e.others[address] = port
		}
		host := ""
		if !strings.HasPrefix(address, ":") {
			host = address
		}
		return "http://" + host + ":" + port + " {\n\tbind 127.0.0.1"
	})
	if e.proxied = strings.Contains(config, "trusted_proxies"); e.proxied {
		config = strings.ReplaceAll(config, "10.0.0.0/8", "127.0.0.1/32")
	} else {
		config = regexp.MustCompile(`(?m)^\t\tclient_secret .*$`).ReplaceAllString(config, "$0\n\t\tallow static 127.0.0.1")
	}
	options := "{\n\tadmin off\n\tpersist_config off\n\tstorage file_system " + e.dir + "\n"
	if before, after, ok := strings.Cut(config, "\n{\n"); ok {
		config = before + "\n" + options + after
	} else {
		config = options + "}\n" + config
	}
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, config)
	}
	if err := e.run(adapted); err != nil {
		t.Fatalf("%v\n%s", err, config)
	}
	return e
}

func (e *example) host() string { return "hooks.example.com:" + e.port }

// from is a message as it arrives from an address, with what the sender itself has put in
// front of it.
func (e *example) from(m message, forwardedFor string) message {
	if e.proxied {
		m = m.with("X-Forwarded-For", forwardedFor)
	}
	return m.to("/intercom").at(e.host())
}

// wantRouted sends a notification of each topic, and asserts that the backend gets it, and
// no other does.
func (e *example) wantRouted(hosts map[string]string) {
	e.t.Helper()
	before := make(map[string]int)
	for host := range e.backends {
		before[host] = e.received(host)
	}
	e.expect(http.StatusOK, e.from(message{method: http.MethodHead}, intercomsAddress))
	e.expect(http.StatusUnauthorized, e.from(message{body: body}, intercomsAddress))
	for _, topic := range slices.Sorted(maps.Keys(hosts)) {
		id := newID()
		e.expect(http.StatusOK, e.from(signed(notification(topic, id)), intercomsAddress))
		within(e.t, longPatience, topic+" reaches "+hosts[topic], func() bool {
			for host, b := range e.backends {
				if strings.HasPrefix(host, hosts[topic]) && slices.ContainsFunc(b.all(), func(r received) bool {
					return r.header.Get("X-Intercom-Notification-Id") == id
				}) {
					return true
				}
			}
			return false
		})
	}
	total := 0
	for host := range e.backends {
		total += e.received(host) - before[host]
	}
	if total != len(hosts) {
		e.t.Errorf("the backends got %d notifications, want %d", total, len(hosts))
	}
	e.expect(http.StatusNotFound, e.from(good, intercomsAddress).to("/intercom/"))
}

// wantOnlyIntercomBehindTheProxy sends what comes from others, or pretends to come from
// Intercom.
func (e *example) wantOnlyIntercomBehindTheProxy() {
	e.t.Helper()
	for forwardedFor, want := range map[string]int{
		strangersAddress + ", " + intercomsAddress: http.StatusOK,
		strangersAddress: http.StatusForbidden,
		intercomsAddress + ", " + strangersAddress: http.StatusForbidden,
	} {
		if got := e.send(e.from(signed(ping), forwardedFor)).status; got != want {
			e.t.Errorf("X-Forwarded-For: %s: answer %d, want %d", forwardedFor, got, want)
		}
	}
}

func (e *example) wantStatus(path string, want int) {
	e.t.Helper()
	if got := e.send(message{method: http.MethodGet, path: path, host: e.host()}).status; got != want {
		e.t.Errorf("%s: answer %d, want %d", path, got, want)
	}
}

// received returns how many requests the backend in the place of an upstream got.
func (e *example) received(host string) int { return len(e.backends[host].all()) }
