package cli

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"
)

const testSendSecret = "sécret-of-the-test"

// endpoint is a server that keeps the requests it gets.
type endpoint struct {
	*httptest.Server

	mu       sync.Mutex
	requests []receivedRequest
}

type receivedRequest struct {
	*http.Request
	body []byte
}

// signedBy reports whether the signature fits the raw body.
func (r receivedRequest) signedBy(secret string) bool {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write(r.body)
	return r.Header.Get("X-Hub-Signature") == fmt.Sprintf("sha1=%x", mac.Sum(nil))
}

// newEndpoint starts an endpoint; a nil handler answers 200.
func newEndpoint(t *testing.T, handler http.HandlerFunc) *endpoint {
	t.Helper()
	e := new(endpoint)
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		e.mu.Lock()
		e.requests = append(e.requests, receivedRequest{r, body})
		e.mu.Unlock()
		if handler != nil {
			handler(w, r)
		}
	}))
	t.Cleanup(e.Close)
	return e
}

// one returns the only request.
func (e *endpoint) one(t *testing.T) receivedRequest {
	t.Helper()
	if len(e.requests) != 1 {
		t.Fatalf("got %d requests, want 1", len(e.requests))
	}
	return e.requests[0]
}

// answering returns a handler that answers with a status and a body.
func answering(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// runCommand runs "caddy intercom-webhook" with arguments.
func runCommand(t *testing.T, stdin io.Reader, args ...string) (stdout, stderr string, code int, err error) {
	t.Helper()
	var out, warnings bytes.Buffer
	cmd := &cobra.Command{Use: "intercom-webhook", SilenceUsage: true, SilenceErrors: true}
	AddCommands(cmd)
	cmd.SetIn(stdin)
	cmd.SetOut(&out)
	cmd.SetErr(&warnings)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), warnings.String(), exitCode(err), err
}

// send runs "caddy intercom-webhook send" with the test's secret in the environment.
func send(t *testing.T, args ...string) (stdout string, code int, err error) {
	t.Helper()
	t.Setenv(secretEnv, testSendSecret)
	return sendFrom(t, nil, args...)
}

// sendFrom is send with a standard input and the environment as it is.
func sendFrom(t *testing.T, stdin io.Reader, args ...string) (stdout string, code int, err error) {
	t.Helper()
	stdout, stderr, code, err := runCommand(t, stdin, append([]string{"send"}, args...)...)
	for _, printed := range []string{stdout, stderr, fmt.Sprint(err)} {
		if strings.Contains(printed, testSendSecret) {
			t.Errorf("the secret is printed: %s", printed)
		}
	}
	return stdout, code, err
}

// writeFile writes a file for a test and returns its name.
func writeFile(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
