package integration

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// placeholders are those of Caddy's HTTP replacer that have the same value for a route
// with a queue and without one. Those that end with a dot are prefixes there.
var placeholders = map[string][]string{
	"http.request.uri.query.":                 {"http.request.uri.query.a", "http.request.uri.query.none"},
	"http.request.header.":                    {"http.request.header.X-Several", "http.request.header.Content-Length", "http.request.header.X-None"},
	"http.request.cookie.":                    {"http.request.cookie.session", "http.request.cookie.none"},
	"http.request.method":                     {"http.request.method"},
	"http.request.scheme":                     {"http.request.scheme"},
	"http.request.proto":                      {"http.request.proto"},
	"http.request.proto_name":                 {"http.request.proto_name"},
	"http.request.host":                       {"http.request.host"},
	"http.request.port":                       {"http.request.port"},
	"http.request.hostport":                   {"http.request.hostport"},
	"http.request.local":                      {"http.request.local"},
	"http.request.local.host":                 {"http.request.local.host"},
	"http.request.local.port":                 {"http.request.local.port"},
	"http.request.remote":                     {"http.request.remote"},
	"http.request.remote.host":                {"http.request.remote.host"},
	"http.request.remote.port":                {"http.request.remote.port"},
	"http.request.remote.host/":               {"http.request.remote.host/8,64"},
	"http.request.uri":                        {"http.request.uri"},
	"http.request.uri_escaped":                {"http.request.uri_escaped"},
	"http.request.uri.path":                   {"http.request.uri.path"},
	"http.request.uri.path_escaped":           {"http.request.uri.path_escaped"},
	"http.request.uri.path.file":              {"http.request.uri.path.file"},
	"http.request.uri.path.dir":               {"http.request.uri.path.dir"},
	"http.request.uri.path.file.base":         {"http.request.uri.path.file.base"},
	"http.request.uri.path.file.ext":          {"http.request.uri.path.file.ext"},
	"http.request.uri.path.":                  {"http.request.uri.path.0", "http.request.uri.path.1", "http.request.uri.path.9"},
	"http.request.uri.query":                  {"http.request.uri.query"},
	"http.request.uri.query_escaped":          {"http.request.uri.query_escaped"},
	"http.request.uri.prefixed_query":         {"http.request.uri.prefixed_query"},
	"http.request.body":                       {"http.request.body"},
	"http.request.body_base64":                {"http.request.body_base64"},
	"http.request.orig_method":                {"http.request.orig_method"},
	"http.request.orig_uri":                   {"http.request.orig_uri"},
	"http.request.orig_uri.path":              {"http.request.orig_uri.path"},
	"http.request.orig_uri.path.file":         {"http.request.orig_uri.path.file"},
	"http.request.orig_uri.path.file_escaped": {"http.request.orig_uri.path.file_escaped"},
	"http.request.orig_uri.path.dir":          {"http.request.orig_uri.path.dir"},
	"http.request.orig_uri.path.":             {"http.request.orig_uri.path.0", "http.request.orig_uri.path.1"},
	"http.request.orig_uri.query":             {"http.request.orig_uri.query"},
	"http.request.orig_uri.prefixed_query":    {"http.request.orig_uri.prefixed_query"},
	"http.request.host.labels.":               {"http.request.host.labels.0", "http.request.host.labels.1"},
	"http.response.header.":                   {"http.response.header.X-None"},
	"http.shutting_down":                      {"http.shutting_down"},
	"http.time_until_shutdown":                {"http.time_until_shutdown"},
}

// otherwise are those that have another value with a queue, which docs/queue.md says.
var otherwise = []string{
	"http.request.tls.", "http.request.duration", "http.request.duration_ms", "http.request.uuid", "http.vars.",
}

// Beside Caddy's replacer, these have the same value.
var alike = []string{
	"http.vars.client_ip",
	"http.intercom_webhook.kind", "http.intercom_webhook.topic", "http.intercom_webhook.app_id", "http.intercom_webhook.id",
	"http.intercom_webhook.created_at", "http.intercom_webhook.delivery_attempts", "http.intercom_webhook.reason",
	"system.hostname", "time.now.year",
}

// TestPlaceholdersAreAllKnown fails when a newer Caddy has others.
func TestPlaceholdersAreAllKnown(t *testing.T) {
	inCaddy := replacerKeys(t)
	if len(inCaddy) < 40 {
		t.Fatalf("only %d placeholders were found: %q", len(inCaddy), inCaddy)
	}
	for _, key := range inCaddy {
		if _, known := placeholders[key]; !known && !slices.Contains(otherwise, key) {
			t.Errorf("%s is not in this test", key)
		}
	}
	for key := range placeholders {
		if !slices.Contains(inCaddy, key) {
			t.Errorf("Caddy has no %s", key)
		}
	}
}

// replacerKeys returns the placeholders in the source of Caddy's HTTP replacer.
func replacerKeys(t *testing.T) []string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/caddyserver/caddy/v2").Output()
	if err != nil {
		t.Fatalf("looking for Caddy's source: %v", err)
	}
	source := filepath.Join(strings.TrimSpace(string(dir)), "modules", "caddyhttp", "replacer.go")
	file, err := parser.ParseFile(token.NewFileSet(), source, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	ast.Inspect(file, func(n ast.Node) bool {
		literal, ok := n.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		if key, err := strconv.Unquote(literal.Value); err == nil && regexp.MustCompile(`^http\.[a-z0-9_.]+/?$`).MatchString(key) {
			keys = append(keys, key)
		}
		return true
	})
	slices.Sort(keys)
	return slices.Compact(keys)
}

// A route sees the same request with a queue and without one, though with a queue it
// is rebuilt from what is stored.
func TestPlaceholdersAreTheSameWithAQueue(t *testing.T) {
	certificate, trusted := newCertificate(t)
	keys := slices.Clone(alike)
	for _, some := range placeholders {
		keys = append(keys, some...)
	}
	slices.Sort(keys)
	var shown strings.Builder
	for i, key := range keys {
		fmt.Fprintf(&shown, "request_header X-Seen-%d \"[{%s}]\"\n", i, key)
	}

	// a short path, as a socket's must be
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	overTCP := func(g *gateway) net.Conn { return g.dial() }
	for _, c := range []struct {
		name   string
		target string
		setup
		connect func(*gateway) net.Conn
		want    map[string]string // of some, so that not all are empty
	}{
		{"over TCP", "/hooks/a%2Fb/intercom.json?a=1&b=%2F", setup{}, overTCP, map[string]string{
			"http.request.scheme": "http", "http.request.local.host": "127.0.0.1", "http.request.uri.query.a": "1",
			"http.request.orig_uri.path.file": "intercom.json", "http.request.header.X-Several": "one,two",
		}},
		{"by an absolute URI", "http://hooks.example.com:81/intercom?", setup{}, overTCP, map[string]string{
			"http.request.orig_uri": "http://hooks.example.com:81/intercom?", "http.request.uri": "/intercom?",
		}},
		{
			"after rewrites, in front of the handler and in the route", "/secret%2Fpath/intercom?a=1",
			setup{options: "order method before intercom_webhook\norder rewrite before intercom_webhook", webhook: "method PUT\nuri strip_prefix /front", behind: "method POST\nrewrite * /front/new?a=2"}, overTCP, map[string]string{
				"http.request.method": "PUT", "http.request.uri": "/new?a=2",
				"http.request.orig_method": "PATCH", "http.request.orig_uri": "/secret%2Fpath/intercom?a=1",
			},
		},
		{"over TLS", "/intercom", setup{options: "auto_https disable_redirects", behind: certificate}, func(g *gateway) net.Conn {
			return tls.Client(g.dial(), &tls.Config{ServerName: "localhost", RootCAs: trusted})
		}, map[string]string{"http.request.scheme": "https"}},
		{
			"over a Unix socket", "/intercom",
			setup{bind: "unix/" + socket, servers: "trusted_proxies_unix\ntrusted_proxies static 192.0.2.0/24\ntrusted_proxies_strict"},
			func(g *gateway) net.Conn { return dial(g.t, "unix", socket) },
			map[string]string{"http.request.local": socket, "http.request.local.host": socket, "http.vars.client_ip": "127.0.0.1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t, nil)
			route := "route * {\n" + c.webhook + "\n" + shown.String() + "reverse_proxy " + b.address + "\n}\n"
			c.webhook = route
			c.behind += "\n@queued header X-Queued yes\nintercom_webhook @queued {\nclient_secret " + secret + "\nallow static 127.0.0.1\n" +
				route + "queue {\npath " + filepath.Join(t.TempDir(), "queue.db") + "\n}\n}"
			g := newGateway(t)
			if strings.Contains(c.options, "auto_https") {
				c.address = "https://localhost:" + g.port
			}
			if err := g.load(c.setup); err != nil {
				t.Fatal(err)
			}

			// one connection, so that all addresses are the same
			conn := c.connect(g)
			in := bufio.NewReader(conn)
			for _, queued := range []string{"no", "yes"} {
				message := notification(topic, "notif_1")
				host := "hooks.example.com:81"
				if c.address != "" {
					host = "localhost:" + g.port
				}
				method := cmp.Or(c.want["http.request.orig_method"], "POST")
				write(t, conn, method+" "+c.target+" HTTP/1.1\nHost: "+host+"\nX-Queued: "+queued+"\nX-Several: one\nX-Several: two\n"+
					"Cookie: session=abc\nX-Forwarded-For: 127.0.0.1\nContent-Length: "+strconv.Itoa(len(message))+
					"\n"+hubHeader+": "+hubSignature(message, secret)+"\n\n")
				writeBytes(t, conn, message)
				response, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatalf("reading the answer: %v", err)
				}
				if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
					t.Fatalf("queue: %s: status %d, %v", queued, response.StatusCode, err)
				}
			}
			eventually(t, "both were delivered", func() bool { return len(b.all()) >= 2 })

			without, with := b.all()[0], b.all()[1]
			for i, key := range keys {
				name := "X-Seen-" + strconv.Itoa(i)
				want, got := without.header.Get(name), with.header.Get(name)
				if want == "" || want != got {
					t.Errorf("{%s} is %s without a queue, and %s with one", key, want, got)
				}
				if some, ok := c.want[key]; ok && got != "["+some+"]" {
					t.Errorf("{%s} is %s, want %s", key, got, some)
				}
			}
			if !bytes.Equal(without.body, with.body) || len(with.body) == 0 {
				t.Errorf("bodies are %q and %q", without.body, with.body)
			}
		})
	}
}
