package integration

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-intercom/caddy-intercom-webhook"
	_ "github.com/caddy-intercom/caddy-intercom-webhook/queue"
)

const (
	secret = "5e7c0ffee-of-the-integration-tests"

	// patience bounds every wait for something that must happen.
	patience = 30 * time.Second

	hubHeader  = "X-Hub-Signature"
	bodyHeader = "X-Body-Signature"

	// module is the name of this module's own logger.
	module = "http.handlers.intercom_webhook"
)

// setup says how a gateway differs from the usual one.
type setup struct {
	options string // more global options
	servers string // options of all servers
	address string // of the site; http://:PORT if empty
	bind    string // 127.0.0.1 if empty
	secrets string // arguments of client_secret; secret if empty
	allow   string // arguments of allow; static 127.0.0.1 if empty, the subdirective left out if "-"
	webhook string // more subdirectives of intercom_webhook
	only    string // what intercom_webhook is limited to, as in a named matcher; nothing if empty
	behind  string // more directives of the site
	admin   bool   // switch the admin API on
}

// gateway is the Caddy of this process. There is one at a time.
type gateway struct {
	t       *testing.T
	port    string
	metrics string // address of the listener for metrics
	admin   string // address of the admin API
	dir     string
	client  *http.Client
	loaded  atomic.Int64 // when a config was loaded last, in nanoseconds since 1970
}

// start runs a Caddy with one site that has intercom_webhook in it, and stops it
// at the end of the test.
func start(t *testing.T, s setup) *gateway {
	t.Helper()
	g := newGateway(t)
	if err := g.load(s); err != nil {
		t.Fatalf("loading the config: %v", err)
	}
	return g
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	transport := &http.Transport{DisableCompression: true}
	ports := freePorts(t, 3)
	g := &gateway{
		t: t, port: ports[0], metrics: "127.0.0.1:" + ports[1], admin: "127.0.0.1:" + ports[2], dir: t.TempDir(),
		client: &http.Client{
			Transport:     transport,
			Timeout:       patience,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
	})
	return g
}

// load runs a config, in place of the one that runs already if there is one.
func (g *gateway) load(s setup) error {
	config, err := g.adapt(s)
	if err != nil {
		return err
	}
	return g.run(config)
}

func (g *gateway) run(config []byte) error {
	defer func() { g.loaded.Store(time.Now().UnixNano()) }()
	err := caddy.Load(config, true)
	g.awaitOneListener()
	return err
}

// awaitOneListener returns when the listening sockets of the former config are closed. Caddy
// opens those of the next beside them (SO_REUSEPORT) and closes the former a moment after it
// says that the config is loaded, together with the connections that the kernel queued there:
// a command that a test starts right then would find its connection broken.
func (g *gateway) awaitOneListener() {
	g.t.Helper()
	for _, address := range []string{"127.0.0.1:" + g.port, g.metrics} {
		eventually(g.t, "one config listens on "+address, func() bool { return caddy.ListenerUsage("tcp", address) <= 1 })
	}
}

func (g *gateway) adapt(s setup) ([]byte, error) {
	admin := "off"
	if s.admin {
		admin = g.admin
	}
	allow := "allow " + cmp.Or(s.allow, "static 127.0.0.1")
	if s.allow == "-" {
		allow = ""
	}
	matcher, only := "", ""
	if s.only != "" {
		matcher, only = "@only {\n"+s.only+"\n}", "@only"
	}
	config := splitBlocks(fmt.Sprintf(`
		{
			admin %s
			persist_config off
			storage file_system %s
			skip_install_trust
			grace_period 2s
			log default {
				output file %s
				format json
				level DEBUG
			}
			servers {
				%s
			}
			%s
		}
		%s {
			bind %s
			log
			%s
			intercom_webhook %s {
				client_secret %s
				%s
				%s
			}
			%s
		}
		http://%s {
			bind 127.0.0.1
			metrics /
			respond /bare 200
		}`,
		admin, g.dir, g.logFile(), s.servers, s.options,
		cmp.Or(s.address, "http://:"+g.port), cmp.Or(s.bind, "127.0.0.1"), matcher, only,
		cmp.Or(s.secrets, secret), allow, s.webhook, s.behind, g.metrics))
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	return adapted, err
}

// splitBlocks puts each brace that opens or closes a block of one line on a line of
// its own, so that tests can write blocks in one line.
func splitBlocks(config string) string {
	var lines []string
	for line := range strings.Lines(config) {
		line = strings.ReplaceAll(strings.TrimSpace(line), "{ ", "{\n")
		lines = append(lines, strings.ReplaceAll(line, " }", "\n}"))
	}
	return strings.Join(lines, "\n")
}

// nextPort is where freePorts looks next. The ports are below those that the system gives to
// connections, which would take one between the test's look and the program's start.
var nextPort = 10_000 + rand.IntN(10_000)

// freePorts returns ports on which nobody listens, a different one each time.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	ports := make([]string, 0, n)
	for len(ports) < n {
		if nextPort++; nextPort >= 32_000 {
			nextPort = 10_000
		}
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(nextPort))
		if err != nil {
			continue // somebody has it
		}
		listener.Close()
		ports = append(ports, strconv.Itoa(nextPort))
	}
	return ports
}

var portsMu sync.Mutex // protects nextPort

func freePort(t *testing.T) string {
	t.Helper()
	return freePorts(t, 1)[0]
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain for: %s", patience, what)
		}
	}
}

// ----- what goes to the gateway -----

// notification builds the body of a notification, in the key order that Intercom
// uses on the wire: the topic follows the data.
func notification(topic, id string) []byte {
	return fmt.Appendf(nil, `{"type":"notification_event","app_id":"tulip4","data":{"type":"notification_event_data",`+
		`"item":{"type":"conversation","id":"77","topic":"decoy.topic","id":"decoy","app_id":"decoy","created_at":3,`+
		`"source":{"body":"<p>Grüße, ça va? 🌷</p>","url":null},"topics":{"type":"topic.list","topics":[]}}},`+
		`"links":{},"id":%q,"topic":%q,"delivery_status":"pending","delivery_attempts":1,"delivered_at":0,`+
		`"first_sent_at":1780000000,"created_at":1780000001,"self":null}`, id, topic)
}

// ping is a ping as Intercom sends it: with null where others have an id.
var ping = []byte(`{"type":"notification_event","app_id":"tulip4","data":{"type":"notification_event_data","item":{"type":"ping","message":"hello"}},` +
	`"links":{},"id":null,"topic":"ping","delivery_status":null,"delivery_attempts":1,"delivered_at":0,"first_sent_at":1780000000,"created_at":1780000001,"self":null}`)

func hubSignature(body []byte, key string) string {
	mac := hmac.New(sha1.New, []byte(key))
	mac.Write(body)
	return "sha1=" + hex.EncodeToString(mac.Sum(nil))
}

func bodySignature(body []byte, key string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// message is a request to send. A header named in it replaces the usual one; one
// without values is left out.
type message struct {
	method  string // POST if empty
	path    string // / if empty
	host    string // the gateway's address if empty
	body    []byte
	header  http.Header
	chunked bool
}

// signed is a notification with a valid signature.
func signed(body []byte) message {
	return message{body: body, header: http.Header{hubHeader: {hubSignature(body, secret)}}}
}

// signedApp is an app request with a valid signature.
func signedApp(body []byte) message {
	return message{body: body, header: http.Header{bodyHeader: {bodySignature(body, secret)}}}
}

func (m message) with(name string, values ...string) message {
	m.header = m.header.Clone()
	if m.header == nil {
		m.header = make(http.Header)
	}
	m.header[name] = values // as it is written, which Set would change
	return m
}

func (m message) to(path string) message {
	m.path = path
	return m
}

func (m message) at(host string) message {
	m.host = host
	return m
}

// reply is the answer to a message.
type reply struct {
	status int
	header http.Header
	body   string
	closes bool // the connection
}

func (g *gateway) request(m message) (*http.Request, error) {
	var body io.Reader = bytes.NewReader(m.body)
	if m.chunked {
		body = struct{ io.Reader }{body} // hides the length
	}
	r, err := http.NewRequest(cmp.Or(m.method, http.MethodPost), "http://127.0.0.1:"+g.port+cmp.Or(m.path, "/"), body)
	if err != nil {
		return nil, err
	}
	r.Host = m.host
	r.Header.Set("Content-Type", "application/json")
	maps.Copy(r.Header, m.header)
	return r, nil
}

// try sends a message once, so that nothing hides that it gets no answer.
func (g *gateway) try(m message) (reply, error) {
	r, err := g.request(m)
	if err != nil {
		return reply{}, err
	}
	response, err := g.client.Do(r)
	if err != nil {
		return reply{}, err
	}
	return readReply(response)
}

// afterReload is how long after a reload the connections of the former config may break.
const afterReload = time.Second

// do sends a request of which only the answer matters. Right after a reload it does so
// again if the connection broke before there was any answer: Caddy has then opened a second
// listening socket beside the first (SO_REUSEPORT), and closes the first together with what
// the kernel had queued there. Tests of what could be lost use try.
func (g *gateway) do(build func() (*http.Request, error)) (reply, error) {
	for {
		began := time.Now()
		r, err := build()
		if err != nil {
			return reply{}, err
		}
		response, err := g.client.Do(r)
		if err == nil {
			return readReply(response)
		}
		if began.Sub(time.Unix(0, g.loaded.Load())) > afterReload {
			return reply{}, err
		}
	}
}

func readReply(response *http.Response) (reply, error) {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(body), response.Close}, err
}

func (g *gateway) send(m message) reply {
	g.t.Helper()
	answer, err := g.do(func() (*http.Request, error) { return g.request(m) })
	if err != nil {
		g.t.Fatalf("sending to the gateway: %v", err)
	}
	return answer
}

// expect sends and asserts the status of the answer.
func (g *gateway) expect(status int, m message) reply {
	g.t.Helper()
	answer := g.send(m)
	if answer.status != status {
		g.t.Errorf("status %d, want %d", answer.status, status)
	}
	return answer
}

// expectTooLarge sends what is too large to be let in.
func (g *gateway) expectTooLarge(m message) {
	g.t.Helper()
	const refused = `refused_total{reason="too_large"}`
	before := g.scrape()
	answer, err := g.try(m)
	switch {
	case err == nil && answer.status != http.StatusRequestEntityTooLarge:
		g.t.Errorf("status %d, want 413", answer.status)
	// The gateway need not read to the end. A client that is still sending when the
	// connection goes can miss the answer; that it comes is asserted elsewhere.
	case err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET):
		g.t.Errorf("error %v, want 413", err)
	}
	eventually(g.t, "the refusal is counted", func() bool { return g.scrape().since(before)[refused] == 1 })
}

// dial opens a connection on which a test writes what an HTTP client would not.
func (g *gateway) dial() net.Conn {
	g.t.Helper()
	return dial(g.t, "tcp", "127.0.0.1:"+g.port)
}

func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatalf("dialing the gateway: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// write sends text, with its line breaks made those of HTTP.
func write(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	writeBytes(t, conn, []byte(strings.ReplaceAll(text, "\n", "\r\n")))
}

func writeBytes(t *testing.T, conn net.Conn, data []byte) {
	t.Helper()
	if _, err := conn.Write(data); err != nil {
		t.Fatalf("writing to the gateway: %v", err)
	}
}

// read reads one answer from the connection, interim ones not left out.
func read(t *testing.T, conn net.Conn) reply {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	answer, err := readReply(response)
	if err != nil {
		t.Fatalf("reading the answer's body: %v", err)
	}
	return answer
}

// ----- backends -----

// received is a request as a backend got it.
type received struct {
	method, uri      string
	host             string
	header           http.Header
	trailer          http.Header
	body             []byte
	length           int64
	transferEncoding []string
}

// backend records what it gets, and answers as it is told.
type backend struct {
	address string

	mu  sync.Mutex
	got []received
}

// newBackend starts a backend. It answers 200 if it is not told how.
func newBackend(t *testing.T, answer http.HandlerFunc) *backend {
	t.Helper()
	b := new(backend)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // half a request is none; what the gateway made of it is asserted elsewhere
		}
		b.mu.Lock()
		b.got = append(b.got, received{
			r.Method, r.RequestURI, r.Host, r.Header.Clone(), r.Trailer.Clone(), body, r.ContentLength, r.TransferEncoding,
		})
		b.mu.Unlock()
		if answer != nil {
			answer(w, r)
		}
	}))
	t.Cleanup(server.Close)
	b.address = server.Listener.Addr().String()
	return b
}

// answering is a backend that gives each request the same status.
func answering(t *testing.T, status int) *backend {
	return newBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
}

func (b *backend) all() []received {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

// only returns the one request that the backend must have got.
func (b *backend) only(t *testing.T) received {
	t.Helper()
	got := b.all()
	if len(got) != 1 {
		t.Fatalf("the backend got %d requests, want 1", len(got))
	}
	return got[0]
}

func (b *backend) wantCount(t *testing.T, want int) {
	t.Helper()
	if got := len(b.all()); got != want {
		t.Errorf("the backend got %d requests, want %d", got, want)
	}
}

// newRawBackend starts a backend that speaks no HTTP of its own: serve gets each
// connection, with its place in their order and its first request already read.
func newRawBackend(t *testing.T, serve func(conn net.Conn, place int, body []byte)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("starting a backend: %v", err)
	}
	var connections sync.WaitGroup
	var places atomic.Int32
	connections.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() {
				defer conn.Close()
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				if body, err := io.ReadAll(r.Body); err == nil {
					serve(conn, int(places.Add(1)), body)
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		connections.Wait()
	})
	return listener.Addr().String()
}

// saying is a raw backend that says the same on each connection and hangs up.
func saying(t *testing.T, text string) (address string) {
	return newRawBackend(t, func(conn net.Conn, _ int, _ []byte) {
		_, _ = io.WriteString(conn, strings.ReplaceAll(text, "\n", "\r\n")) // the gateway may be gone
	})
}

// Addresses at which nobody listens. A port that the kernel gives away would not
// do: it could give it to somebody else meanwhile.
const (
	nobody     = "127.0.0.1:1"
	nobodyElse = "127.0.0.1:2"
)

// hang keeps a backend busy until the gateway gives it up.
func hang(_ http.ResponseWriter, r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-time.After(patience):
	}
}

// ----- metrics and logs -----

// series is all that the gateway's metrics say, by name with labels.
type series map[string]float64

func (g *gateway) scrape() series {
	g.t.Helper()
	page, err := g.do(func() (*http.Request, error) { return http.NewRequest(http.MethodGet, "http://"+g.metrics, nil) })
	if err != nil {
		g.t.Fatalf("scraping the metrics: %v", err)
	}
	all := make(series)
	for line := range strings.Lines(page.body) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ours := strings.TrimPrefix(name, "caddy_intercom_webhook_"); ok && ours != name {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				g.t.Fatalf("metrics have %q: %v", line, err)
			}
			all[ours] = n
		}
	}
	return all
}

// since returns what has grown, or is new, since an earlier scrape.
func (s series) since(earlier series) series {
	grown := make(series)
	for name, value := range s {
		if n := value - earlier[name]; n != 0 {
			grown[name] = n
		}
	}
	return grown
}

// of returns the series of one metric.
func (s series) of(metric string) series {
	some := make(series)
	for name, value := range s {
		if strings.HasPrefix(name, metric+"{") || name == metric {
			some[name] = value
		}
	}
	return some
}

// entry is a line of the log.
type entry map[string]any

func (e entry) text(key string) string {
	s, _ := e[key].(string)
	return s
}

// ours reports whether this module wrote the line.
func (e entry) ours() bool { return strings.HasPrefix(e.text("logger"), module) }

// uri returns the URI of the request that an access log's line is about.
func (e entry) uri() string {
	request, _ := e["request"].(map[string]any)
	return entry(request).text("uri")
}

// tag returns the object that this module adds to an access log's line.
func (e entry) tag() entry {
	fields, _ := e["intercom_webhook"].(map[string]any)
	return fields
}

func (g *gateway) logFile() string { return filepath.Join(g.dir, "caddy.log") }

func (g *gateway) log() []entry {
	g.t.Helper()
	text, err := os.ReadFile(g.logFile())
	if err != nil {
		g.t.Fatalf("reading the log: %v", err)
	}
	var entries []entry
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // still being written
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			g.t.Fatalf("log line %q: %v", line, err)
		}
		entries = append(entries, e)
	}
	return entries
}

// logged returns the log's lines of which something is true.
func (g *gateway) logged(is func(entry) bool) []entry {
	g.t.Helper()
	return slices.DeleteFunc(g.log(), func(e entry) bool { return !is(e) })
}

// warnings returns this module's own lines at WARN whose message has some text.
func (g *gateway) warnings(text string) []entry {
	g.t.Helper()
	return g.logged(func(e entry) bool {
		return e.ours() && e.text("level") == "warn" && strings.Contains(e.text("msg"), text)
	})
}

// access waits for the access log's line on a URI, which must be the only request
// for it.
func (g *gateway) access(uri string) entry {
	g.t.Helper()
	var lines []entry
	eventually(g.t, "access log line of "+uri, func() bool {
		lines = g.logged(func(e entry) bool {
			return strings.HasPrefix(e.text("logger"), "http.log.access") && e.uri() == uri
		})
		return len(lines) > 0
	})
	return lines[0]
}
