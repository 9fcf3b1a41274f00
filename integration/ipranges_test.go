package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

const (
	// behindProxy lets the tests choose the address that is judged: lists with
	// that of this host are refused.
	behindProxy = "trusted_proxies static 127.0.0.1\ntrusted_proxies_strict"

	compiledInAddress = "34.197.76.213" // of the region us
	publishedAddress  = "192.0.2.7"
	anotherAddress    = "198.51.100.9"
)

// publisher publishes lists, as Intercom does, or does whatever else it is told to.
type publisher struct {
	*httptest.Server

	mu     sync.Mutex
	answer http.HandlerFunc
	asked  []received
}

func newPublisher(t *testing.T, addresses ...string) *publisher {
	t.Helper()
	p := new(publisher)
	p.publish(addresses...)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, received{uri: r.RequestURI, header: r.Header.Clone()})
		answer := p.answer
		p.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) does(answer http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *publisher) says(status int, document string) {
	p.does(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, document)
	})
}

func (p *publisher) publish(addresses ...string) { p.says(200, list(addresses...)) }

func (p *publisher) requests() []received {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// source is the IP source with the lists of this publisher, for allow.
func (p *publisher) source(regions, options string) string {
	return fmt.Sprintf("intercom %s {\nurl %s/{region}\n%s\n}", regions, p.URL, options)
}

// list is a document as Intercom publishes it.
func list(addresses ...string) string {
	entries := []string{`{"range":"18.97.36.0/25","region":"US","service":"INTERCOM-ENDPOINTS"}`}
	for _, address := range addresses {
		entries = append(entries, fmt.Sprintf(`{"range":%q,"region":"US","service":"INTERCOM-OUTBOUND"}`, address))
	}
	return `{"ip_ranges":[` + strings.Join(entries, ",") + `],"date":"2026-11-02"}`
}

// lets reports whether an address is let in.
func (g *gateway) lets(address string) bool {
	g.t.Helper()
	answer := g.send(good.with("X-Forwarded-For", address))
	if answer.status != 200 && answer.status != 403 {
		g.t.Errorf("status %d", answer.status)
	}
	return answer.status == 200
}

func (g *gateway) eventuallyLets(address string) {
	g.t.Helper()
	eventually(g.t, address+" is let in", func() bool { return g.lets(address) })
}

// sourceLines returns what the IP source has logged with this level and message.
func (g *gateway) sourceLines(level, message string) []entry {
	g.t.Helper()
	return g.logged(func(e entry) bool {
		return e.text("logger") == "http.ip_sources.intercom" && e.text("level") == level && e.text("msg") == message
	})
}

const (
	usingList   = "using Intercom's addresses"
	listChanged = "Intercom's addresses have changed"
	listStays   = "Intercom's addresses could not be refreshed; the last good list stays in use"
	listFresh   = "Intercom's addresses are fresh again"
	badStored   = "stored list of Intercom's addresses is not used"
)

func TestListIsRefreshed(t *testing.T) {
	p := newPublisher(t, publishedAddress)
	g := start(t, setup{servers: behindProxy, allow: p.source("us", "refresh 20ms"), webhook: "route * { respond 200 }"})
	g.eventuallyLets(publishedAddress)
	if g.lets(compiledInAddress) {
		t.Error("an address that is not published any more is let in")
	}
	if g.lets("18.97.36.1") {
		t.Error("an address that sends no webhooks is let in")
	}
	if path := p.requests()[0].uri; path != "/us" {
		t.Errorf("asked for %s", path)
	}

	p.publish(anotherAddress, publishedAddress+"/31")
	g.eventuallyLets(anotherAddress)
	var changes []entry
	eventually(t, "both changes are logged", func() bool {
		changes = g.sourceLines("info", listChanged)
		return len(changes) == 2
	})
	if fmt.Sprint(changes[1]["added"]) != "[192.0.2.6/31 198.51.100.9/32]" || fmt.Sprint(changes[1]["removed"]) != "[192.0.2.7/32]" {
		t.Errorf("logged %v", changes)
	}
	metrics := g.scrape()
	if got := metrics[`ip_ranges{region="us"}`]; got != 2 {
		t.Errorf("ip_ranges is %v, want 2", got)
	}
	if age, ok := metrics[`ip_ranges_age_seconds{region="us"}`]; !ok || age < 0 || age > 3600 {
		t.Errorf("ip_ranges_age_seconds is %v", age)
	}
	if lines := g.sourceLines("warn", listStays); len(lines) != 0 {
		t.Errorf("warned %v", lines)
	}
}

// The list is never worse than before, whatever comes instead of one.
func TestListThatCannotBeReliedOn(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc // says, if nil
		status int
		says   string
		result string
		reason string
	}{
		{name: "an error", status: 500, says: list(anotherAddress), result: "refused", reason: "status 500"},
		{name: "unchanged, which was not asked", status: 304, result: "refused", reason: "status 304"},
		{name: "HTML", status: 200, says: "<!doctype html><title>Sign in</title>", result: "refused", reason: "not the documented JSON"},
		{name: "an empty list", status: 200, says: list(), result: "refused", reason: "no range of the service INTERCOM-OUTBOUND"},
		{name: "everybody", status: 200, says: list(anotherAddress, "0.0.0.0/0"), result: "refused", reason: "0.0.0.0/0 is wider than /16"},
		{name: "private addresses", status: 200, says: list(anotherAddress, "127.0.0.1"), result: "refused", reason: "127.0.0.1/32 is private"},
		{name: "a cut document", status: 200, says: list(anotherAddress)[:100], result: "refused", reason: "not the documented JSON"},
		{name: "a half-bad document", status: 200, says: list(anotherAddress, "198.51.100.999"), result: "refused", reason: `"198.51.100.999" is not an address range`},
		{name: "30 MB", status: 200, says: list(anotherAddress) + strings.Repeat(" ", 30<<20), result: "refused", reason: "larger than 1048576 bytes"},
		{name: "one that hangs", answer: hang, result: "failed", reason: "context deadline exceeded"},
		{name: "one that hangs up", answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, result: "failed", reason: "no answer: EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPublisher(t, publishedAddress)
			timeout := "10s"
			if c.result == "failed" { // at the timeout, for one of them
				timeout = "200ms"
			}
			g := start(t, setup{
				servers: behindProxy, webhook: "route * { respond 200 }",
				allow: p.source("us", "refresh 10ms\ntimeout "+timeout),
			})
			g.eventuallyLets(publishedAddress)
			before := g.scrape()
			counter := fmt.Sprintf(`ip_ranges_refresh_total{region="us",result=%q}`, c.result)
			if c.answer != nil {
				p.does(c.answer)
			} else {
				p.says(c.status, c.says)
			}
			eventually(t, "several attempts", func() bool { return g.scrape().since(before)[counter] >= 3 })

			if !g.lets(publishedAddress) || g.lets(anotherAddress) || g.lets(compiledInAddress) {
				t.Error("the list is another one")
			}
			if warned := g.sourceLines("warn", listStays); len(warned) != 1 || !strings.Contains(warned[0].text("error"), c.reason) || warned[0].text("region") != "us" {
				t.Errorf("warned %v, want once that %s", warned, c.reason)
			}
			if stored := g.stored("us"); len(stored) != 1 || !strings.Contains(stored[0], publishedAddress) || strings.Contains(stored[0], anotherAddress) {
				t.Errorf("stored %q", stored)
			}

			p.publish(anotherAddress)
			g.eventuallyLets(anotherAddress)
			eventually(t, "a line that all is well", func() bool { return len(g.sourceLines("info", listFresh)) == 1 })
		})
	}
}

// stored returns the lists of a region that are in storage.
func (g *gateway) stored(region string) []string {
	g.t.Helper()
	files, err := filepath.Glob(filepath.Join(g.dir, "intercom_webhook", "ip_ranges", region+"*.json"))
	if err != nil {
		g.t.Fatal(err)
	}
	var contents []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			g.t.Fatal(err)
		}
		contents = append(contents, string(content))
	}
	return contents
}

func TestListIsAskedForOnlyIfItHasChanged(t *testing.T) {
	p := newPublisher(t)
	p.does(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") == `"a"` && r.Header.Get("If-Modified-Since") == "Mon, 02 Nov 2026 09:00:00 GMT" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("ETag", `"a"`)
		w.Header().Set("Last-Modified", "Mon, 02 Nov 2026 09:00:00 GMT")
		_, _ = io.WriteString(w, list(publishedAddress))
	})
	s := setup{servers: behindProxy, allow: p.source("us", "refresh 10ms"), webhook: "route * { respond 200 }"}
	g := start(t, s)
	before := g.scrape()
	eventually(t, "unchanged lists", func() bool {
		return g.scrape().since(before)[`ip_ranges_refresh_total{region="us",result="unchanged"}`] >= 2
	})
	if !g.lets(publishedAddress) {
		t.Error("the list is gone")
	}

	// what a restart finds in storage may be wrong, and is not good for that question
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	n := len(p.requests())
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another request", func() bool { return len(p.requests()) > n })
	if header := p.requests()[n].header; header["If-None-Match"] != nil || header["If-Modified-Since"] != nil {
		t.Errorf("asked with %v after a restart", header)
	}
}

// Neither the start nor requests nor the end wait for a publisher that hangs.
func TestHangingPublisherDelaysNothing(t *testing.T) {
	p := newPublisher(t)
	var ended sync.WaitGroup
	ended.Add(2)
	p.does(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // until the gateway is stopped
		ended.Done()
	})
	g := newGateway(t)
	for range 2 { // with a reload
		if err := g.load(setup{servers: behindProxy, allow: p.source("us eu", "timeout 1h"), webhook: "route * { respond 200 }"}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "both lists are asked for", func() bool { return len(p.requests()) == 2 })
		if !g.lets(compiledInAddress) || g.lets(publishedAddress) {
			t.Error("the list is not the one compiled in")
		}
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	ended.Wait()
}

func TestReloadKeepsTheList(t *testing.T) {
	p := newPublisher(t, publishedAddress)
	s := setup{servers: behindProxy, allow: p.source("us", ""), webhook: "route * { respond 200 }"}
	g := start(t, s)
	g.eventuallyLets(publishedAddress)
	p.publish(anotherAddress) // for an hour, nobody will know

	for _, webhook := range []string{"route * as other { respond 200 }", "timeout 2s\nroute * { respond 200 }"} {
		s.webhook = webhook
		if err := g.load(s); err != nil {
			t.Fatal(err)
		}
		if !g.lets(publishedAddress) {
			t.Error("the list is gone after a reload")
		}
		if err := g.load(setup{servers: behindProxy, allow: s.allow, secrets: "{env.GATEWAY_TEST_UNSET}"}); err == nil {
			t.Error("an unset secret was loaded")
		}
		if !g.lets(publishedAddress) {
			t.Error("the list is gone after a reload that failed")
		}
	}
	if n := len(p.requests()); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
	if lines := g.sourceLines("info", usingList); len(lines) != 1 {
		t.Errorf("logged %v", lines)
	}

	// another setting starts with what is stored
	eventually(t, "the list is stored", func() bool { return len(g.stored("us")) == 1 })
	s.allow = p.source("us", "refresh 0")
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	if !g.lets(publishedAddress) {
		t.Error("the list is gone after a reload with another setting")
	}
	if lines := g.sourceLines("info", usingList); len(lines) != 2 || lines[1].text("source") != "storage" {
		t.Errorf("logged %v", lines)
	}
	if n := len(p.requests()); n != 1 {
		t.Errorf("asked %d times although refresh is 0", n)
	}
}

func TestRestartWithoutNetworkKeepsTheList(t *testing.T) {
	p := newPublisher(t, publishedAddress)
	s := setup{servers: behindProxy, allow: p.source("us", ""), webhook: "route * { respond 200 }"}
	g := start(t, s)
	g.eventuallyLets(publishedAddress)
	eventually(t, "the list is stored", func() bool { return len(g.stored("us")) == 1 })
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	p.Close()

	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	if !g.lets(publishedAddress) || g.lets(compiledInAddress) {
		t.Error("the list is gone after a restart")
	}
	if lines := g.sourceLines("info", usingList); len(lines) != 2 || lines[1].text("source") != "storage" {
		t.Errorf("logged %v", lines)
	}
	eventually(t, "a warning", func() bool { return len(g.sourceLines("warn", listStays)) == 1 })
}

func TestStoredListThatIsBroken(t *testing.T) {
	p := newPublisher(t, publishedAddress)
	s := setup{servers: behindProxy, allow: p.source("us", ""), webhook: "route * { respond 200 }"}
	g := start(t, s)
	eventually(t, "the list is stored", func() bool { return len(g.stored("us")) == 1 })
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(g.dir, "intercom_webhook", "ip_ranges", "*"))
	if err := os.WriteFile(files[0], []byte(`{"ranges":["0.0.0.0/0"],"checked":"2099-01-01T00:00:00Z"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.does(hang)
	if err := g.load(s); err != nil {
		t.Fatal(err)
	}
	if !g.lets(compiledInAddress) || g.lets(anotherAddress) {
		t.Error("the list is not the one compiled in")
	}
	if lines := g.sourceLines("warn", badStored); len(lines) != 1 || !strings.Contains(lines[0].text("error"), "0.0.0.0/0 is wider than /16") {
		t.Errorf("warned %v", lines)
	}
}

func TestOneListForAllWhoWantTheSame(t *testing.T) {
	p := newPublisher(t, publishedAddress)
	g := newGateway(t)
	same := p.source("", "")
	if err := g.load(setup{
		servers: "trusted_proxies " + same + "\ntrusted_proxies_strict",
		allow:   same, webhook: "route * { respond 200 }",
		behind: fmt.Sprintf("}\nhttp://other.test:%s {\nbind 127.0.0.1\nintercom_webhook {\nclient_secret %s\nallow %s\n}\nrespond 200",
			g.port, secret, p.source("au eu us", "refresh 1h\ntimeout 10s")),
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three lists", func() bool { return len(g.sourceLines("info", listChanged)) == 3 })
	paths := make([]string, 0, 3)
	for _, r := range p.requests() {
		paths = append(paths, r.uri)
	}
	slices.Sort(paths)
	if !slices.Equal(paths, []string{"/au", "/eu", "/us"}) {
		t.Errorf("asked for %v", paths)
	}
	metrics := g.scrape()
	for _, region := range []string{"us", "eu", "au"} {
		if got := metrics[fmt.Sprintf("ip_ranges{region=%q}", region)]; got != 1 {
			t.Errorf("ip_ranges of %s is %v, want 1", region, got)
		}
	}
	// a request straight from this host: no proxy is trusted, so its header is not believed
	if g.lets(publishedAddress) {
		t.Error("the header of a proxy that is not trusted is believed")
	}

	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	if strings.Contains(string(stacks), "ipranges.(*refresher)") {
		t.Errorf("left running:\n%s", stacks)
	}
}

func TestValidatingAsksNobody(t *testing.T) {
	p := newPublisher(t, publishedAddress)
	g := newGateway(t)
	config, err := g.adapt(setup{allow: p.source("", ""), webhook: "route * { respond 200 }"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := new(caddy.Config)
	if err := json.Unmarshal(config, cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(cfg); err != nil {
		t.Fatal(err)
	}
	if n := len(p.requests()); n != 0 {
		t.Errorf("asked %d times", n)
	}
}

func TestSourceFromJSON(t *testing.T) {
	p := newPublisher(t, publishedAddress)
	g := newGateway(t)
	config, err := g.adapt(setup{servers: behindProxy, webhook: "route * { respond 200 }"})
	if err != nil {
		t.Fatal(err)
	}
	static := `{"ranges":["127.0.0.1"],"source":"static"}`
	if !strings.Contains(string(config), static) {
		t.Fatalf("no %s in %s", static, config)
	}
	source := fmt.Sprintf(`{"source":"intercom","regions":["eu"],"url":"%s/{region}","refresh":"1h","timeout":"1s"}`, p.URL)
	if err := g.run([]byte(strings.Replace(string(config), `"allow":[`+static, `"allow":[`+source, 1))); err != nil {
		t.Fatal(err)
	}
	g.eventuallyLets(publishedAddress)
	if uri := p.requests()[0].uri; uri != "/eu" {
		t.Errorf("asked for %s", uri)
	}
}

// Without allow, the list is Intercom's own, fetched through the proxy of the environment.
func TestDefaultSourceIsIntercom(t *testing.T) {
	g := start(t, setup{servers: behindProxy, allow: "-", webhook: "route * { respond 200 }"})
	eventually(t, "Intercom is asked", func() bool { return askedProxyFor("static.intercomcdn.com:443") })
	eventually(t, "a warning for each region", func() bool { return len(g.sourceLines("warn", listStays)) == 3 })
	if lines := g.sourceLines("info", usingList); len(lines) != 3 || lines[0].text("source") != "compiled in" || lines[0].text("as_of") != "2026-06-29T00:00:00Z" {
		t.Errorf("logged %v", lines)
	}
	if age := g.scrape()[`ip_ranges_age_seconds{region="au"}`]; age < 86400 {
		t.Errorf("the list is %v s old, but nobody has checked it for long", age)
	}
}

// Logs of their own take what they include, also of what happens in the background.
func TestListIsLoggedWhereItIsWanted(t *testing.T) {
	p := newPublisher(t, publishedAddress)
	g := newGateway(t)
	file := filepath.Join(g.dir, "own.log")
	if err := g.load(setup{
		options: fmt.Sprintf("log own {\noutput file %s\nformat json\ninclude http.ip_sources.intercom\n}", file),
		allow:   p.source("us", ""),
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change is logged", func() bool {
		content, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(content), usingList) && strings.Contains(string(content), listChanged)
	})
}

func TestListOverPlainHTTPIsWarnedOf(t *testing.T) {
	p := newPublisher(t, publishedAddress)
	g := start(t, setup{allow: p.source("us", "")})
	if lines := g.sourceLines("warn", "url is http, not https: anybody on the network path can decide which addresses are allowed; use https"); len(lines) != 1 {
		t.Errorf("logged %v", lines)
	}
}
