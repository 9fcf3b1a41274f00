package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// finding is a line of doctor.
type finding struct{ Level, Check, What, Why, Do string }

// doctor runs `caddy intercom-webhook doctor` in this process. It returns what it found,
// and whether it ended without an error.
func doctor(t *testing.T, args ...string) (found []finding, fine bool) {
	t.Helper()
	var out bytes.Buffer
	cmd := &cobra.Command{Use: "intercom-webhook", SilenceErrors: true, SilenceUsage: true}
	caddycmd.Commands()["intercom-webhook"].CobraFunc(cmd)
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetArgs(append([]string{"doctor", "--json"}, args...))
	err := cmd.ExecuteContext(t.Context())
	if strings.Contains(out.String()+fmt.Sprint(err), secret) {
		t.Errorf("the secret is printed: %s %v", out.String(), err)
	}
	for line := range strings.Lines(out.String()) {
		var f finding
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		found = append(found, f)
	}
	return found, err == nil
}

// wantFinding asserts that there is a finding of a level with some text.
func wantFinding(t *testing.T, found []finding, level, text string) {
	t.Helper()
	for _, f := range found {
		if f.Level == level && strings.Contains(strings.Join([]string{f.Check, f.What, f.Why, f.Do}, "; "), text) {
			return
		}
	}
	t.Errorf("no %s says %q: %+v", level, text, found)
}

// soundCaddyfile returns a Caddyfile in which doctor finds nothing, with fresh lists of
// addresses in its storage, and old ones in the folder old of it.
func soundCaddyfile(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for storage, age := range map[string]time.Duration{dir: 0, filepath.Join(dir, "old"): 72 * time.Hour} {
		lists := filepath.Join(storage, "intercom_webhook", "ip_ranges")
		if err := os.MkdirAll(lists, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, region := range []string{"us", "eu", "au"} {
			list := fmt.Sprintf(`{"ranges":["192.0.2.7/32"],"checked":%q}`, time.Now().Add(-age).UTC().Format(time.RFC3339))
			if err := os.WriteFile(filepath.Join(lists, region+".json"), []byte(list), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	secrets := filepath.Join(dir, "secrets")
	if err := os.WriteFile(secrets, []byte(secret+"\nanother\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("DIR", dir, "SECRETS", secrets).Replace(`{
	storage file_system DIR
	servers {
		trusted_proxies static private_ranges
		trusted_proxies_strict
	}
}
http://hooks.example.com {
	log {
		format filter {
			request>headers>X-Hub-Signature delete
		}
	}
	intercom_webhook /intercom {
		client_secret {file.SECRETS}
		route conversation.* as support to 127.0.0.1:9001
		route * to 127.0.0.1:9002
		queue sqlite {
			path DIR/queue.db
		}
	}
	intercom_queue_ui /queue
	respond 404
}
`)
}

func TestDoctorOfAConfig(t *testing.T) {
	for _, tt := range []struct {
		name          string
		replace, with string
		level, want   string
	}{
		{"sound", "", "", "ok", "modules; all of them load"},
		{"the admin endpoint", "", "", "ok", "only this machine reaches it"},
		{"other workspaces, which nobody takes", "route * to", "route * for tulip4 as tulip to", "warning", "those of other workspaces"},
		{"a variable that is not set", "{file.", "{env.NOT_SET_ANYWHERE} {file.", "broken", "client_secret 1: no value for {env.NOT_SET_ANYWHERE}"},
		{"a file that is not there", "secrets}", "nowhere}", "broken", "no such file"},
		{"a secret in the config", "client_secret ", "client_secret abc ", "warning", "client_secret is in the config itself"},
		{"topics that nobody takes", "route * to", "route contact.* to", "warning", "they become dead letters"},
		{"a pattern without a topic", "conversation.*", "conversations.*", "warning", "conversation.*"},
		{"forgeable addresses", "trusted_proxies_strict", "", "warning", "trusted_proxies_strict"},
		{"no queue", "queue sqlite {\n\t\t\tpath DIR/queue.db\n\t\t}", "", "warning", "add `queue`"},
		{"a long timeout", "route * to", "timeout 6s\nroute * to", "warning", "timeout is not below the time that Intercom waits"},
		{"an open web UI", "intercom_queue_ui /queue", "intercom_queue_ui /queue {\nunauthenticated\n}", "warning", "is unauthenticated"},
		{"an open admin endpoint", "servers {", "admin :2019\nservers {", "warning", "not only on this machine"},
		{"old lists of addresses", "storage file_system DIR", "storage file_system DIR/old", "warning", "stored list of Intercom's addresses is old"},
		{"only other addresses", "route * to", "allow static 192.0.2.0/24\nroute * to", "warning", "add `allow intercom`"},
		{"a route that is never reached", "route conversation.* as", "route * as", "broken", "Caddyfile:17; Caddy does not start with it; correct it"},
		{"no answer for other paths", "respond 404", "", "warning", "no directive of the site hooks.example.com refuses other paths: Caddy answers them 200"},
		{"an answer of 200 for other paths", "respond 404", "respond ok", "warning", "end the site with `respond 404`"},
		{"a module that does not load", "respond 404", "reverse_proxy 127.0.0.1:9003 {\ntransport http {\ntls_trust_pool file /nowhere/ca.pem\n}\n}", "broken", "it does not load: loading http app module"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sound := soundCaddyfile(t)
			dir := strings.Fields(sound)[3]
			replace, with := strings.ReplaceAll(tt.replace, "DIR", dir), strings.ReplaceAll(tt.with, "DIR", dir)
			if !strings.Contains(sound, replace) {
				t.Fatalf("%q is not in the Caddyfile", replace)
			}
			file := filepath.Join(t.TempDir(), "Caddyfile")
			if err := os.WriteFile(file, []byte(strings.Replace(sound, replace, with, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			found, fine := doctor(t, "--config", file)
			if fine != (tt.level != "broken") {
				t.Errorf("ended without an error: %t; found %+v", fine, found)
			}
			wantFinding(t, found, tt.level, tt.want)
			for _, f := range found {
				if tt.level == "ok" && f.Level != "ok" {
					t.Errorf("found %+v", f)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "queue.db")); err == nil {
				t.Error("the queue was opened")
			}
		})
	}
}

// A Caddyfile with a route that is never reached does not adapt. JSON is refused when it is loaded.
func TestDoctorOfAConfigWithARouteInVain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "caddy.json")
	for routes, want := range map[string]string{
		`{"match":[{"intercom_topic":["*"]}]},{"match":[{"intercom_topic":["user.*"]}]}`:                                                            "route 1 can never be reached: earlier routes take all its topics (* covers user.*)",
		`{"match":[{"intercom_topic":["*"],"intercom_workspace":["tulip4"]}]},{"match":[{"intercom_topic":["*"],"intercom_workspace":["tulip4"]}]}`: "(* for tulip4 covers * for tulip4)",
	} {
		config := `{"apps":{"http":{"servers":{"a":{"routes":[{"handle":[{"handler":"intercom_webhook","client_secrets":["abc"],"routes":[` + routes + `]}]}]}}}}}`
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		found, fine := doctor(t, "--config", file)
		wantFinding(t, found, "broken", want)
		if fine {
			t.Errorf("found %+v", found)
		}
	}

	if err := os.WriteFile(file, []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	found, _ := doctor(t, "--config", file)
	wantFinding(t, found, "broken", "there is no intercom_webhook")
}

func TestDoctorOfAGateway(t *testing.T) {
	t.Setenv("INTERCOM_CLIENT_SECRET", secret)
	backend := newBackend(t, nil)
	g := newGateway(t)
	s := setup{admin: true, webhook: "route * to " + backend.address, behind: "respond 404"}
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	url := "http://127.0.0.1:" + g.port + "/hook"

	found, fine := doctor(t, url, "--address", g.admin)
	if !fine {
		t.Errorf("found %+v", found)
	}
	for _, want := range []string{"HEAD is answered 200", "a signed ping is answered 200 OK", "without a signature is answered 401", "with a wrong signature is answered 401", "judged by the address 127.0.0.1"} {
		wantFinding(t, found, "ok", want)
	}
	backend.wantCount(t, 0)

	found, _ = doctor(t, url, "--address", g.admin, "--topic", "ticket.created")
	wantFinding(t, found, "ok", "a notification of ticket.created is answered 200 OK")
	backend.wantCount(t, 1)

	t.Setenv("INTERCOM_CLIENT_SECRET", "another")
	found, fine = doctor(t, url, "--address", g.admin)
	if fine {
		t.Errorf("another secret is fine: %+v", found)
	}
	wantFinding(t, found, "broken", "the endpoint has another secret")

	t.Setenv("INTERCOM_CLIENT_SECRET", secret)
	s.allow = "static 192.0.2.0/24"
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	found, _ = doctor(t, url, "--address", g.admin)
	wantFinding(t, found, "not checked", "this machine's address is not in allow")
}

// An intercom_webhook in a named route is one like any other: for doctor, and for what asks a running Caddy.
func TestCommandsSeeANamedRoute(t *testing.T) {
	backend := newTally(t, 0)
	g := newGateway(t)
	config := fmt.Sprintf("{\nadmin %s\npersist_config off\nstorage file_system %s\n}\n"+
		"&(hook) {\nintercom_webhook /intercom {\nclient_secret %s\nallow static 127.0.0.1\nroute contact.* as crm to %s\n%s\n}\n}\n"+
		"http://:%s {\nbind 127.0.0.1\ninvoke hook\nrespond 404\n}\nhttp://%s {\nbind 127.0.0.1\nmetrics /\n}\n",
		g.admin, g.dir, secret, backend.address, splitBlocks(queueIn(t.TempDir())), g.port, g.metrics)
	write := func(config string) (file string) {
		file = filepath.Join(t.TempDir(), "Caddyfile")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	file := write(config)
	found, _ := doctor(t, "--config", file)
	wantFinding(t, found, "warning", file+":7: client_secret is in the config itself")
	for _, f := range found {
		if f.Check == "fallback" || f.Level == "broken" {
			t.Errorf("found %+v", f)
		}
	}
	several, _ := doctor(t, "--config", write(strings.Replace(config, "http://:"+g.port, "http://:"+g.port+", http://localhost:7", 1)))
	if len(several) != len(found) {
		t.Errorf("on two ports, it found %+v instead of %+v", several, found)
	}
	found, _ = doctor(t, "--config", write(strings.Replace(config, "respond 404", "", 1)))
	wantFinding(t, found, "warning", "end the site with `respond 404`")

	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err == nil {
		err = g.run(adapted)
	}
	if err != nil {
		t.Fatal(err)
	}
	if lanes := g.queueLines("status"); len(lanes) == 0 || lanes[0]["lane"] != "crm" {
		t.Errorf("the lanes are %v", lanes)
	}
	t.Setenv("INTERCOM_CLIENT_SECRET", secret)
	found, _ = doctor(t, "http://127.0.0.1:"+g.port+"/intercom", "--address", g.admin)
	wantFinding(t, found, "ok", "the ping was judged by the address 127.0.0.1")
	if routes := g.adminLines(http.MethodGet, "/route?topic=contact.created"); len(routes) != 1 || routes[0]["lane"] != "crm" {
		t.Errorf("the routes are %v", routes)
	}
}
