package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
)

// adminAt returns a client with flags.
func adminAt(t *testing.T, flags ...string) (*adminClient, error) {
	t.Helper()
	cmd := new(cobra.Command)
	addAdminFlags(cmd)
	if err := cmd.ParseFlags(flags); err != nil {
		t.Fatal(err)
	}
	return newAdminClient(caddycmd.Flags{FlagSet: cmd.Flags()})
}

// readLanes gets the lines of /intercom_webhook/lanes.
func readLanes(t *testing.T, flags ...string) (lines []string, err error) {
	t.Helper()
	admin, err := adminAt(t, flags...)
	if err != nil {
		return nil, err
	}
	err = ask(t.Context(), admin, http.MethodGet, adminapi.LanesPath, url.Values{"endpoint": {"a&b"}}, func(_ struct{}, line json.RawMessage) error {
		lines = append(lines, string(line))
		return nil
	})
	return lines, err
}

func TestAdminLines(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// As Caddy's own commands: Caddy refuses every origin at a socket.
		origin, wantedOrigin := r.Header.Get("Origin"), "http://"+r.Host
		if r.Context().Value(http.LocalAddrContextKey).(net.Addr).Network() == "unix" {
			wantedOrigin = ""
		}
		if r.Method != http.MethodGet || r.URL.Path != "/intercom_webhook/lanes" || r.URL.Query().Get("endpoint") != "a&b" || origin != wantedOrigin {
			t.Errorf("got %s %s with Origin %q", r.Method, r.URL, origin)
		}
		fmt.Fprint(w, "{\"a\":1}\n{\"a\":2}\n")
	})
	tcp := httptest.NewServer(handler)
	defer tcp.Close()
	socket := filepath.Join(t.TempDir(), "admin.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	unix := httptest.NewUnstartedServer(handler)
	unix.Listener = listener
	unix.Start()
	defer unix.Close()
	config := writeFile(t, fmt.Sprintf(`{"admin":{"listen":%q}}`, tcp.Listener.Addr()))

	for name, flags := range map[string][]string{
		"TCP":                             {"--address", tcp.Listener.Addr().String()},
		"a socket":                        {"--address", "unix/" + socket},
		"a socket with permissions":       {"--address", "unix/" + socket + "|0200"},
		"the address of a config":         {"--config", config},
		"address counts more than config": {"--config", writeFile(t, "{}"), "--address", tcp.Listener.Addr().String()},
	} {
		t.Run(name, func(t *testing.T) {
			lines, err := readLanes(t, flags...)
			if want := []string{`{"a":1}`, `{"a":2}`}; err != nil || !slices.Equal(lines, want) {
				t.Errorf("got %q, error %v, want %q", lines, err, want)
			}
		})
	}
}

func TestAdminErrors(t *testing.T) {
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		lines   int
		want    string
	}{
		"a Caddy without the module":  {answer(404, "404 page not found\n"), 0, "without the module intercom_webhook"},
		"a Caddy without a queue":     {answer(404, `{"error":"no queue: add one"}`), 0, "no queue: add one"},
		"a wrong name":                {answer(403, `{"error":"host not allowed: x"}`), 0, "the global option admin"},
		"another server":              {answer(200, "<html>"), 0, "is not JSON"},
		"another server with errors":  {answer(500, "<html>"), 0, "answers 500 Internal Server Error"},
		"a redirect":                  {answer(301, ""), 0, "answers 301 Moved Permanently"},
		"an error without a sentence": {answer(500, `{"error":""}`), 0, "answers 500"},
		"a cut line":                  {answer(200, "{}\n{\"a\":"), 1, "ended early (unexpected EOF)"},
		"a cut answer": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, "{}")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, 1, "ended early (unexpected EOF)"},
		"no answer": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, "does not answer as the admin endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(test.handler)
			defer server.Close()
			lines, err := readLanes(t, "--address", server.Listener.Addr().String())
			if err == nil || !strings.Contains(err.Error(), test.want) || len(lines) != test.lines {
				t.Errorf("got %d lines and the error %v, want %d and %q", len(lines), err, test.lines, test.want)
			}
		})
	}
}

func TestAdminNotThere(t *testing.T) {
	server := httptest.NewServer(nil)
	address := server.Listener.Addr().String()
	server.Close()
	for _, address := range []string{address, "unix/" + filepath.Join(t.TempDir(), "none.sock")} {
		_, err := readLanes(t, "--address", address)
		if err == nil || !strings.HasPrefix(err.Error(), "no Caddy answers at "+address+" (dial ") || !strings.Contains(err.Error(), "): start it, or name") {
			t.Errorf("%s: error %v", address, err)
		}
	}
}

func TestAdminWrongAddress(t *testing.T) {
	for _, flags := range [][]string{
		{"--address", "localhost:20-30"},
		{"--address", "localhost:x"},
		{"--address", "localhost:2019:1"},
		{"--config", "/nowhere/caddy.json"},
	} {
		if _, err := adminAt(t, flags...); !errors.As(err, new(usageError)) {
			t.Errorf("%q: error %v is not one of usage", flags, err)
		}
	}
}

func TestAdminCanceled(t *testing.T) {
	for name, before := range map[string]string{"before the answer": "", "in the answer": "{}\n"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if before == "" {
					cancel()
				}
				fmt.Fprint(w, before)
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}))
			defer server.Close()
			admin, err := adminAt(t, "--address", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			got := ask(ctx, admin, http.MethodPost, adminapi.DeliveriesPath+"/retry", nil, func(struct{}, json.RawMessage) error {
				cancel()
				return nil
			})
			if !errors.Is(got, context.Canceled) {
				t.Errorf("got the error %v", got)
			}
		})
	}
}
