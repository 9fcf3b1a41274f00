package integration

import (
	"fmt"
	"html"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// queueIn is a queue in a file of a folder. What fails once is a dead letter.
func queueIn(dir string) string {
	return fmt.Sprintf("queue { path %s\nmax_attempts 1 }", filepath.Join(dir, "queue.db"))
}

// atUI is a request of somebody who looks at the UI.
func atUI(path string) message { return message{method: http.MethodGet, path: path} }

// deadLetters returns the page of the UI under /queue that lists them.
func (g *gateway) deadLetters() string {
	g.t.Helper()
	return g.expect(200, atUI("/queue/deliveries?state=dead")).body
}

func (g *gateway) awaitDeadLetter(id string) {
	g.t.Helper()
	eventually(g.t, id+" being listed as a dead letter", func() bool { return strings.Contains(g.deadLetters(), id) })
}

// asForm is a form that a browser sends.
func asForm(path, fields string) message {
	return message{path: path, body: []byte(fields)}.with("Content-Type", "application/x-www-form-urlencoded")
}

// dropped is the order to drop a delivery.
func dropped(prefix string) message {
	return asForm(prefix+"/change", "verb=drop&confirmed=yes&endpoint=intercom&delivery=100")
}

var shownDelivery = regexp.MustCompile(`delivery=(\d+)`)

// deadDelivery returns the number of the only delivery of a notification.
func (g *gateway) deadDelivery(id string) string {
	g.t.Helper()
	found := shownDelivery.FindStringSubmatch(g.expect(200, atUI("/queue/notification?id="+id)).body)
	if found == nil {
		g.t.Fatalf("%s has no button", id)
	}
	return found[1]
}

// besideUI keeps intercom_webhook, which comes first, off the pages under /queue.
const besideUI = "not path /queue /queue/* /other"

// linked are the links to this site.
var linked = regexp.MustCompile(`(?:href|src)="(/[^"]+)"`)

func TestQueueUIAnswersUnderItsPrefixOnly(t *testing.T) {
	for name, prefix := range map[string]string{"given without a slash behind it": "/queue", "given with a slash behind it": "/queue/"} {
		t.Run(name, func(t *testing.T) {
			g := start(t, setup{only: besideUI, webhook: "route * as support { respond 200 }\n" + queueIn(t.TempDir()), behind: "intercom_queue_ui " + prefix})

			if to := g.expect(307, atUI("/queue")).header.Get("Location"); to != "/queue/" {
				t.Errorf("/queue leads to %q, want /queue/", to)
			}
			page := g.expect(200, atUI("/queue/"))
			if !strings.Contains(page.body, "<title>Overview – Intercom queue</title>") || !strings.Contains(page.body, "support") {
				t.Errorf("this is not the UI with its lane: %s", page.body)
			}
			links := linked.FindAllStringSubmatch(page.body, -1)
			if len(links) == 0 {
				t.Errorf("the page loads nothing: %s", page.body)
			}
			for _, link := range links {
				if g.expect(200, atUI(html.UnescapeString(link[1]))); !strings.HasPrefix(link[1], "/queue/") {
					t.Errorf("the page leads to %s", link[1])
				}
			}
			g.expect(404, atUI("/queue/api/jobs"))

			for _, path := range []string{"/", "/deliveries", "/queue.", "/changes", "/style.css", "/other/queue/"} {
				if allowed := g.expect(405, atUI(path)).header.Get("Allow"); allowed != "HEAD, POST" {
					t.Errorf("%s is not answered by intercom_webhook: Allow is %q", path, allowed)
				}
			}
			g.expect(200, good)
		})
	}
}

func TestQueueUIWithSeveralDatabases(t *testing.T) {
	broken := answering(t, 500)
	one, two := queueIn(t.TempDir()), queueIn(t.TempDir())
	site := func(ui string) setup {
		route := "route * to " + broken.address + "\n"
		return setup{
			only:    besideUI,
			webhook: route + one,
			behind:  fmt.Sprintf("intercom_webhook /other { client_secret %s\nallow static 127.0.0.1\n%s%s }\nintercom_queue_ui /queue %s", secret, route, two, ui),
		}
	}

	t.Run("is refused where it names none", func(t *testing.T) {
		err := newGateway(t).load(site(""))
		if err == nil || !strings.Contains(err.Error(), "intercom_queue_ui: the config has several queues: name one in its block") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("is refused by validate, too, whatever is first", func(t *testing.T) {
		for _, sites := range []string{"intercom_queue_ui /queue\nWEBHOOKS", "WEBHOOKS\nintercom_queue_ui /queue"} {
			webhooks := ""
			for path, queue := range map[string]string{"/one": one, "/two": two} {
				webhooks += fmt.Sprintf("intercom_webhook %s {\nclient_secret %s\nroute * to 127.0.0.1:1\n%s\n}\n", path, secret, queue)
			}
			file := filepath.Join(t.TempDir(), "Caddyfile")
			config := "{\nadmin off\n}\nhttp://localhost {\nroute {\n" + strings.Replace(sites, "WEBHOOKS", splitBlocks(webhooks), 1) + "\n}\n}\n"
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			found, _ := doctor(t, "--config", file)
			wantFinding(t, found, "broken", "intercom_queue_ui: the config has several queues: name one in its block")
		}
	})
	t.Run("is refused where it names one that no handler has", func(t *testing.T) {
		err := newGateway(t).load(site("{ " + queueIn(t.TempDir()) + " }"))
		if err == nil || !strings.Contains(err.Error(), "intercom_queue_ui: no intercom_webhook of the config has such a queue") {
			t.Errorf("error is %v", err)
		}
	})
	for name, queue := range map[string]string{"one": one, "two": two} {
		t.Run("shows the one that it names: "+name, func(t *testing.T) {
			g := start(t, site("{ "+queue+" }"))
			ids := map[string]string{"one": "notif_in_one", "two": "notif_in_two"}
			g.expect(200, signed(notification(topic, ids["one"])))
			g.expect(200, signed(notification(topic, ids["two"])).to("/other"))
			eventually(t, "both being attempted", func() bool {
				attempted := make(map[string]bool)
				for _, got := range broken.all() {
					attempted[got.header.Get("X-Intercom-Notification-Id")] = true
				}
				return attempted[ids["one"]] && attempted[ids["two"]]
			})
			g.awaitDeadLetter(ids[name])
			for other, id := range ids {
				if other != name && strings.Contains(g.deadLetters(), id) {
					t.Errorf("%s of the other queue is listed", id)
				}
			}
		})
	}
}

func TestQueueUIWithoutQueueIsRefused(t *testing.T) {
	err := newGateway(t).load(setup{only: besideUI, webhook: "route * { respond 200 }", behind: "intercom_queue_ui /queue"})
	if err == nil || !strings.Contains(err.Error(), "intercom_queue_ui: no intercom_webhook of the config has such a queue") {
		t.Errorf("error is %v", err)
	}
}

const hash = "$2a$04$4Ud4zUMmMseVSLzX5nSlNuQZKmTP5CZZmroa2DAbxsQ1aW85VGMsW" // of "tulips"

// The UI is behind what authenticates, however its path is written, and the webhook
// is not.
func TestQueueUIBehindBasicAuth(t *testing.T) {
	g := start(t, setup{
		only:    besideUI,
		webhook: "route * { respond 200 }\n" + queueIn(t.TempDir()),
		behind:  "basic_auth /queue* { ops " + hash + " }\nintercom_queue_ui /queue",
	})
	for _, path := range []string{
		"/queue", "/queue/", "/queue/deliveries", "/queue/notification?id=1", "/queue/style.css", "/QUEUE/deliveries", "//queue/deliveries", "/queue//deliveries",
		"/%71ueue/deliveries", "/queue%2Fdeliveries", "/other/../queue/deliveries", "/queue/../queue/deliveries",
	} {
		if asked := g.expect(401, atUI(path)).header.Get("Www-Authenticate"); !strings.HasPrefix(asked, "Basic ") {
			t.Errorf("%s asks for no credentials: Www-Authenticate is %q", path, asked)
		}
	}
	g.expect(401, dropped("/queue"))

	authorization := func(user, password string) string {
		r := http.Request{Header: make(http.Header)}
		r.SetBasicAuth(user, password)
		return r.Header.Get("Authorization")
	}
	g.expect(401, atUI("/queue/").with("Authorization", authorization("ops", "roses")))
	ops := authorization("ops", "tulips")
	g.expect(200, atUI("/queue/").with("Authorization", ops))
	for _, path := range []string{"/queue/", "/queue/deliveries"} {
		g.expect(401, atUI(path).at("hooks.example"))
		g.expect(200, atUI(path).at("hooks.example").with("Authorization", ops))
	}
	g.expect(307, atUI("/queue").at("hooks.example").with("Authorization", ops))
	g.expect(200, good)
}

// strangers are requests that somebody on another machine can have sent. The gateway
// trusts the proxy on this machine, which says where they are from.
var strangers = map[string]func(message) message{
	"by a name that leads to this machine": func(m message) message { return m.at("attacker.example") },
	"by the name of the site":              func(m message) message { return m.at("hooks.example:8080") },
	"through a proxy on this machine":      func(m message) message { return m.with("X-Forwarded-For", "203.0.113.9") },
	"through a proxy that says so":         func(m message) message { return m.with("Via", "1.1 proxy") },
	"with a password that nobody asks for": func(m message) message {
		return m.at("hooks.example").with("Authorization", "Basic b3BzOnR1bGlwcw==")
	},
}

const trustingTheProxy = "trusted_proxies static 127.0.0.1\ntrusted_proxies_strict"

// unauthenticatedUI are the warnings at load that the UI is open.
func (g *gateway) unauthenticatedUI() []entry {
	g.t.Helper()
	return g.logged(func(e entry) bool {
		return e.text("level") == "warn" && strings.Contains(e.text("msg"), "intercom_queue_ui is unauthenticated")
	})
}

func TestQueueUIIsForThisMachine(t *testing.T) {
	broken := answering(t, 500)
	g := start(t, setup{
		only:    besideUI,
		servers: trustingTheProxy,
		webhook: "route * to " + broken.address + "\n" + queueIn(t.TempDir()), behind: "intercom_queue_ui /queue",
	})
	g.expect(200, signed(notification(topic, "notif_dead")))
	g.awaitDeadLetter("notif_dead")

	requests := []message{
		atUI("/queue"), atUI("/queue/"), atUI("/queue/deliveries"), atUI("/queue/notification?id=1"), atUI("/queue/changes"), atUI("/queue/style.css"),
		atUI("/QUEUE/deliveries"), atUI("//queue/deliveries"), atUI("/%71ueue/deliveries"), atUI("/queue%2Fdeliveries"), atUI("/other/../queue/deliveries"),
		{method: http.MethodHead, path: "/queue/deliveries"},
		dropped("/queue"), asForm("/queue/lane", "endpoint=intercom&lane=default&action=pause"),
	}
	for name, from := range strangers {
		t.Run("and not asked "+name, func(t *testing.T) {
			for _, m := range requests {
				if answer := g.send(from(m)); answer.status != 403 || answer.body != "" {
					t.Errorf("%s %s is answered %d %q, want 403", m.method, m.path, answer.status, answer.body)
				}
			}
		})
	}
	t.Run("and says why, without a word of the sender", func(t *testing.T) {
		refusals := g.logged(func(e entry) bool {
			return e.text("level") == "warn" && strings.HasPrefix(e.text("msg"), "refused request for intercom_queue_ui: ")
		})
		if len(refusals) == 0 {
			t.Error("no warning of a refused request")
		}
		for _, e := range refusals {
			if text := fmt.Sprint(e); strings.Contains(text, "example") || e.text("remote_addr") == "" || e.text("client_ip") == "" {
				t.Errorf("warning %s", text)
			}
		}
	})

	g.expect(307, atUI("/queue"))
	g.expect(200, atUI("/queue/").at("localhost:"+g.port))
	if letters := g.deadLetters(); !strings.Contains(letters, "notif_dead") {
		t.Errorf("the dead letter is not in %s", letters)
	}
	if got := g.unauthenticatedUI(); len(got) != 0 {
		t.Errorf("warnings at load: %v", got)
	}
}

// What guards a site guards the UI, as it guards reverse_proxy, and however its lines are
// ordered.
func TestQueueUIIsBehindAllGuards(t *testing.T) {
	const ui = "intercom_queue_ui /queue { unauthenticated hooks.example }"
	asked := atUI("/queue/").at("hooks.example")
	drop := dropped("/queue").at("hooks.example")
	for name, c := range map[string]struct {
		guard  string
		status int
	}{
		"abort":      {ui + "\nabort @denied", 0},
		"error":      {ui + "\nerror @denied 403", 403},
		"respond":    {ui + "\nrespond @denied 403", 403},
		"basic_auth": {ui + "\nbasic_auth @denied { ops " + hash + " }", 401},
		"handle":     {"handle @denied { respond 403 }\nhandle { " + ui + " }", 403},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, setup{
				only:    besideUI + "\n}\n@denied {\nnot header Cookie ops",
				webhook: "route * { respond 200 }\n" + queueIn(t.TempDir()), behind: c.guard,
			})
			for _, m := range []message{asked, drop, asked.to("/queue/deliveries"), {method: http.MethodHead, path: "/queue/", host: "hooks.example"}} {
				if answer, err := g.try(m); err == nil && answer.status != c.status || err != nil && c.status != 0 {
					t.Errorf("%s %s is answered %d (%v), want %d", m.method, m.path, answer.status, err, c.status)
				}
			}
			g.expect(200, asked.with("Cookie", "ops"))
			g.expect(303, drop.with("Cookie", "ops"))
		})
	}
}

// forward_auth lets requests pass without a word about who sent them.
func TestQueueUIGuardedInAnotherWay(t *testing.T) {
	guard := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "ops" {
			w.WriteHeader(401)
		}
	})
	site := func(block string) setup {
		return setup{
			only:    besideUI,
			servers: trustingTheProxy,
			webhook: "route * { respond 200 }\n" + queueIn(t.TempDir()),
			behind:  "forward_auth /queue* " + guard.address + " { uri /check }\nintercom_queue_ui /queue " + block,
		}
	}
	ops := atUI("/queue/").at("hooks.example").with("Cookie", "ops")

	t.Run("answers nobody else without the word unauthenticated", func(t *testing.T) {
		start(t, site("")).expect(403, ops)
	})
	t.Run("answers whom the guard lets pass, with that word, and warns at load", func(t *testing.T) {
		g := start(t, site("{ unauthenticated hooks.example }"))
		g.expect(200, ops)
		g.expect(403, ops.at("attacker.example"))
		g.expect(200, ops.with("X-Forwarded-For", "203.0.113.9"))
		g.expect(401, atUI("/queue/").at("hooks.example"))
		if got := g.unauthenticatedUI(); len(got) != 1 || got[0].text("prefix") != "/queue" {
			t.Errorf("warnings at load: %v", got)
		}
	})
}

func TestQueueUIGoesOnAfterReloads(t *testing.T) {
	broken, mended := answering(t, 500), newBackend(t, nil)
	queue := queueIn(t.TempDir())
	const ui = "intercom_queue_ui /queue"
	g := start(t, setup{only: besideUI, webhook: "route * to " + broken.address + "\n" + queue, behind: ui})
	g.expect(200, signed(notification(topic, "notif_dead")))
	g.awaitDeadLetter("notif_dead")

	for _, address := range []string{broken.address, mended.address} {
		if err := g.load(setup{only: besideUI, webhook: "route * to " + address + "\n" + queue, behind: ui}); err != nil {
			t.Fatal(err)
		}
		if letters := g.deadLetters(); !strings.Contains(letters, "notif_dead") {
			t.Errorf("the dead letter is not in %s", letters)
		}
	}
	for _, step := range []struct {
		ui     string
		status int
	}{{"", 405}, {ui, 200}} {
		s := setup{webhook: "route * to " + mended.address + "\n" + queue, behind: step.ui}
		if step.ui != "" {
			s.only = besideUI
		}
		if err := g.load(s); err != nil {
			t.Fatal(err)
		}
		g.expect(step.status, atUI("/queue/"))
	}

	mended.wantCount(t, 0)
	g.expect(303, asForm("/queue/change", "verb=retry&confirmed=yes&endpoint=intercom&delivery="+g.deadDelivery("notif_dead")))
	eventually(t, "the dead letter being delivered", func() bool { return len(mended.all()) == 1 })
	if got := mended.only(t).header.Get("X-Intercom-Attempt"); got != "1" {
		t.Errorf("the backend is told of attempt %q, want 1: the retry has its whole schedule again", got)
	}
}

// A page of somebody else can have the browser of who is logged in send a form here,
// together with the password.
func TestQueueUITakesNoOrdersFromOtherSites(t *testing.T) {
	broken := answering(t, 500)
	g := start(t, setup{only: besideUI, webhook: "route * to " + broken.address + "\n" + queueIn(t.TempDir()), behind: "intercom_queue_ui /queue"})
	g.expect(200, signed(notification(topic, "notif_dead")))
	g.awaitDeadLetter("notif_dead")

	order := asForm("/queue/change", "verb=drop&confirmed=yes&endpoint=intercom&delivery="+g.deadDelivery("notif_dead"))
	g.expect(403, order.with("Sec-Fetch-Site", "cross-site"))
	g.expect(403, order.with("Origin", "https://other.example"))
	if letters := g.deadLetters(); !strings.Contains(letters, "notif_dead") {
		t.Errorf("the dead letter is not in %s", letters)
	}
	g.expect(303, order.with("Origin", "http://127.0.0.1:"+g.port))
	if letters := g.deadLetters(); strings.Contains(letters, "notif_dead") {
		t.Errorf("the dead letter is still in %s", letters)
	}
}

func TestQueueUIAtTheRootLeavesNotificationsAlone(t *testing.T) {
	b := newBackend(t, nil)
	g := start(t, setup{only: "not method GET\nnot path /change /lane", servers: trustingTheProxy, webhook: "route * to " + b.address + "\n" + queueIn(t.TempDir()), behind: "intercom_queue_ui"})
	g.expect(200, atUI("/"))
	g.expect(200, good)
	g.expect(200, signed(notification(topic, "notif_elsewhere")).to("/webhooks"))
	eventually(t, "both being delivered", func() bool { return len(b.all()) == 2 })
	for name, from := range strangers {
		t.Run("sent "+name, func(*testing.T) {
			g.expect(403, from(atUI("/")))
			g.expect(403, from(atUI("/deliveries")))
			g.expect(403, from(dropped("")))
			g.expect(200, from(message{method: http.MethodHead, path: "/webhooks"})) // as Intercom validates the URL
		})
	}
	g.expect(200, signed(notification(topic, "notif_from_intercom")).to("/webhooks").at("hooks.example"))
	if page := g.expect(200, atUI("/deliveries")).body; !strings.Contains(page, "notif_elsewhere") {
		t.Errorf("the deliveries are %s", page)
	}
}
