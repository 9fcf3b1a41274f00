package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretsCanBeRotated(t *testing.T) {
	g := start(t, setup{secrets: "the-new-one the-old-one", webhook: "route * { respond 200 }\napp_requests { respond 200 }"})
	for key, place := range map[string]int{"the-new-one": 1, "the-old-one": 2} {
		before := g.scrape()
		g.expect(200, message{body: body}.with(hubHeader, hubSignature(body, key)))
		g.expect(200, message{body: body}.with(bodyHeader, bodySignature(body, key)))
		want := fmt.Sprint(series{fmt.Sprintf(`secret_matches_total{secret="%d"}`, place): 2})
		if got := fmt.Sprint(g.scrape().since(before).of("secret_matches_total")); got != want {
			t.Errorf("counted %s, want %s", got, want)
		}
	}
	g.expect(401, message{body: body}.with(hubHeader, hubSignature(body, "a-third-one")))
	g.expect(401, message{body: body}.with(hubHeader, hubSignature(body, "the-new-one the-old-one")))
}

func TestSecretsAreExpandedWhenTheConfigLoads(t *testing.T) {
	t.Setenv("GATEWAY_TEST_SECRET", "from-the-environment")
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("from-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := start(t, setup{secrets: "{env.GATEWAY_TEST_SECRET} {file." + file + "}", webhook: "route * { respond 200 }"})
	t.Setenv("GATEWAY_TEST_SECRET", "changed-later")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	g.expect(200, message{body: body}.with(hubHeader, hubSignature(body, "from-the-environment")))
	g.expect(200, message{body: body}.with(hubHeader, hubSignature(body, "from-a-file")))
	g.expect(401, message{body: body}.with(hubHeader, hubSignature(body, "changed-later")))
	g.expect(401, message{body: body}.with(hubHeader, hubSignature(body, "{env.GATEWAY_TEST_SECRET}")))
}

// An empty key is one that everybody knows.
func TestUnusableSecretIsRefused(t *testing.T) {
	t.Setenv("GATEWAY_TEST_EMPTY", "")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, secrets := range map[string]string{
		"unset variable":                      "{env.GATEWAY_TEST_UNSET}",
		"unset variable beside a good secret": "good {env.GATEWAY_TEST_UNSET}",
		"unset variable inside of text":       "prefix-{env.GATEWAY_TEST_UNSET}",
		"empty variable":                      "{env.GATEWAY_TEST_EMPTY}",
		"missing file":                        "{file." + filepath.Join(t.TempDir(), "missing") + "}",
		"empty file":                          "{file." + empty + "}",
		"empty text":                          `""`,
		"empty text beside a good secret":     `good ""`,
		"placeholder that there is not":       "{intercom.secret}",
	} {
		t.Run(name, func(t *testing.T) {
			err := newGateway(t).load(setup{secrets: secrets})
			if err == nil {
				t.Fatal("the config was loaded")
			}
			if !strings.Contains(err.Error(), "client_secret") {
				t.Errorf("error %q does not name client_secret", err)
			}
		})
	}
}

// Nothing that helps to forge a notification, and nothing that people wrote to
// each other, may be where others can read it.
func TestSecretsAndBodiesAreShownNowhere(t *testing.T) {
	const hidden = "hidden-5bd1e995-secret"
	t.Setenv("GATEWAY_TEST_SECRET", hidden)
	g := start(t, setup{
		admin: true, secrets: "{env.GATEWAY_TEST_SECRET}",
		webhook: `max_size 2KiB
			route conversation.* { respond 200 }
			route ticket.* { respond 500 }
			route contact.* { abort }
			app_requests { respond 200 }`,
	})
	resign := func(m message) message { return m.with(hubHeader, hubSignature(m.body, hidden)) }
	private := func(topic string) []byte {
		return bytes.Replace(notification(topic, "notif_1"), []byte("ça va"), []byte("private words"), 1)
	}
	broken := append(private(topic), "private words"...)
	messages := []message{
		resign(message{body: private(topic)}),
		resign(message{body: private("ticket.created")}),
		resign(message{body: private("contact.created")}),
		resign(message{body: private("unrouted.topic")}),
		resign(message{body: private("Private Words")}),
		resign(message{body: broken}),
		resign(message{body: bytes.Repeat(private(topic), 9)}),
		good,
		good.with(hubHeader, "sha1=nonsense"),
		{body: private(topic), header: map[string][]string{bodyHeader: {bodySignature(private(topic), hidden)}}},
	}
	var shown strings.Builder
	var signatures []string
	for i, m := range messages {
		signatures = append(signatures, m.header.Get(hubHeader), m.header.Get(bodyHeader))
		if answer, err := g.try(m.to(fmt.Sprintf("/%d", i))); err == nil {
			fmt.Fprintln(&shown, answer)
		}
		g.access(fmt.Sprintf("/%d", i))
	}

	response, err := g.client.Get("http://" + g.admin + "/config/")
	if err != nil {
		t.Fatal(err)
	}
	config, err := readReply(response)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(config.body, "{env.GATEWAY_TEST_SECRET}") {
		t.Fatalf("/config/ does not show the placeholder: %s", config.body)
	}
	log, err := os.ReadFile(g.logFile())
	if err != nil {
		t.Fatal(err)
	}
	for place, text := range map[string]string{"/config/": config.body, "the log": string(log), "an answer": shown.String()} {
		if strings.Contains(text, hidden) {
			t.Errorf("the secret is in %s", place)
		}
	}

	if bytes.Contains(bytes.ToLower(log), []byte("private words")) {
		t.Error("a part of a body is in the log")
	}

	own := g.logged(entry.ours)
	if len(own) == 0 {
		t.Fatal("the module logged nothing, so that nothing was tested")
	}
	for _, line := range own {
		text, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		lower := bytes.ToLower(text)
		for _, signature := range signatures {
			if digits := strings.TrimPrefix(signature, "sha1="); len(digits) >= 40 && bytes.Contains(lower, []byte(digits)) {
				t.Errorf("a signature is in the log: %s", text)
			}
		}
	}
}

func TestSecretInTheConfigItselfIsWarnedOf(t *testing.T) {
	g := start(t, setup{})
	lines := g.warnings("client_secret is in the config itself")
	if len(lines) != 1 {
		t.Fatalf("%d warnings, want 1", len(lines))
	}
	if text := fmt.Sprint(lines[0]); strings.Contains(text, secret) {
		t.Errorf("the warning shows the secret: %s", text)
	}
}
