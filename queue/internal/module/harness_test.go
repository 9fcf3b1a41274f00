package module_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/module"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/sqlite"
)

// backends deliver for a handler. They keep what they got, and fail for the lanes that are down.
type backends struct {
	mu   sync.Mutex
	got  []string // lane and body
	down map[string]bool
	wait chan struct{} // if it is set, a delivery ends when it is closed
}

func (b *backends) set(lane string, down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down[lane] = down
}

func (b *backends) bodies() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

// handler returns the handler with these lanes. Everything goes to the first one.
func (b *backends) handler(lanes ...string) intercomwebhook.Endpoint {
	e := intercomwebhook.Endpoint{ConfigHash: strings.Join(lanes, " ")}
	for _, lane := range lanes {
		e.Lanes = append(e.Lanes, intercomwebhook.Lane{Name: lane})
	}
	e.Route = func(_ *http.Request, body []byte, _ intercomwebhook.Attempt, to string) (string, func() intercomwebhook.Delivery) {
		if to == "" {
			to = lanes[0]
		}
		return to, func() intercomwebhook.Delivery {
			b.mu.Lock()
			b.got = append(b.got, to+" "+string(body))
			down := b.down[to]
			b.mu.Unlock()
			if b.wait != nil {
				<-b.wait
			}
			if down {
				return intercomwebhook.Delivery{Err: errors.New("backend answered 502"), Upstream: "127.0.0.1:9", Status: 502, Answer: []byte("<html>")}
			}
			return intercomwebhook.Delivery{Upstream: "127.0.0.1:9", Status: 200}
		}
	}
	return e
}

// file is a database in a new file.
func file(t *testing.T) worker.Database {
	path := filepath.Join(t.TempDir(), "queue.db")
	return worker.Database{
		Key: path, Name: path,
		Open: func(ctx context.Context, logger *zap.Logger) (db.DB, error) { return sqlite.Open(ctx, path, logger) },
		Join: func(ctx context.Context, logger *zap.Logger) (db.Joined, error) {
			return sqlite.Join(ctx, path, logger)
		},
	}
}

var options = worker.Options{
	LaneOptions:   worker.LaneOptions{DeliveryTimeout: 10 * time.Second, MaxAge: time.Hour, MaxAttempts: 1, Workers: 16},
	KeepDelivered: time.Hour, KeepDead: time.Hour,
}

// running is a config that runs.
type running struct {
	*testing.T
	*module.Config
	queues []*module.Base
	logs   *observer.ObservedLogs // of the app
}

func start(t *testing.T, uis []*module.UI, queues ...*module.Base) running {
	t.Helper()
	core, logs := observer.New(zap.WarnLevel)
	config, err := module.Start(zap.New(core), queues, uis...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(config.Stop)
	return running{t, config, queues, logs}
}

// answer is an answer of the admin API.
type answer struct {
	status int
	header http.Header
	lines  []map[string]any
}

// ask sends a request to the admin API.
func (q running) ask(method, path, body string) answer {
	q.Helper()
	mux := http.NewServeMux()
	for _, route := range q.AdminRoutes(q.T) {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			apiErr, failed := errors.AsType[caddy.APIError](route.Handler.ServeHTTP(w, r))
			if failed {
				w.WriteHeader(apiErr.HTTPStatus)
				_ = json.NewEncoder(w).Encode(map[string]string{"error": apiErr.Err.Error()})
			}
		})
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, "/intercom_webhook"+path, strings.NewReader(body))
	if strings.HasPrefix(body, "notification=") {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	mux.ServeHTTP(w, r)
	a := answer{status: w.Code, header: w.Header()}
	for in := bufio.NewScanner(w.Body); in.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			q.Fatalf("%s %s: line %q: %v", method, path, in.Text(), err)
		}
		a.lines = append(a.lines, line)
	}
	return a
}

func (q running) get(path string) answer  { q.Helper(); return q.ask(http.MethodGet, path, "") }
func (q running) post(path string) answer { q.Helper(); return q.ask(http.MethodPost, path, "") }

// last returns the last line of an answer, which must have the status 200.
func (q running) last(a answer) map[string]any {
	q.Helper()
	if a.status != http.StatusOK || len(a.lines) == 0 {
		q.Fatalf("status %d, lines %v", a.status, a.lines)
	}
	return a.lines[len(a.lines)-1]
}

// all returns the values of a field in all lines that have it.
func (a answer) all(field string) []string {
	var values []string
	for _, line := range a.lines {
		if line[field] != nil {
			values = append(values, fmt.Sprint(line[field]))
		}
	}
	return values
}

// want checks what a change has said in its last line.
func (q running) want(a answer, done, total, skipped int) {
	q.Helper()
	got := q.last(a)
	if got["done"] != float64(done) || got["total"] != float64(total) || got["skipped"] != float64(skipped) || got["error"] != nil {
		q.Errorf("%v, want %d of %d done and %d skipped", got, done, total, skipped)
	}
}

// store stores a notification with a topic, whose body is its id, in the first queue.
func (q running) store(topic, lane, id string) {
	q.Helper()
	r := httptest.NewRequest(http.MethodPost, "/intercom?a=b", nil)
	r.Header.Set("X-Hub-Signature", "sha1=00")
	n := intercomwebhook.Notification{Topic: topic, Workspace: "tulip4", ID: id, Lane: lane, Body: []byte(id)}
	if _, err := q.queues[0].Store(r, n); err != nil {
		q.Fatalf("storing %s: %v", id, err)
	}
}

// states counts all deliveries by endpoint, lane and state.
func (q running) states() map[string]int {
	q.Helper()
	counts := make(map[string]int)
	for page := (db.Page{Limit: 1000}); ; {
		found, next, err := q.queues[0].DB(q.T).(db.Inspector).List(q.Context(), db.Filter{}, page)
		if err != nil {
			q.Fatal(err)
		}
		for _, d := range found {
			counts[fmt.Sprint(worker.Label(db.Lane{Endpoint: d.Endpoint, Name: d.Lane}), " ", d.State)]++
		}
		if page.From = next; next == 0 {
			return counts
		}
	}
}

// eventually waits until so many deliveries of a lane are in a state, as in "support dead".
func (q running) eventually(what string, want int) {
	q.Helper()
	for end := time.Now().Add(time.Minute); q.states()[what] != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			q.Fatalf("there are %v, want %s %d", slices.Sorted(maps.Keys(q.states())), what, want)
		}
	}
}

// deadLetters starts a config whose queue has three dead letters in the lane support.
func deadLetters(t *testing.T, uis ...*module.UI) (running, *backends) {
	t.Helper()
	b := &backends{down: map[string]bool{"support": true}}
	q := start(t, uis, module.NewQueue(file(t), "intercom", options, b.handler("support", "billing")))
	q.store("conversation.user.created", "support", "notif_1")
	q.store("conversation.user.replied", "support", "notif_2")
	q.store("tomorrow.born", "support", "notif_3")
	q.eventually("support dead", 3)
	return q, b
}

// untilLanes asks for lanes until a lane has so many deliveries in a state.
func (q running) untilLanes(path, lane, state string, want float64) answer {
	q.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		a := q.get(path)
		for _, line := range a.lines {
			if deliveries, _ := line["deliveries"].(map[string]any); line["lane"] == lane && deliveries[state] == want {
				return a
			}
		}
		if time.Now().After(end) {
			q.Fatalf("%s is %v", path, a)
		}
	}
}

// reload replaces the config by one that has another handler for its only queue.
func (q running) reload(handler intercomwebhook.Endpoint) running {
	q.Helper()
	later := start(q.T, nil, module.NewQueue(q.queues[0].Database(), "intercom", options, handler))
	q.Stop()
	return later
}
