package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
)

// doctor runs "caddy intercom-webhook doctor --json".
func doctor(t *testing.T, args ...string) (found findings, code int) {
	t.Helper()
	t.Setenv(secretEnv, testSendSecret)
	stdout, stderr, code, err := runCommand(t, nil, append([]string{"doctor", "--json"}, args...)...)
	if strings.Contains(stdout+stderr+fmt.Sprint(err), testSendSecret) {
		t.Errorf("the secret is printed: %s %s %v", stdout, stderr, err)
	}
	for line := range strings.Lines(stdout) {
		var f finding
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		found = append(found, f)
	}
	if (found.count(levelBroken) > 0) != (code == exitFailed) {
		t.Errorf("code %d, but found %+v", code, found)
	}
	return found, code
}

// want asserts that a check has found something of a level, with some text.
func (f findings) want(t *testing.T, l level, check, text string) {
	t.Helper()
	if !slices.ContainsFunc(f, func(f finding) bool {
		return f.Level == l && strings.HasPrefix(f.Check, check) && strings.Contains(f.text(), text)
	}) {
		t.Errorf("%s does not say %q at level %s: %+v", check, text, l, f)
	}
}

// hook is an endpoint that answers as intercom_webhook does, at /hook. A status of 0 is 200.
type hook struct {
	status   int // of what is signed
	unsigned int // of what is not signed; 0 is 401
	head     int
	other    int // of other paths; 0 is 404
	post     int // of a POST to other paths, if not as other; -1 is no answer
	wait     time.Duration
}

func (h hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	or := func(status, instead int) int {
		if status == 0 {
			return instead
		}
		return status
	}
	body, _ := io.ReadAll(r.Body)
	switch {
	case r.URL.Path != "/hook" && r.Method == http.MethodPost && h.post < 0:
		panic(http.ErrAbortHandler)
	case r.URL.Path != "/hook" && r.Method == http.MethodPost:
		w.WriteHeader(or(h.post, or(h.other, 404)))
	case r.URL.Path != "/hook":
		w.WriteHeader(or(h.other, 404))
	case r.Method == http.MethodHead:
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(or(h.head, 200))
	case r.Header.Get("X-Hub-Signature") != hubOf(string(body), testSendSecret):
		w.WriteHeader(or(h.unsigned, 401))
	default:
		time.Sleep(h.wait)
		w.WriteHeader(or(h.status, 200))
	}
}

// noAdmin is an address at which nobody listens.
const noAdmin = "127.0.0.1:1"

func TestDoctorOfAURL(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hook  hook
		level level
		check string
		want  string
	}{
		{"all is well", hook{}, levelOK, "ping", "a signed ping is answered 200 OK in "},
		{"a slash at the end is refused", hook{}, levelOK, "slash", "/hook/ is answered 404 Not Found"},
		{"signatures are checked", hook{}, levelOK, "no signature", "a ping without a signature is answered 401"},
		{"plain http", hook{}, levelWarning, "tls", "the URL is plain http"},
		{"no admin endpoint", hook{}, levelNotChecked, "address", "no Caddy answers at " + noAdmin},
		{"HEAD is refused", hook{head: 405}, levelBroken, "head", "HEAD is answered 405"},
		{"HEAD is redirected", hook{head: 308}, levelBroken, "redirect", "(308 Permanent Redirect) to /elsewhere"},
		{"another secret", hook{status: 401}, levelBroken, "ping", "the endpoint has another secret"},
		{"this machine is not allowed", hook{status: 403}, levelNotChecked, "signatures", "run doctor on the server itself"},
		{"late", hook{wait: 600 * time.Millisecond}, levelWarning, "ping", "lower priority"},
		{"another 2xx", hook{status: 204}, levelWarning, "ping", "only 200 is success"},
		{"redirected", hook{status: 302}, levelBroken, "ping", "follow redirects"},
		{"no such path", hook{status: 404}, levelBroken, "ping", "no intercom_webhook answers at this URL"},
		{"gone", hook{status: 410}, levelBroken, "ping", "ends the subscription"},
		{"throttled", hook{status: 429}, levelBroken, "ping", "throttles all notifications"},
		{"an error", hook{status: 502}, levelBroken, "ping", "tries once more after a minute"},
		{"anybody can send", hook{unsigned: 200}, levelBroken, "wrong signature", "anybody can send notifications"},
		{"200 to everything", hook{other: 200}, levelBroken, "slash", "/hook/ answers 200 OK to everything"},
		{"the endpoint with a slash, too", hook{other: 200, post: 401}, levelOK, "slash", "/hook/ is the endpoint, too"},
		{"a page at other paths", hook{other: 200, post: 405}, levelBroken, "slash", "/hook/ is answered 200, but a POST is answered 405 Method Not Allowed"},
		{"redirects at other paths", hook{other: 200, post: 302}, levelBroken, "slash", "a POST is answered 302 Found; with this mistake"},
		{"no answer at other paths", hook{other: 200, post: -1}, levelBroken, "slash", "a POST gets no answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(tt.hook)
			defer server.Close()
			found, _ := doctor(t, server.URL+"/hook", "--address", noAdmin)
			found.want(t, tt.level, tt.check, tt.want)
		})
	}
}

func TestDoctorSendsANotificationOnlyIfAskedTo(t *testing.T) {
	var topics []string
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) { hook{}.ServeHTTP(w, r) })
	found, _ := doctor(t, e.URL+"/hook", "--address", noAdmin)
	if slices.ContainsFunc(found, func(f finding) bool { return f.Check == "notification" }) {
		t.Errorf("found %+v", found)
	}
	for _, args := range [][]string{nil, {"--topic", "ticket.created"}} {
		e.requests, topics = nil, nil
		doctor(t, append(args, e.URL+"/hook", "--address", noAdmin)...)
		for _, r := range e.requests {
			var n struct{ Topic string }
			if json.Unmarshal(r.body, &n) == nil && n.Topic != "" && !slices.Contains(topics, n.Topic) {
				topics = append(topics, n.Topic)
			}
		}
		want := []string{"ping"}
		if args != nil {
			want = append(want, "ticket.created")
		}
		if !slices.Equal(topics, want) {
			t.Errorf("with %v: sent %v, want %v", args, topics, want)
		}
	}
}

func TestDoctorLearnsTheAddressFromTheAdminEndpoint(t *testing.T) {
	bodies := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		hook{}.ServeHTTP(w, r)
		bodies <- string(body)
	}))
	defer server.Close()
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/intercom_webhook/notifications/stream" || r.URL.Query().Get("topic") != "ping" || r.URL.Query().Get("request") != "true" {
			t.Errorf("asked for %s", r.URL)
		}
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case body := <-bodies:
				_ = json.NewEncoder(w).Encode(map[string]any{"request": map[string]string{"client_ip": "192.0.2.9", "body": "another"}})
				_ = json.NewEncoder(w).Encode(map[string]any{"request": map[string]string{"client_ip": "192.0.2.7", "body": body}})
				_ = http.NewResponseController(w).Flush()
			}
		}
	}))
	defer admin.Close()
	found, _ := doctor(t, server.URL+"/hook", "--address", admin.Listener.Addr().String())
	found.want(t, levelOK, "address", "judged by the address 192.0.2.7")
}

func TestDoctorChecksTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(hook{})
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the refused certificate
	server.StartTLS()
	defer server.Close()
	found, _ := doctor(t, server.URL+"/hook", "--address", noAdmin)
	found.want(t, levelBroken, "tls", "the certificate is of nobody whom this machine trusts; Intercom cannot send anything; use a name")
	found, code := doctor(t, server.URL+"/hook", "--insecure", "--address", noAdmin)
	found.want(t, levelNotChecked, "tls", "--insecure was given")
	found.want(t, levelOK, "ping", "200 OK")
	if code != exitFine {
		t.Errorf("code %d", code)
	}
}

// Something before intercom_webhook may ask for a password, which Intercom does not have.
func TestDoctorBehindAPassword(t *testing.T) {
	guard := func(next http.Handler, methods ...string) *httptest.Server {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); slices.Contains(methods, r.Method) && (user != "u" || password != "p") {
				w.Header().Set("WWW-Authenticate", "Basic realm=\"x\"")
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		return server
	}
	for check, server := range map[string]*httptest.Server{
		"head": guard(hook{}, http.MethodHead, http.MethodPost),
		"ping": guard(hook{}, http.MethodPost),
	} {
		found, _ := doctor(t, server.URL+"/hook", "--address", noAdmin)
		found.want(t, levelBroken, check, `is answered 401 by something that asks for a password (WWW-Authenticate: Basic realm="x"), not by intercom_webhook; Intercom has no password`)
		if found.count(levelBroken) != 1 || strings.Contains(fmt.Sprint(found), "another secret") {
			t.Errorf("%s: found %+v", check, found)
		}
		found, code := doctor(t, server.URL+"/hook", "--address", noAdmin, "-H", "Authorization: Basic dTpw", "--topic", "ping")
		for _, check := range []string{"head", "ping", "wrong signature", "no signature", "slash", "notification"} {
			found.want(t, levelOK, check, "")
		}
		if code != exitFine {
			t.Errorf("with the password: code %d, found %+v", code, found)
		}
	}
}

func TestDoctorWithoutAnAnswer(t *testing.T) {
	found, _ := doctor(t, "http://"+noAdmin+"/hook", "--address", noAdmin)
	found.want(t, levelBroken, "reach", "there is no answer")
}

func TestDoctorOfAConfigThatDoesNotLoad(t *testing.T) {
	for _, config := range []string{`{`, `{"apps":{"http":{"servers":{"a":{"routes":[{"handle":[{"handler":"nowhere"}]}]}}}}}`} {
		found, _ := doctor(t, "--config", writeFile(t, config))
		found.want(t, levelBroken, "config", "it does not load: ")
	}
	found, _ := doctor(t, "http://"+noAdmin+"/hook", "--config", writeFile(t, `{`))
	found.want(t, levelNotChecked, "url", "because the config does not load")
}

// warning is a module whose Provision warns, as handlers of this module do.
type warning struct{}

func (*warning) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.intercom_webhook", New: func() caddy.Module { return new(warning) }}
}

func (*warning) Provision(ctx caddy.Context) error {
	ctx.Logger().Info("nothing odd")
	ctx.Logger().Warn("timeout is 6s\x1b", zap.String("at", "Caddyfile:17"), zap.String("do", "leave it out"), zap.Int("wanted", 5), zap.String("a", "b"))
	ctx.Logger().Error("worse")
	return nil
}

func (*warning) ServeHTTP(http.ResponseWriter, *http.Request, caddyhttp.Handler) error { return nil }

func TestDoctorShowsWhatTheModuleWarnsOf(t *testing.T) {
	caddy.RegisterModule(new(warning))
	const config = `{"admin":{"listen":":2019"},"apps":{"http":{"servers":{"a":{"routes":[{"handle":[{"handler":"intercom_webhook"},{"handler":"static_response","status_code":404}]}]}}}}}`
	found, _ := doctor(t, "--config", writeFile(t, config))
	found.want(t, levelOK, "modules", "all of them load")
	found.want(t, levelWarning, "intercom_webhook", `Caddyfile:17: timeout is 6s\x1b, a: b, wanted: 5; leave it out`)
	found.want(t, levelBroken, "intercom_webhook", "worse")
	found.want(t, levelWarning, "admin endpoint", "it listens on :2019, not only on this machine")
	if len(found) != 4 {
		t.Errorf("found %+v", found)
	}
	found, _ = doctor(t, "--config", writeFile(t, `{}`))
	found.want(t, levelBroken, "config", "there is no intercom_webhook")
	found.want(t, levelOK, "admin endpoint", "only this machine reaches it (localhost:2019)")
}

func TestDoctorUsedWrongly(t *testing.T) {
	t.Setenv(secretEnv, testSendSecret)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "nothing to look at"},
		{[]string{"localhost"}, "must start with http:// or https://"},
		{[]string{"http://localhost", "http://localhost"}, "got 2 arguments: expecting"},
		{[]string{"http://localhost", "--topic", "tickets.created"}, "the nearest is ticket.created"},
		{[]string{"http://localhost", "--timeout", "0"}, "timeout 0s must be longer than 0"},
		{[]string{"http://localhost", "--secret-file", "does/not/exist"}, "reading the client secret"},
		{[]string{"--config", "does/not/exist"}, "no such file"},
		{[]string{"--config", "doctor.go", "--adapter", "unknown"}, "unrecognized config adapter: unknown"},
	} {
		_, _, code, err := runCommand(t, nil, append([]string{"doctor"}, tt.args...)...)
		if code != exitUsage || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: code %d, error %v", tt.args, code, err)
		}
	}
}

func TestFindingsArePrintedByLevel(t *testing.T) {
	var out strings.Builder
	var f findings
	f.broken("b", "it is so", "it matters", "do that")
	f.ok("a", "%d found", 2)
	if err := f.print(&out, false); err != nil || out.String() != "ok\n  a: 2 found\nbroken\n  b: it is so; it matters; do that\n" {
		t.Errorf("error %v, got %q", err, out.String())
	}
}
