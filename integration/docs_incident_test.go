package integration

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// night is docs/incident.md, whose commands are run as they stand there, against a gateway with
// the config of the page.
type night struct {
	*process
	config       string
	secrets      string // the file
	crm, support *backend
	rescue       *backend
}

func TestABadNight(t *testing.T) {
	page := readPage(t, "../docs/incident.md")
	var refuses atomic.Int64 // the status of what the backend for contacts does not take
	n := &night{process: newProcess(t), crm: newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if status := int(refuses.Load()); status == http.StatusBadGateway || status != 0 && r.Header.Get("X-Intercom-Topic") == "contact.deleted" {
			w.WriteHeader(status)
			_, _ = w.Write([]byte("no database"))
		}
	}), support: newBackend(t, nil), rescue: newBackend(t, nil)}
	n.secrets = filepath.Join(n.dir, "secrets")
	n.write(n.secrets, secret)
	n.config = page.blocks[0].text
	n.launchJSON(n.adapted())
	within(t, longPatience, "the gateway answers", func() bool {
		answer, err := n.try(message{method: http.MethodHead, path: "/intercom"})
		return err == nil && answer.status == http.StatusOK
	})

	// what happens before a command is entered, or before the first one below a heading
	happens := map[string]func(){
		"queue status": func() {
			refuses.Store(http.StatusBadGateway)
			n.notify("contact.user.created", "contact.user.created", "contact.user.created", "conversation.user.created")
		},
		"queue retry --lane crm --state retrying": func() {
			n.wantDeliveries("crm", "retrying", 3) // none is running any more
			refuses.Store(http.StatusUnprocessableEntity)
		},
		"There are dead letters":                    func() { n.notify("contact.deleted", "company.created") },
		"queue retry --lane crm --status 422 --yes": func() { refuses.Store(0) },
		"queue retry --state dead --lane crm --to rescue --yes": func() {
			n.idle() // what was retried is delivered
			refuses.Store(http.StatusUnprocessableEntity)
			n.notify("contact.deleted", "contact.deleted")
			n.wantDeliveries("crm", "dead", 2)
		},
		"queue resend": func() { n.idle() },
		"send ping":    func() { n.write(n.secrets, "the-new-one-5e7c0ffee", secret) },
	}
	for _, b := range page.blocks[1:] {
		if strings.HasPrefix(b.text, "\t\t") { // lines of the config
			n.config = strings.Replace(n.config, "\n\t\tqueue", b.text+"\n\t\tqueue", 1)
			continue
		}
		if b.kind == "json" { // a line of the log
			foreign := message{body: body, header: http.Header{hubHeader: {hubSignature(body, "the-new-one-5e7c0ffee")}}}
			n.expect(http.StatusUnauthorized, foreign.to("/intercom"))
			_, says, _ := strings.Cut(b.text, `"msg":`)
			says, _, _ = strings.Cut(says, ",")
			eventually(t, "the log has "+says, func() bool { return strings.Contains(n.stderr.String(), `"msg":`+says) })
		}
		for _, command := range strings.Split("\n"+b.text, "\n$ caddy ")[1:] {
			command, prints, _ := strings.Cut(command, "\n")
			for what, happen := range happens {
				if strings.Contains(b.at+": "+command, what) {
					happen()
					delete(happens, what)
				}
			}
			n.run(b.at, command, prints)
		}
	}
	for what := range happens {
		t.Errorf("no command or heading of the page has %q", what)
	}
	if got := len(n.rescue.all()); got != 2 {
		t.Errorf("the backend in place of another got %d notifications, want 2, once each", got)
	}
}

// adapted is the config of the page, with what must be here in place of what it names.
func (n *night) adapted() []byte {
	n.t.Helper()
	config := strings.NewReplacer(
		"hooks.example.com {", "{\n\tadmin "+n.admin+"\n\tpersist_config off\n\tstorage file_system "+n.dir+"\n}\nhttp://:"+n.port+" {\n\tbind 127.0.0.1",
		"/etc/caddy/intercom-secrets}", n.secrets+"}\n\t\tallow static 127.0.0.1",
		"crm:9000", n.crm.address, "support:9000", n.support.address, "rescue:9000", n.rescue.address,
		"queue {", "queue {\n\t\t\tpath "+n.store,
	).Replace(n.config)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		n.t.Fatalf("%v\n%s", err, config)
	}
	return adapted
}

func (n *night) write(file string, lines ...string) {
	n.t.Helper()
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *night) notify(topics ...string) {
	n.t.Helper()
	for _, topic := range topics {
		n.expect(http.StatusOK, signed(notification(topic, newID())).to("/intercom").at("hooks.example.com"))
	}
}

var changes = regexp.MustCompile(` (pause|resume|retry|resend|drop|reload)\b`)

// run runs a command until it prints what the page says, or once if it changes something.
func (n *night) run(at, command, prints string) {
	n.t.Helper()
	if strings.HasPrefix(command, "reload") {
		n.write(filepath.Join(n.dir, "reload.json"), string(n.adapted()))
		defer func() { n.loaded.Store(time.Now().UnixNano()) }()
	}
	args := strings.Fields(strings.NewReplacer(
		"/etc/caddy/Caddyfile", filepath.Join(n.dir, "reload.json"),
		"/etc/caddy/intercom-secrets", n.secrets,
		"https://hooks.example.com/", "http://127.0.0.1:"+n.port+"/",
	).Replace(command))
	if !strings.Contains(command, " send ") { // which asks no admin endpoint
		args = append(args, "--address", n.admin)
	}
	path, err := program()
	if err != nil {
		n.t.Fatal(err)
	}
	once := changes.MatchString(" "+command) && !strings.Contains(command, "--dry-run")
	for end := time.Now().Add(longPatience); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command(path, args...).CombinedOutput()
		said := strings.NewReplacer(n.crm.address, "crm:9000", n.support.address, "support:9000", n.rescue.address, "rescue:9000").Replace(string(out))
		if err == nil && says(said, prints) {
			return
		}
		if once || time.Now().After(end) {
			n.t.Fatalf("%s: caddy %s: error %v, and it prints\n%s\nwhere the page has\n%s", at, command, err, said, prints)
		}
	}
}

var differs = []*regexp.Regexp{
	regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), // times
	regexp.MustCompile(`\bnotif_[0-9a-f-]+`),
	regexp.MustCompile(`<?\b(\d+(\.\d+)?(µs|ms|s|m|h))+\b`), // durations
	regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+:\d+`),
	regexp.MustCompile(`\b[\d,]+ bytes`),
	regexp.MustCompile(`, by \S+`),
	// as it takes shorter or longer
	regexp.MustCompile(`\b(failing|down) `),
	regexp.MustCompile(`resumed lane crm; \d`),
	regexp.MustCompile(`\bretrying,?\s+\d( attempts?)?\s`),
}

// says reports whether a text has the lines, in this order, with the words of each in their
// order, apart from what is never the same. So a command may print more than the page shows.
func says(text, lines string) bool {
	same := func(s string) string {
		for i, r := range differs {
			s = r.ReplaceAllString(s, "<"+string(rune('a'+i))+">")
		}
		return s
	}
	printed := strings.Split(same(text), "\n")
	for line := range strings.Lines(same(lines)) {
		for strings.TrimSpace(line) != "…" {
			if len(printed) == 0 {
				return false
			}
			candidate := strings.Fields(printed[0])
			printed = printed[1:]
			if subsequence(strings.Fields(line), candidate) {
				break
			}
		}
	}
	return true
}

func subsequence(words, of []string) bool {
	for _, word := range of {
		if len(words) > 0 && word == words[0] {
			words = words[1:]
		}
	}
	return len(words) == 0
}
