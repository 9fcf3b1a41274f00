package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

func TestSendLooksLikeIntercom(t *testing.T) {
	e := newEndpoint(t, nil)
	stdout, code, err := send(t, "conversation.user.created", e.URL+"/hook?a=b")
	if err != nil || code != exitFine {
		t.Fatalf("code %d, error %v", code, err)
	}

	r := e.one(t)
	if r.Method != http.MethodPost || r.RequestURI != "/hook?a=b" {
		t.Errorf("got %s %s", r.Method, r.RequestURI)
	}
	if !r.signedBy(testSendSecret) {
		t.Errorf("signature %s does not fit the body", r.Header.Get("X-Hub-Signature"))
	}
	for name, want := range map[string]string{
		"Content-Type":    "application/json",
		"Accept":          "application/json",
		"User-Agent":      "intercom-parrot-service-client/1.0",
		"Accept-Encoding": "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	var n struct{ ID string }
	if err := json.Unmarshal(r.body, &n); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(", %s bytes sent, conversation.user.created %s\n", comma(len(r.body)), n.ID); !strings.HasPrefix(stdout, "200 OK in ") || !strings.HasSuffix(stdout, want) {
		t.Errorf("stdout = %q, want \"200 OK in …%s\"", stdout, want)
	}
}

func TestSendOfAFinEvent(t *testing.T) {
	t.Setenv(secretEnv, "the client secret, which does not sign it")
	t.Setenv(finSecretEnv, "fin-secret")
	for _, name := range []string{"fin_replied", "fin.csat_requested"} {
		e := newEndpoint(t, nil)
		if _, code, err := send(t, name, e.URL); err != nil || code != exitFine {
			t.Fatalf("%s: code %d, error %v", name, code, err)
		}
		r := e.one(t)
		if got := r.Header.Get("X-Fin-Agent-API-Webhook-Signature"); got != "sha256="+bodyOf(string(r.body), "fin-secret") || r.Header.Get("X-Hub-Signature") != "" {
			t.Errorf("%s: signed %q", name, r.Header)
		}
		if !strings.Contains(string(r.body), `{"event_name":"`+strings.TrimPrefix(name, "fin.")+`"`) {
			t.Errorf("%s: sent %s", name, r.body)
		}
	}
}

func TestSendExitCodeFollowsTheAnswer(t *testing.T) {
	tests := []struct {
		status   int
		answer   string
		wantCode int
		wantOut  string // below the first line
	}{
		{200, "thanks", exitFine, ""},
		{204, "", exitFine, ""},
		{302, "", exitFailed, ""},
		{401, "who are you?\n", exitFailed, "who are you?\n"},
		{403, "", exitFailed, ""},
		{503, "\x1b[31mred\x00", exitFailed, `\x1b[31mred\x00` + "\n"},
		{599, strings.Repeat("x", 5000), exitFailed, strings.Repeat("x", 1024) + "\n"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status), func(t *testing.T) {
			e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				answering(tt.status, tt.answer)(w, r)
			})
			stdout, code, err := send(t, "ping", e.URL)
			if code != tt.wantCode {
				t.Errorf("code = %d, error %v, want %d", code, err, tt.wantCode)
			}
			e.one(t)
			first, rest, _ := strings.Cut(stdout, "\n")
			if !strings.HasPrefix(first, statusText(tt.status)+" in ") || rest != tt.wantOut {
				t.Errorf("stdout = %q", stdout)
			}
		})
	}
}

func TestSendWithoutAnAnswer(t *testing.T) {
	e := newEndpoint(t, nil)
	e.Close()
	_, code, err := send(t, "ping", e.URL)
	if code != exitFailed || err == nil || !strings.Contains(err.Error(), "is the server running") {
		t.Errorf("code %d, error %v", code, err)
	}
}

func TestSendVerifiesCertificatesUnlessInsecure(t *testing.T) {
	server := httptest.NewUnstartedServer(answering(http.StatusOK, ""))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the refused certificate
	server.StartTLS()
	t.Cleanup(server.Close)

	if _, _, err := send(t, "ping", server.URL); err == nil || !strings.Contains(err.Error(), "--insecure") {
		t.Errorf("error = %v, want one that names --insecure", err)
	}
	if _, _, err := send(t, "ping", server.URL, "--insecure"); err != nil {
		t.Error(err)
	}
}

func TestSendRefusesWhatItCannotSend(t *testing.T) {
	const hook = "http://localhost/hook"
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"no arguments", nil, "expecting <topic> <url>"},
		{"no url", []string{"ping"}, "expecting <topic> <url>"},
		{"too many arguments", []string{"ping", hook, hook}, "expecting <topic> <url>"},
		{"unknown topic names the nearest", []string{"conversation.user.create", hook}, `topic "conversation.user.create" is not known: the nearest is conversation.user.created; to send it anyway, `},
		{"url without scheme", []string{"ping", "localhost:8080"}, "must start with http:// or https://"},
		{"url without host", []string{"ping", "http:///hook"}, "must start with http:// or https://"},
		{"url of another scheme", []string{"ping", "ftp://localhost"}, "must start with http:// or https://"},
		{"body that is not there", []string{"--body", "does/not/exist", hook}, "reading the body of --body: open does/not/exist"},
		{"secret file that is not there", []string{"ping", hook, "--secret-file", "does/not/exist"}, "reading the client secret of --secret-file: open does/not/exist"},
		{"empty secret", []string{"ping", hook, "--secret", ""}, "the client secret of --secret is empty"},
		{"secret with a blank inside", []string{"ping", hook, "--secret", "a b"}, "the client secret of --secret: a blank"},
		{"secret file with a blank inside", []string{"ping", hook, "--secret-file", writeFile(t, "new\na b\n")}, "the client secret of --secret-file: line 2: a blank"},
		{"secret file with blank lines only", []string{"ping", hook, "--secret-file", writeFile(t, "\n \r\n")}, "the client secret of --secret-file: the file has no secret"},
		{"header without colon", []string{"ping", hook, "--header", "X-Test"}, `header "X-Test" must have the form "Name: value"`},
		{"header without name", []string{"ping", hook, "--header", ": x"}, `must have the form "Name: value"`},
		{"header that follows from the body", []string{"ping", hook, "--header", "content-length: 1"}, "header Content-Length follows from the body"},
		{"an empty workspace", []string{"ping", hook, "--workspace", ""}, "--workspace is empty"},
		{"workspace of a body", []string{"--body", "-", hook, "--workspace", "w"}, "--body is sent as it is: leave out --all and --workspace"},
		{"all and a topic", []string{"ping", hook, "--all"}, "expecting <topic> <url>, --all <url>"},
		{"a body that is too large to print", []string{"--print", "--body", writeFile(t, strings.Repeat("x", 130_000)), hook}, "a shell takes it from a file only"},
		{"timeout of 0", []string{"ping", hook, "--timeout", "0"}, "timeout 0s must be longer than 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stdout, code, err := send(t, tt.args...)
			if code != exitUsage || err == nil || !strings.Contains(err.Error(), tt.want) || stdout != "" {
				t.Errorf("code %d, error %v, stdout %q, want error with %q", code, err, stdout, tt.want)
			}
		})
	}
}

func TestSendTakesTheSecretFromTheFirstSource(t *testing.T) {
	e := newEndpoint(t, nil)
	tests := []struct {
		name string
		env  string
		args []string
		want string
	}{
		{"environment", "from-env", nil, "from-env"},
		{"file before environment", "from-env", []string{"--secret-file", writeFile(t, "from-file")}, "from-file"},
		{"flag before file", "from-env", []string{"--secret-file", writeFile(t, "from-file"), "--secret", "from-flag"}, "from-flag"},
		{"line break after the secret", "", []string{"--secret-file", writeFile(t, "one\n")}, "one"},
		{"line break of Windows after the secret", "", []string{"--secret-file", writeFile(t, "one\r\n")}, "one"},
		{"spaces around the secret", "", []string{"--secret-file", writeFile(t, "\t spaced-out \n")}, "spaced-out"},
		{"line break after the variable", "one\r\n", nil, "one"},
		{"comment before the secret", "", []string{"--secret-file", writeFile(t, "# the new one\nnew\n")}, "new"},
		{"first of several secrets", "", []string{"--secret-file", writeFile(t, "new\nold\n")}, "new"},
		{"first line that is not blank", "", []string{"--secret-file", writeFile(t, "\n \r\nnew\r\n\nold")}, "new"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e.requests = nil
			t.Setenv(secretEnv, tt.env)
			if _, _, err := sendFrom(t, nil, append([]string{"ping", e.URL}, tt.args...)...); err != nil {
				t.Fatal(err)
			}
			if !e.one(t).signedBy(tt.want) {
				t.Errorf("is not signed with %q", tt.want)
			}
		})
	}
}

func TestSendWithoutASecretNamesTheThreeWays(t *testing.T) {
	t.Setenv(secretEnv, "") // so that it is restored
	os.Unsetenv(secretEnv)
	_, code, err := sendFrom(t, nil, "ping", "http://localhost/hook")
	if code != exitUsage || err == nil {
		t.Fatalf("code %d, error %v", code, err)
	}
	for _, way := range []string{"--secret,", "--secret-file", secretEnv} {
		if !strings.Contains(err.Error(), way) {
			t.Errorf("error %q does not name %s", err, way)
		}
	}
}

func TestSendBodyAsItIs(t *testing.T) {
	const body = "{ \"topic\" : \"ping\" }\r\n\xff\n"
	file := writeFile(t, body)
	tests := []struct {
		name string
		args []string
	}{
		{"from a file, without topic", []string{"--body", file}},
		{"from standard input", []string{"--body", "-"}},
		{"of a topic that is not known", []string{"--body", file, "brand.new"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(secretEnv, testSendSecret)
			e := newEndpoint(t, nil)
			if _, _, err := sendFrom(t, strings.NewReader(body), append(tt.args, e.URL)...); err != nil {
				t.Fatal(err)
			}
			if r := e.one(t); string(r.body) != body || !r.signedBy(testSendSecret) {
				t.Errorf("got body %q with signature %s", r.body, r.Header.Get("X-Hub-Signature"))
			}
		})
	}
}

func TestSendHeaders(t *testing.T) {
	tests := []struct {
		name   string
		fields []string
		header string
		want   []string
	}{
		{"a new one is added", []string{"X-Test: a:b "}, "X-Test", []string{"a:b"}},
		{"the signature is replaced", []string{"x-hub-signature: sha1=0"}, "X-Hub-Signature", []string{"sha1=0"}},
		{"one given twice is sent twice", []string{"X-Hub-Signature: a", "X-Hub-Signature: b"}, "X-Hub-Signature", []string{"a", "b"}},
		{"one without a value is not sent", []string{"X-Hub-Signature:"}, "X-Hub-Signature", nil},
		{"not even a User-Agent of net/http", []string{"User-Agent:"}, "User-Agent", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newEndpoint(t, nil)
			args := []string{"ping", e.URL}
			for _, field := range tt.fields {
				args = append(args, "--header", field)
			}
			if _, _, err := send(t, args...); err != nil {
				t.Fatal(err)
			}
			if got := e.one(t).Header.Values(tt.header); !slices.Equal(got, tt.want) {
				t.Errorf("%s = %q, want %q", tt.header, got, tt.want)
			}
		})
	}

	t.Run("the host is that of the request", func(t *testing.T) {
		e := newEndpoint(t, nil)
		if _, _, err := send(t, "ping", e.URL, "-H", "Host: hooks.example.com"); err != nil {
			t.Fatal(err)
		}
		if got := e.one(t).Host; got != "hooks.example.com" {
			t.Errorf("host = %q", got)
		}
	})
}

func TestSendAsJSON(t *testing.T) {
	e := newEndpoint(t, answering(503, "busy"))
	stdout, code, _ := send(t, "ticket.created", e.URL, "--json")
	var one struct {
		Sent, ID, Answer string
		Bytes, Status    int
		Seconds          float64
	}
	if err := json.Unmarshal([]byte(stdout), &one); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	if code != exitFailed || one.Sent != "ticket.created" || !strings.HasPrefix(one.ID, "notif_") || one.Answer != "busy" ||
		one.Bytes != len(e.one(t).body) || one.Status != 503 || one.Seconds <= 0 {
		t.Errorf("code %d, got %s", code, stdout)
	}
}

func TestSendList(t *testing.T) {
	stdout, code, err := sendFrom(t, nil, "--list")
	if err != nil || code != exitFine || !strings.Contains(stdout, "\nping\n") || !strings.Contains(stdout, "\napp-request health-check\n") {
		t.Errorf("code %d, error %v: %s", code, err, stdout)
	}
	stdout, _, err = sendFrom(t, nil, "--list", "--json")
	if err != nil || !strings.Contains(stdout, `{"topic":"ping"}`+"\n") || !strings.Contains(stdout, `{"app_request":"submit"}`+"\n") {
		t.Errorf("error %v: %s", err, stdout)
	}
}

func TestSecretOnTheCommandLineIsWarnedOf(t *testing.T) {
	e := newEndpoint(t, nil)
	_, stderr, _, err := runCommand(t, nil, "send", "ping", e.URL, "--secret", testSendSecret)
	if err != nil || !strings.HasPrefix(stderr, "warning: other users of this machine can see the value of --secret") || strings.Contains(stderr, testSendSecret) {
		t.Errorf("error %v, stderr %q", err, stderr)
	}
	_, stderr, _, err = runCommand(t, nil, "send", "ping", e.URL, "--secret-file", writeFile(t, testSendSecret))
	if err != nil || stderr != "" {
		t.Errorf("with a file: error %v, stderr %q", err, stderr)
	}
}

func TestSendOfAWorkspace(t *testing.T) {
	e := newEndpoint(t, nil)
	if _, _, err := send(t, "contact.created", e.URL, "--workspace", "tulip4"); err != nil {
		t.Fatal(err)
	}
	r := e.one(t)
	if !strings.Contains(string(r.body), `"app_id":"tulip4"`) || !r.signedBy(testSendSecret) {
		t.Errorf("sent %s", r.body)
	}
}

func TestSendAllTopics(t *testing.T) {
	e := newEndpoint(t, nil)
	stdout, _, err := send(t, "--all", e.URL, "--json", "--workspace", "tulip4")
	if err != nil {
		t.Fatal(err)
	}
	topics := intercom.Topics()
	if len(e.requests) != len(topics) || strings.Count(stdout, "\n") != len(topics) {
		t.Fatalf("got %d requests and %d lines, want %d", len(e.requests), strings.Count(stdout, "\n"), len(topics))
	}
	for i, r := range e.requests {
		if !strings.Contains(string(r.body), `"topic":"`+topics[i]+`"`) || !strings.Contains(string(r.body), `"app_id":"tulip4"`) || !r.signedBy(testSendSecret) {
			t.Errorf("instead of %s, %s was sent", topics[i], r.body)
		}
	}

	some := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header.Get("X-Hub-Signature"))%2 == 1 && strings.HasSuffix(r.Header.Get("X-Hub-Signature"), "0") {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	_, code, err := send(t, "--all", some.URL)
	if (code == exitFailed) != (err != nil) || err != nil && !strings.Contains(err.Error(), "were not answered 2xx") || len(some.requests) != len(topics) {
		t.Errorf("code %d, error %v after %d requests", code, err, len(some.requests))
	}
	some.Close()
	if _, _, err := send(t, "--all", some.URL); err == nil || !strings.Contains(err.Error(), "is the server running") || strings.Contains(err.Error(), "\n") {
		t.Errorf("without a server: %v", err)
	}
}
