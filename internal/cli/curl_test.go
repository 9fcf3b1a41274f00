package cli

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What --print prints is a command that sends exactly the request.
func TestSendPrints(t *testing.T) {
	e := newEndpoint(t, nil)
	stdout, _, err := send(t, "contact.created", e.URL+"/it's?a=b&c", "--print", "--workspace", "it's", "-H", "User-Agent:", "-H", "X-A: 1", "-H", "X-A: 2")
	if err != nil || len(e.requests) > 0 {
		t.Fatalf("error %v, %d requests", err, len(e.requests))
	}
	words, err := exec.CommandContext(t.Context(), "bash", "-c", "printf '%s\\0' "+stdout).Output()
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Split(strings.TrimSuffix(string(words), "\x00"), "\x00")
	body := args[len(args)-1]
	if args[0] != "curl" || args[1] != e.URL+"/it's?a=b&c" || !strings.Contains(body, `"app_id":"it's"`) || strings.Join(args[len(args)-2:len(args)-1], "") != "--data-raw" {
		t.Errorf("printed %q", args)
	}
	for _, header := range []string{"User-Agent:", "X-A: 1", "X-A: 2", "Content-Type: application/json", "X-Hub-Signature: " + hubOf(body, testSendSecret)} {
		if !slices.Contains(args, header) {
			t.Errorf("the header %q is missing in %q", header, args)
		}
	}

	stdout, _, err = send(t, "--body", writeFile(t, "\xff"), e.URL, "--print", "--json")
	var printed struct {
		Method, URL string
		Header      http.Header
		BodyBase64  []byte `json:"body_base64"`
	}
	if err != nil || json.Unmarshal([]byte(stdout), &printed) != nil || printed.Method != "POST" || printed.URL != e.URL || string(printed.BodyBase64) != "\xff" ||
		printed.Header.Get("X-Hub-Signature") != hubOf("\xff", testSendSecret) {
		t.Errorf("printed %s (%v)", stdout, err)
	}
	if _, _, err := send(t, "app-request", "submit", e.URL, "--print"); err != nil {
		t.Error(err)
	}
}

func TestShellQuote(t *testing.T) {
	for _, text := range []string{"", "a b", "it's $(reboot) `x` \\ \"", "ä\n", "a\x1b[2J'\\7", "\u009b\u202e\xff\x01" + "1", "@file"} {
		quoted := shellQuote(text)
		got, err := exec.CommandContext(t.Context(), "bash", "-c", "printf %s "+quoted).Output()
		if err != nil || string(got) != text {
			t.Errorf("%q is quoted as %s, which is %q (%v)", text, quoted, got, err)
		}
		if escape(quoted) != quoted {
			t.Errorf("%q is quoted as %q, which does not print", text, quoted)
		}
	}
}
