package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// What is to be said of a config that does not load.
const (
	doesNotLoad = "Caddy does not start with it"
	correctIt   = "correct it; `caddy validate` says the same"
)

// checkConfig adds what is to be said about a config. It reports whether the config can be
// adapted.
func checkConfig(ctx context.Context, f *findings, file, adapter string) (adapts bool, err error) {
	c, err := readConfig(file, adapter)
	if err != nil && !isConfig(file, adapter) {
		return false, usageError{err}
	}
	if err != nil {
		f.broken("config", "it does not load: "+err.Error(), doesNotLoad, correctIt)
		return false, nil //nolint:nilerr // the finding tells of it
	}
	if len(c.endpoints) == 0 {
		f.broken("config", "there is no intercom_webhook in it", "nothing takes Intercom's notifications", "add it, or name the config that Caddy runs with")
	}
	for _, e := range c.endpoints {
		e.checkSecrets(f)
		e.checkRoutes(f)
		e.checkDelivery(f)
		c.checkSources(ctx, f, e)
		c.checkAccessLog(f, e)
	}
	for _, ui := range c.uis {
		if ui.Unauthenticated {
			f.warn("web UI", "intercom_queue_ui at "+ui.place+" is unauthenticated", "whoever reaches it can read and delete what is in the queue",
				"make sure that something else guards it, such as forward_auth before it, or remove `unauthenticated`")
		}
	}
	c.checkAdmin(f)
	c.checkLoads(f)
	return true, nil
}

// isConfig reports whether a file can be read, and the adapter for it is known.
func isConfig(file, adapter string) bool {
	_, err := os.ReadFile(file) //nolint:gosec // named by the user
	return (err == nil || file == "-") && (adapter == "" || caddyconfig.GetAdapter(adapter) != nil)
}

// checkSecrets resolves the secrets. It never shows one.
func (e endpointConfig) checkSecrets(f *findings) {
	check := "secrets of " + e.place
	if len(e.Secrets) == 0 {
		f.broken(check, "client_secret is missing", "the config does not load", "add client_secret with the secret of Basic information in the Developer Hub")
		return
	}
	n := 0
	for i, text := range e.Secrets {
		secrets, err := resolveSecret(text)
		switch {
		case err != nil:
			f.broken(check, fmt.Sprintf("client_secret %d has no value: %s", i+1, err), "the config does not load",
				"set the variable or create the file; run doctor with the environment and as the user of Caddy")
			return
		case !strings.Contains(text, "{"):
			f.warn(check, fmt.Sprintf("client_secret %d is in the config itself", i+1), "/config/ and the autosave show it", "use {env.NAME} or {file./path}")
		}
		n += secrets
	}
	f.ok(check, "%d found", n)
}

// resolveSecret returns how many secrets a value of client_secret means. The error shows
// nothing of the value but the names of placeholders.
func resolveSecret(text string) (int, error) {
	if path, isFile := strings.CutPrefix(text, "{file."); isFile && strings.Count(path, "}") == 1 && strings.HasSuffix(path, "}") {
		content, err := os.ReadFile(strings.TrimSuffix(path, "}"))
		if err != nil {
			return 0, err
		}
		if secrets := secretLines(content); len(secrets) > 0 {
			return len(secrets), nil
		}
		return 0, fmt.Errorf("file %s has no secret", strings.TrimSuffix(path, "}"))
	}
	secret, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil || strings.TrimSpace(secret) == "" {
		return 0, fmt.Errorf("a placeholder of it, such as {env.NAME}, is not set")
	}
	return 1, nil
}

// checkRoutes looks where the known topics go.
func (e endpointConfig) checkRoutes(f *findings) {
	check := "routes of " + e.place
	if len(e.Routes) == 0 {
		f.ok(check, "there are none, so all verified notifications go to the next handler")
		return
	}
	for _, r := range e.Routes {
		for _, pattern := range r.patterns() {
			if topicpattern.Check(pattern) == nil && !topicpattern.FitsKnownTopic(pattern) {
				f.warn(check, fmt.Sprintf("pattern %q of lane %s fits no known topic", pattern, r.Lane), "it may be misspelled", "the nearest is "+topicpattern.Nearest(pattern))
			}
		}
	}

	counts := make(map[string]int)
	var nobody, some []string // topics that no route takes, and those of which the routes leave some
	for _, topic := range intercom.Topics() {
		d := e.destinationOf(topic)
		for _, t := range d.Routes {
			counts[t.String()]++
		}
		switch {
		case d.Certain, topic == intercom.TopicPing:
		case len(d.Routes) == 0:
			nobody = append(nobody, topic)
		default:
			some = append(some, topic)
		}
	}
	var lanes []string
	for _, lane := range slices.Sorted(maps.Keys(counts)) {
		lanes = append(lanes, fmt.Sprintf("%s %d", lane, counts[lane]))
	}
	f.ok(check, "known topics by lane: %s", cmp.Or(strings.Join(lanes, ", "), "none"))
	fate := "are answered with 200 and lost"
	if e.Queue != nil {
		fate = "become dead letters"
	}
	if len(nobody) > 0 {
		f.warn(check, fmt.Sprintf("nobody takes %d known topics: %s", len(nobody), shortList(nobody)), "they "+fate,
			"do not subscribe to them, or add `route *` at the end; `topics --config` prints them all")
	}
	if len(some) > 0 {
		f.warn(check, fmt.Sprintf("the routes take only some notifications of %d known topics: %s", len(some), shortList(some)),
			"those of other workspaces, or that other matchers leave out, "+fate, "add `route *` at the end; `topics --config` prints the routes of each")
	}
}

// shortList joins the first of some names.
func shortList(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:most], ", ") + ", …"
}

// checkDelivery looks at queue and timeout.
func (e endpointConfig) checkDelivery(f *findings) {
	if e.Queue == nil && len(e.Routes) > 0 {
		f.warn("queue of "+e.place, "there is none", "what a backend does not take at once, Intercom sends once more after a minute, and then it is lost", "add `queue`")
	}
	if timeout := time.Duration(e.Timeout); timeout >= intercom.AnswerTimeout {
		f.warn("timeout of "+e.place, fmt.Sprintf("it is %s", timeout), "Intercom waits for 5s, so it gets no answer of a slow backend, and sends again", "leave it out: the default is 4.5s")
	}
}

// checkAdmin looks who can reach the admin endpoint.
func (c *config) checkAdmin(f *findings) {
	const check = "admin endpoint"
	listen := cmp.Or(c.Admin.Listen, caddy.DefaultAdminListen)
	address, err := caddy.ParseNetworkAddress(listen)
	switch {
	case c.Admin.Disabled:
		f.ok(check, "it is off; `queue` and `listen` need it")
	case err != nil:
		f.broken(check, "its address is not valid", "the config does not load", "correct the global option admin")
	case !address.IsUnixNetwork() && !address.IsFdNetwork() && !isLoopback(address.Host):
		f.warn(check, "it listens on "+listen+", not only on this machine", "whoever reaches it can change the config, and read and erase notifications", "use `admin localhost:2019`, or a firewall")
	default:
		f.ok(check, "only this machine reaches it (%s)", listen)
	}
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && address.IsLoopback()
}

// checkLoads loads the modules of the config, as caddy validate does. Logs are not opened, and
// a temporary folder is the storage, so that nothing of the running Caddy is touched.
func (c *config) checkLoads(f *findings) {
	const check = "modules"
	if f.count(levelBroken) > 0 {
		f.notChecked(check, "they were not loaded, because of what is broken", "")
		return
	}
	dir, err := os.MkdirTemp("", "doctor-")
	if err != nil {
		f.notChecked(check, "they were not loaded: "+err.Error(), "")
		return
	}
	defer os.RemoveAll(dir)
	var whole map[string]json.RawMessage
	var loaded *caddy.Config
	err = json.Unmarshal(caddy.RemoveMetaFields(c.raw), &whole)
	if err == nil {
		whole["logging"] = json.RawMessage(`{"logs":{"default":{"level":"ERROR"}}}`)
		whole["storage"], err = json.Marshal(map[string]string{"module": "file_system", "root": dir})
	}
	var encoded []byte
	if err == nil {
		encoded, err = json.Marshal(whole)
	}
	if err == nil {
		err = caddy.StrictUnmarshalJSON(encoded, &loaded)
	}
	if err == nil {
		err = caddy.Validate(loaded)
	}
	if err != nil {
		f.broken(check, "the config does not load: "+err.Error(), doesNotLoad, correctIt)
		return
	}
	f.ok(check, "all of them load")
}
