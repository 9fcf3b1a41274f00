package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// adminAsk sends a request to the module's part of the admin API. Caddy's admin endpoint and its
// sites are there a moment before the queue is: then it asks again.
func (g *gateway) adminAsk(method, path string) (status int, lines []map[string]any) {
	g.t.Helper()
	within(g.t, longPatience, "the config has started", func() bool {
		status, lines = g.adminAskOnce(method, path)
		return status != http.StatusServiceUnavailable || lines[0]["error"] != "the config is being started"
	})
	return status, lines
}

func (g *gateway) adminAskOnce(method, path string) (status int, lines []map[string]any) {
	g.t.Helper()
	request, err := http.NewRequest(method, "http://"+g.admin+"/intercom_webhook"+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	response, err := g.client.Do(request)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	in := bufio.NewReader(response.Body)
	for {
		text, err := in.ReadBytes('\n')
		if len(text) > 0 {
			var line map[string]any
			if err := json.Unmarshal(text, &line); err != nil {
				g.t.Fatalf("%s %s: %q: %v", method, path, text, err)
			}
			lines = append(lines, line)
		}
		if err == io.EOF {
			return response.StatusCode, lines
		}
		if err != nil {
			g.t.Fatalf("%s %s: %v", method, path, err)
		}
	}
}

// adminLines is adminAsk for an answer with the status 200.
func (g *gateway) adminLines(method, path string) []map[string]any {
	g.t.Helper()
	status, lines := g.adminAsk(method, path)
	if status != http.StatusOK {
		g.t.Fatalf("%s %s: status %d: %v", method, path, status, lines)
	}
	return lines
}

// listed returns the ids of the notifications that a list has, sorted.
func (g *gateway) listed(filters string) []string {
	g.t.Helper()
	var ids []string
	for _, line := range g.adminLines("GET", "/deliveries?"+filters) {
		if id, ok := line["notification"].(string); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (g *gateway) wantListed(filters string, ids ...string) {
	g.t.Helper()
	slices.Sort(ids)
	if got := g.listed(filters); !slices.Equal(got, ids) {
		g.t.Errorf("%s lists %q, want %q", filters, got, ids)
	}
}

func (g *gateway) awaitListed(filters string, ids ...string) {
	g.t.Helper()
	slices.Sort(ids)
	within(g.t, longPatience, fmt.Sprintf("%s lists %q", filters, ids), func() bool { return slices.Equal(g.listed(filters), ids) })
}

// wantChange makes a change that must change so many, and returns its last line.
func (g *gateway) wantChange(path string, done int) map[string]any {
	g.t.Helper()
	lines := g.adminLines("POST", path)
	last := lines[len(lines)-1]
	if last["done"] != float64(done) || last["total"] != float64(done) || last["skipped"] != 0.0 || last["error"] != nil {
		g.t.Errorf("%s: %v, want %d done", path, last, done)
	}
	return last
}

// operated is a gateway whose backends an operator switches.
type operated struct {
	*process
	talk, billing atomic.Bool // up
	got           *tally      // of the lanes talk and billing
	atBilling     atomic.Int64
}

const (
	replied = "conversation.user.replied"
	born    = "tomorrow.born" // no known topic
)

// operate makes dead letters of three notifications, and returns their ids. Each is one after
// a single attempt, if the queue has max_attempts 1.
func operate(t *testing.T, queue func(p *process) string) (o *operated, ids []string) {
	t.Helper()
	o = &operated{process: newProcess(t)}
	answer := func(up *atomic.Bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if !up.Load() {
				http.Error(w, "the backend is down", http.StatusBadGateway)
			}
		}
	}
	o.billing.Store(true)
	o.got = newAnsweringTally(t, answer(&o.talk))
	billing := newAnsweringTally(t, func(w http.ResponseWriter, r *http.Request) {
		o.atBilling.Add(1)
		answer(&o.billing)(w, r)
	})
	routes := "route invoice.* as billing to " + billing.address + "\nroute * as talk to " + o.got.address
	o.start(setup{admin: true, options: "grace_period 10s", webhook: routes + "\n" + queue(o.process)})
	ids = []string{o.post(replied), o.post("conversation.admin.closed"), o.post(born)}
	o.awaitListed("state=dead", ids...)
	return o, ids
}

func TestAdminAPI(t *testing.T) {
	o, ids := operate(t, func(p *process) string {
		return "queue sqlite {\npath " + p.store + "\nmax_attempts 1\n}"
	})
	tryAdminAPI(t, o, ids)

	t.Run("erased is erased", func(t *testing.T) {
		words := "unforgettable" + newID()
		o.expect(200, signed(bytes.ReplaceAll(notification(replied, "notif_erased"), []byte("ça va?"), []byte(words))))
		o.awaitListed("notification=notif_erased", "notif_erased")
		within(t, longPatience, "it has ended", func() bool { return len(o.listed("notification=notif_erased&state=delivered")) == 1 })
		if !o.inFiles(words) {
			t.Error("the notification is in no file before it is erased")
		}
		last := o.wantChange("/deliveries/erase?notification=notif_erased", 1)
		if note := fmt.Sprint(last["note"]); !strings.Contains(note, "Backups") {
			t.Errorf("note: %s", note)
		}
		if o.inFiles(words) {
			t.Error("the notification is still in a file")
		}
	})
}

// inFiles reports whether one of the store's files has the words in it.
func (p *process) inFiles(words string) bool {
	p.t.Helper()
	files, err := filepath.Glob(p.store + "*")
	if err != nil || len(files) == 0 {
		p.t.Fatalf("files %q: %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			p.t.Fatal(err)
		}
		if bytes.Contains(data, []byte(words)) {
			return true
		}
	}
	return false
}

// tryAdminAPI does what an operator does with three dead letters. The steps build on each
// other.
func tryAdminAPI(t *testing.T, o *operated, ids []string) {
	t.Helper()
	o.wantListed("topic=conversation.*", ids[:2]...)
	o.wantListed("topic=tomorrow.*", ids[2])
	o.wantListed("error=answered+502", ids...)
	o.wantListed("error=answered+503")
	o.wantListed("since=1h&lane=talk", ids...)
	o.wantListed("until=1h")
	o.wantListed("workspace=tulip4&notification="+ids[0], ids[0])

	status, lines := o.adminAsk("GET", "/notifications/"+ids[2])
	text := fmt.Sprint(lines)
	for _, want := range []string{"the backend is down", "status:502", o.got.address, "body:" + string(notification(born, ids[2])), "topic:" + born} {
		if status != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}

	o.talk.Store(true)
	if lines := o.adminLines("POST", "/deliveries/retry?topic=conversation.*&dry_run=true"); lines[0]["total"] != 2.0 {
		t.Errorf("a dry run says %v", lines)
	}
	o.wantListed("state=dead", ids...)
	o.wantChange("/deliveries/retry?topic=conversation.*", 2)
	o.awaitListed("state=delivered", ids[:2]...)
	o.wantListed("state=dead", ids[2])

	o.wantChange("/deliveries/resend?notification="+ids[0], 1)
	within(t, longPatience, "it is delivered again", func() bool { return o.got.count(ids[0]) == 3 }) // failed, delivered, again
	o.expect(200, signed(notification(replied, ids[0])))                                              // a duplicate to this day
	o.awaitListed("state=delivered", ids[:2]...)

	o.wantChange("/deliveries/resend?to=billing&since=1h&topic=conversation.*", 2)
	o.awaitListed("lane=billing&state=delivered", ids[:2]...)
	if n := o.atBilling.Load(); n != 2 {
		t.Errorf("the backend of the other lane got %d, want 2", n)
	}

	o.wantChange("/deliveries/drop?state=dead", 1)
	o.wantListed("state=dead")

	if lane := o.adminLines("POST", "/lanes/talk/pause")[0]; lane["state"] != "paused" {
		t.Errorf("the lane is %v", lane)
	}
	waiting := o.post(replied)
	o.wantListed("state=waiting", waiting)
	o.wantChange("/deliveries/retry?state=delivered&lane=talk", 2)
	o.wantListed("state=waiting", append(ids[:2:2], waiting)...)
	if lane := o.adminLines("POST", "/lanes/talk/resume")[0]; lane["state"] != "failing" { // as more than a tenth of the attempts have failed
		t.Errorf("the lane is %v", lane)
	}
	o.awaitListed("lane=talk&state=delivered", append(ids[:2:2], waiting)...)

	// The log says what was opened, and who has changed what.
	said := func(text string) []entry {
		return o.logged(func(e entry) bool { return strings.HasPrefix(e.text("msg"), text) })
	}
	within(t, longPatience, "the log says what was opened", func() bool { return len(said("queue is open")) > 0 })
	opened := said("queue is open")[0]
	if database := opened.text("database"); !strings.HasSuffix(database, ".db") && !strings.HasPrefix(database, "PostgreSQL at 127.0.0.1:") || !strings.Contains(fmt.Sprint(opened["lanes"]), "talk") || opened["waiting"] == nil {
		t.Errorf("opened was %v", opened)
	}
	changes := said("a person has changed deliveries")
	if last := changes[len(changes)-1]; !strings.HasPrefix(last.text("who"), "127.0.0.1") || last.text("change") != "retry" ||
		last.text("filter") != "lane=talk&state=delivered" || fmt.Sprint(last["states"]) != "[delivered]" || last["deliveries"] != 2.0 {
		t.Errorf("the last change is logged as %v", last)
	}
	for _, line := range slices.Concat(said("a person has paused or resumed a lane"), said("lane is paused"), said("lane is resumed")) {
		if line.text("lane") != "talk" {
			t.Errorf("logged is %v", line)
		}
	}
	if n := [3]int{len(said("a person has paused or resumed a lane")), len(said("lane is paused")), len(said("lane is resumed"))}; n != [3]int{2, 1, 1} {
		t.Errorf("the pause and its end are logged %v times", n)
	}
}

func TestAdminAPIDoesNotDelayAReload(t *testing.T) {
	p := newProcess(t)
	s := p.queued("route * as talk { respond 500 }", "max_attempts 1")
	p.start(s)
	for range 5 {
		p.post(replied)
	}
	within(t, longPatience, "all are dead letters", func() bool { return len(p.listed("state=dead")) == 5 })

	s.webhook = strings.Replace(s.webhook, "respond 500", "respond 200", 1)
	ended := make(chan []map[string]any, 1)
	go func() { ended <- p.adminLines("POST", "/deliveries/retry?state=dead&rate=0.5") }()
	within(t, longPatience, "it has begun", func() bool { return p.scrape()[`queue_attempts_total{lane="talk",result="attempts"}`] > 5 })
	p.reload(s)
	var last map[string]any
	select {
	case lines := <-ended:
		last = lines[len(lines)-1]
	case <-time.After(patience):
		t.Fatal("the retry goes on")
	}
	if last["error"] != "the config has changed: run it again to go on" || last["cursor"] == nil {
		t.Fatalf("the last line is %v", last)
	}
	lines := p.adminLines("POST", fmt.Sprint("/deliveries/retry?state=dead&cursor=", last["cursor"]))
	if done := lines[len(lines)-1]["done"]; done.(float64)+last["done"].(float64) < 5 {
		t.Errorf("%v and then %v were retried, want 5 in all", last["done"], done)
	}
	within(t, longPatience, "the old admin endpoint has stopped", func() bool {
		return len(p.logged(func(e entry) bool { return e.text("msg") == "stopped previous server" })) > 0
	})
}

func TestAdminAPIWithSeveralQueues(t *testing.T) {
	dir := t.TempDir()
	g := start(t, setup{
		admin:   true,
		webhook: "route * as support { respond 500 }\n" + queueIn(dir),
		behind: fmt.Sprintf("intercom_webhook /crm { client_secret %s\nallow static 127.0.0.1\nroute * as support { respond 500 }\nqueue { path %s\nname crm\nmax_attempts 1 } }",
			secret, filepath.Join(dir, "crm.db")),
	})
	g.expect(200, signed(notification(topic, "notif_intercom")))
	g.expect(200, signed(notification(topic, "notif_crm")).to("/crm"))
	if status, lines := g.adminAsk("GET", "/deliveries"); status != 400 || !strings.Contains(fmt.Sprint(lines), "the names are crm and intercom") {
		t.Errorf("without a name: %d %v", status, lines)
	}
	g.awaitListed("endpoint=crm&state=dead", "notif_crm")
	g.awaitListed("endpoint=intercom&state=dead", "notif_intercom")
	g.wantChange("/deliveries/drop?endpoint=crm&state=dead", 1)
	g.wantListed("endpoint=intercom", "notif_intercom")
	if lanes := g.adminLines("GET", "/lanes"); len(lanes) != 4 {
		t.Errorf("lanes: %v", lanes)
	}
}

func TestAdminAPIWithoutQueue(t *testing.T) {
	g := start(t, setup{admin: true, webhook: "route * { respond 200 }"})
	for _, path := range []string{"/lanes", "/deliveries"} {
		if status, lines := g.adminAsk("GET", path); status != 404 || !strings.Contains(fmt.Sprint(lines), "the config has no queue") {
			t.Errorf("%s: %d %v", path, status, lines)
		}
	}
}
