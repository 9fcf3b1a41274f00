package intercomwebhook

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-intercom/caddy-intercom-webhook/ipranges"
)

// FuzzCaddyfile adapts any text as the block of the directive. What is accepted
// must come out as a handler that keeps its promises. What each form adapts to,
// and each error, stands in integration/testdata.
func FuzzCaddyfile(f *testing.F) {
	for _, seed := range []string{
		"client_secret a b\nallow static 192.0.2.0/24\nmax_size 1MiB\ntimeout 2s",
		"client_secret a\nallow intercom us eu {\nrefresh 0\nurl https://mirror/{region}\ntimeout 1s\n}",
		"client_secret a\nroute conversation.* ticket.* as support to 127.0.0.1:9001 127.0.0.1:9002 {\nlb_policy first\n}",
		"client_secret a\nroute * {\nrespond 200\n}\napp_requests {\nabort\n}",
		"client_secret a\nroute to\nroute as\nroute * as x to",
		"client_secret a\nqueue postgres x {\nworkers 2\n}",
		"route {", "}", "client_secret \"", "client_secret a\nroute *.* {\n@x intercom_topic a.*\nerror @x 500\n}",
	} {
		f.Add(seed)
	}
	adapter := caddyconfig.GetAdapter("caddyfile")
	f.Fuzz(func(t *testing.T, block string) {
		config, _, err := adapter.Adapt([]byte("http://:80 {\nintercom_webhook {\n"+block+"\n}\n}\n"), nil)
		if err != nil {
			return
		}
		for _, h := range handlersIn(t, config) {
			if len(h.ClientSecrets) == 0 {
				t.Error("no secret")
			}
			if h.MaxSize < 0 || h.Timeout < 0 {
				t.Errorf("max_size %d, timeout %d", h.MaxSize, h.Timeout)
			}
			for _, raw := range h.AllowRaw {
				source := struct {
					Name string `json:"source"`
					ipranges.Source
				}{}
				if err := json.Unmarshal(raw, &source); err != nil {
					t.Fatal(err)
				}
				if err := source.Check(); source.Name == "intercom" && err != nil {
					t.Errorf("source %s: %v", raw, err)
				}
			}
			for _, route := range h.Routes {
				var topics MatchTopic
				if err := json.Unmarshal(route.MatcherSetsRaw[0]["intercom_topic"], &topics); err != nil || topics.Validate() != nil {
					t.Errorf("topics %s: %v, %v", route.MatcherSetsRaw[0]["intercom_topic"], err, topics.Validate())
				}
				if len(route.HandlersRaw) != 1 {
					t.Errorf("route %v has no handler", topics)
				}
			}
		}
	})
}

func adaptError(block string) string {
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("http://:80 {\nintercom_webhook {\n"+block+"\n}\n}\n"), nil)
	if err != nil {
		return err.Error()
	}
	return ""
}

// The golden files are of a Caddy that has the queue.
func TestQueueOfABuildWithoutOne(t *testing.T) {
	for _, queue := range []string{"queue", "queue sqlite", "queue postgres://u:p4ssw0rd@localhost/x"} {
		got := adaptError("client_secret a\nroute * to 127.0.0.1:9001\n" + queue)
		if !strings.Contains(got, "queue: this Caddy has no engines; build them in with xcaddy build --with github.com/caddy-intercom/caddy-intercom-webhook/queue") {
			t.Errorf("%s: error is %q", queue, got)
		}
		if strings.Contains(got, "p4ssw0rd") {
			t.Errorf("%s: the password is in the error %q", queue, got)
		}
	}
}

func TestSubdirectivesThatErrorsNameExist(t *testing.T) {
	const unknown = "unknown subdirective"
	if got := adaptError("nothing"); !strings.Contains(got, unknown) {
		t.Fatalf("error is %q", got)
	}
	for _, name := range subdirectives {
		if got := adaptError(name); strings.Contains(got, unknown) {
			t.Errorf("%s: error is %q", name, got)
		}
	}
}

// handlersIn returns the handlers of a config, be they nested or not.
func handlersIn(t *testing.T, config json.RawMessage) []Handler {
	t.Helper()
	var handlers []Handler
	var object map[string]json.RawMessage
	var array []json.RawMessage
	switch {
	case json.Unmarshal(config, &object) == nil:
		if string(object["handler"]) == `"intercom_webhook"` {
			var h Handler
			if err := json.Unmarshal(config, &h); err != nil {
				t.Fatal(err)
			}
			handlers = append(handlers, h)
		}
		for _, value := range object {
			handlers = append(handlers, handlersIn(t, value)...)
		}
	case json.Unmarshal(config, &array) == nil:
		for _, value := range array {
			handlers = append(handlers, handlersIn(t, value)...)
		}
	}
	return handlers
}

// Whatever answers stands behind the directives, without an `order` option.
func TestDirectivesComeBeforeAllThatAnswers(t *testing.T) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("http://:80 {\n"+
		"respond /b 200\nredir /a /b\nmethod GET\nrewrite /c /d\nintercom_webhook /intercom {\nclient_secret a\n}\nintercom_ready /ready\n}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, match := range regexp.MustCompile(`"handler":"(\w+)"`).FindAllStringSubmatch(string(config), -1) {
		names = append(names, match[1])
	}
	if len(names) < 4 || !slices.Equal(names[:2], []string{"intercom_ready", "intercom_webhook"}) {
		t.Errorf("the order is %q", names)
	}
}
