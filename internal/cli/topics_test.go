package cli

import (
	"slices"
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
	stdout, _, _, err = runCommand(t, nil, "topics", "fin.*")
	if err != nil || strings.Count(stdout, "\n") != len(intercom.FinTopics())+1 {
		t.Errorf("events of the Fin Agent API: error %v, got\n%s", err, stdout)
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

func TestRouteOfATopic(t *testing.T) {
	a := newFakeAdmin(t)
	a.answers["GET route"] = []string{
		`{"endpoint":"intercom","server":"srv0","lane":"support","copies":["copy-default","staging"],"passed":[{"lane":"eu","why":"only for the workspaces tulip4 and rose5"},{"lane":"x\u001b","why":"\u009b"}]}`,
		`{"lane":"","copies":[],"passed":[]}`,
	}
	stdout, _, code, err := runCommand(t, nil, "topics", "--address", a.address, "--route", "ticket.created", "--workspace", "lily6")
	if err != nil || code != exitFine {
		t.Fatalf("code %d, error %v", code, err)
	}
	wantText(t, "routes", stdout, `
intercom_webhook of server srv0, queue intercom
  lane: support
  copies: copy-default, staging
  not eu: only for the workspaces tulip4 and rose5
  not x\x1b: \u009b
intercom_webhook
  lane: none: no route fits
`[1:])
	stdout, _, _, err = runCommand(t, nil, "topics", "--address", a.address, "--route", "brand.new", "--json")
	if want := strings.Join(a.answers["GET route"], "\n") + "\n"; err != nil || stdout != want {
		t.Errorf("error %v, got %s", err, stdout)
	}
	if got, want := a.asked(), []string{"GET route?topic=ticket.created&workspace=lily6", "GET route?topic=brand.new"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}

	a.answers["GET route"] = nil
	for want, test := range map[string]struct {
		args []string
		code int
	}{
		"has no intercom_webhook":      {[]string{"--route", "ping"}, exitFailed},
		`--route "a..b" is no topic`:   {[]string{"--route", "a..b"}, exitUsage},
		`--route "" is no topic`:       {[]string{"--route", ""}, exitUsage},
		"and no patterns: give either": {[]string{"--route", "ping", "ping"}, exitUsage},
		"--workspace is for --route":   {[]string{"--workspace", "tulip4"}, exitUsage},
	} {
		_, _, code, err := runCommand(t, nil, append([]string{"topics", "--address", a.address}, test.args...)...)
		if code != test.code || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: code %d, error %v", test.args, code, err)
		}
	}
}
