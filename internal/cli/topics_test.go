package cli

import (
	"strings"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

func TestTopics(t *testing.T) {
	stdout, _, code, err := runCommand(t, nil, "topics")
	if lines := strings.Count(stdout, "\n"); err != nil || code != exitFine || lines != len(intercom.Topics())+1 {
		t.Errorf("code %d, error %v, %d lines", code, err, lines)
	}
	_, _, code, err = runCommand(t, nil, "topics", "contact.archiv*", "ping")
	if code != exitUsage || err == nil || !strings.Contains(err.Error(), "a * must be a whole segment") {
		t.Errorf("a malformed pattern: code %d, error %v", code, err)
	}
	stdout, _, _, err = runCommand(t, nil, "topics", "user.*", "ping")
	if err != nil || strings.Count(stdout, "\n") != 9 ||
		!strings.Contains(strings.Join(strings.Fields(stdout), " "), "user.created User 1.0 to 2.4 now contact.user.created") {
		t.Errorf("error %v, got\n%s", err, stdout)
	}
	stdout, _, _, err = runCommand(t, nil, "topics", "contact.updated", "--json")
	if want := `{"topic":"contact.updated","object":"Lead","since":"1.0","until":"1.0","note":"docs of 1.0 only"}` + "\n"; err != nil || stdout != want {
		t.Errorf("error %v, got %s", err, stdout)
	}
	_, _, code, err = runCommand(t, nil, "topics", "ping", "conversations.*")
	if code != exitFailed || err == nil || err.Error() != `topic pattern "conversations.*" fits no known topic: the nearest is conversation.*` {
		t.Errorf("code %d, error %v", code, err)
	}
}

func TestTopicsAreCompleted(t *testing.T) {
	for _, args := range [][]string{{"topics", ""}, {"send", ""}} {
		stdout, _, _, err := runCommand(t, nil, append([]string{"__complete"}, args...)...)
		if err != nil || !strings.Contains(stdout, "conversation.user.replied\n") {
			t.Errorf("%v: error %v, got %s", args, err, stdout)
		}
	}
}

// routedConfig is a config whose handler has routes and copies.
const routedConfig = `{"apps":{"http":{"servers":{"srv0":{"routes":[{"match":[{"host":["hooks.example.com"]}],"handle":[{"handler":"subroute","routes":[
	{"match":[{"path":["/intercom"]}],"handle":[{"handler":"intercom_webhook","routes":[
		{"lane":"eu","match":[{"intercom_topic":["conversation.*"],"intercom_workspace":["tulip4"]}]},
		{"lane":"key","match":[{"intercom_topic":["*.read"],"intercom_workspace":["tulip4","rose5"]},{"intercom_topic":["article.*"],"intercom_workspace":["lily6"],"path":["/some"]}]},
		{"lane":"rest","match":[{"intercom_topic":["company.*","ping"],"intercom_workspace":["tulip4"]}]},
		{"match":[{"intercom_topic":["conversation.*","ticket.*"]}]},
		{"match":[{"intercom_topic":["ticket.*"]},{"intercom_topic":["user.*"]}]},
		{"match":[{"intercom_topic":["user.created"]}]},
		{"match":[{"intercom_topic":["contact.*","article.*"],"path":["/some"]}]}
	],"copies":[
		{"match":[{"intercom_topic":["ticket.created"]}]},
		{"lane":"staging","sample":10,"match":[{"intercom_topic":["ticket.created"],"intercom_workspace":["tulip4"]}]}
	]}]}]}]}]}}}}}`

func TestTopicsOfAConfig(t *testing.T) {
	file := writeFile(t, routedConfig)
	stdout, _, code, err := runCommand(t, nil, "topics", "--config", file)
	if err != nil || code != exitFine {
		t.Fatalf("code %d, error %v", code, err)
	}
	got := make(map[string]string)
	for line := range strings.Lines(stdout) {
		topic, to, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[topic] = strings.TrimSuffix(strings.Join(strings.Fields(to), " "), " -") // no copies
	}
	for topic, want := range map[string]string{
		"conversation.user.created": "eu (for tulip4), conversation",
		"conversation.read":         "eu (for tulip4), key (for rose5), conversation",
		"ticket.closed":             "conversation",
		"ticket.created":            "conversation copy-ticket-created, staging? (for tulip4)",
		"user.created":              "ticket",
		"company.created":           "rest (for tulip4), -",
		"article.created":           "key? (for lily6), contact?, -",
		"call.started":              "-",
		"ping":                      "rest (for tulip4), (answered here)",
	} {
		if got[topic] != want {
			t.Errorf("%s goes to %q, want %q", topic, got[topic], want)
		}
	}

	stdout, _, _, err = runCommand(t, nil, "topics", "ticket.created", "conversation.read", "article.created", "--json", "--config", file)
	want := `{"topic":"article.created","endpoint":"hooks.example.com /intercom","routes":[{"lane":"key","workspaces":["lily6"],"sometimes":true},{"lane":"contact","sometimes":true}],"certain":false}
{"topic":"conversation.read","endpoint":"hooks.example.com /intercom","routes":[{"lane":"eu","workspaces":["tulip4"]},{"lane":"key","workspaces":["rose5"]},{"lane":"conversation"}],"certain":true}
{"topic":"ticket.created","endpoint":"hooks.example.com /intercom","routes":[{"lane":"conversation"}],"certain":true,"copies":[{"lane":"copy-ticket-created"},{"lane":"staging","workspaces":["tulip4"],"sometimes":true}]}
`
	if err != nil || stdout != want {
		t.Errorf("error %v, got %s", err, stdout)
	}

	for name, test := range map[string]struct {
		config string
		code   int
		want   string
	}{
		"no intercom_webhook": {writeFile(t, `{}`), exitFailed, "the config has no intercom_webhook"},
		"no file":             {"does/not/exist", exitUsage, "no such file"},
	} {
		_, _, code, err := runCommand(t, nil, "topics", "--config", test.config)
		if code != test.code || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: code %d, error %v", name, code, err)
		}
	}
}
