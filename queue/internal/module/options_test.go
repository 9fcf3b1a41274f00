package module

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// unmarshal parses the block of a queue with the own option path.
func unmarshal(block string) (o Options, path string, err error) {
	d := caddyfile.NewTestDispenser("sqlite {\n" + block + "\n}")
	d.Next()
	err = o.Unmarshal(d, "path", &path, func(value string) error {
		if value == "bad" {
			return fmt.Errorf("path %s is bad", value)
		}
		return nil
	})
	return o, path, err
}

func TestOptionsOfACaddyfile(t *testing.T) {
	got, path, err := unmarshal("path q.db\nname crm\nworkers 4\nlane a {\nworkers 2\n}\nlane b {\nworkers 3\n}\n" +
		"delivery_timeout 5s\nmax_attempts 7\nmax_age 1d\nkeep_delivered 2h\nkeep_dead 3d")
	want := Options{
		Name: "crm", Workers: 4, Lanes: map[string]Lane{"a": {2}, "b": {3}}, DeliveryTimeout: caddy.Duration(5 * time.Second),
		MaxAttempts: 7, MaxAge: caddy.Duration(24 * time.Hour), KeepDelivered: caddy.Duration(2 * time.Hour), KeepDead: caddy.Duration(72 * time.Hour),
	}
	if err != nil || path != "q.db" || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, %q, %v", got, path, err)
	}
	if err := got.complete(); err != nil {
		t.Error(err)
	}
}

func TestOptionsOfACaddyfileThatAreRefused(t *testing.T) {
	for block, want := range map[string]string{
		"name a\nname b":                       "name is given twice, at Testfile:3",
		"name":                                 "wrong argument count or unexpected line ending after 'name', at Testfile:2",
		"name Crm":                             `name "Crm": give lower-case letters and digits, joined by single - or _, 32 at most, at Testfile:2`,
		"path":                                 "wrong argument count",
		`path ""`:                              "wrong argument count",
		"path bad":                             "path bad is bad, at Testfile:2",
		"workers 0":                            "workers must be from 1 to 10000, not 0, at Testfile:2",
		"workers many":                         `workers "many" is not a number, at Testfile:2`,
		"max_attempts 0":                       "max_attempts must be from 1 to 1000, not 0, at Testfile:2",
		"max_attempts 1001":                    "max_attempts must be from 1 to 1000, not 1001",
		"delivery_timeout 2h":                  "delivery_timeout must be from 1ms to 1h0m0s",
		"keep_dead 11y":                        `keep_dead "11y" is not a duration`,
		"lane a {\nworkers 1\n}\nlane a {\n}":  "lane a is given twice, at Testfile:5",
		"lane a {\nrate 5\n}":                  "unknown option rate of a lane: it has workers, at Testfile:3",
		"lane a":                               "lane a has no option: give it one, as in { workers 4 }, at Testfile:2",
		"lane a {\nworkers 1\nworkers 2\n}":    "workers is given twice, at Testfile:4",
		"adopt old":                            "unknown option adopt of queue: it has path, name, workers, lane, delivery_timeout, max_attempts, max_age, keep_delivered and keep_dead",
		"schema x":                             "unknown option schema of queue",
		"max_atempts 3":                        "did you mean max_attempts?",
		"max_age 400d":                         "max_age must be from 1ms to 1 year",
		"keep_delivered 0":                     "keep_delivered must be from 1ms to 10 years",
		"name " + strings.Repeat("a", 33):      "32 at most",
		"lane a b {\nworkers 1\n}":             "wrong argument count",
		"lane a {\nworkers 10001\n}":           "workers must be from 1 to 10000, not 10001, at Testfile:3",
		"keep_delivered 1h\nkeep_delivered 2h": "keep_delivered is given twice, at Testfile:3",
		"delivery_timeout 1s 2s":               "wrong argument count",
		"path one\npath two":                   "path is given twice, at Testfile:3",
		"lane a {\nworkers 1\n}\nworkers 1\nlane ": "wrong argument count",
	} {
		if _, _, err := unmarshal(block); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", block, err, want)
		}
	}
}

func TestOptionsOfJSON(t *testing.T) {
	var o Options
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	got := o.forWorker()
	if o.Name != "intercom" || got.Workers != 16 || got.DeliveryTimeout != 30*time.Second || got.MaxAttempts != 0 || got.MaxAge != 72*time.Hour ||
		got.KeepDelivered != 24*time.Hour || got.KeepDead != 720*time.Hour || len(got.LaneWorkers) != 0 {
		t.Errorf("the defaults are %+v", got)
	}
	for want, o := range map[string]Options{
		`name "a--b": give`:                  {Name: "a--b"},
		"max_attempts must be from 1":        {MaxAttempts: -1},
		"workers must be from 1":             {Workers: -1},
		"lane a: workers must be from 1":     {Lanes: map[string]Lane{"a": {}}},
		"max_age must be from 1ms":           {MaxAge: 72},
		"keep_delivered must be from 1ms":    {KeepDelivered: -1},
		"delivery_timeout must be from 1ms":  {DeliveryTimeout: caddy.Duration(2 * time.Hour)},
		"keep_dead must be from 1ms to 10 y": {KeepDead: caddy.Duration(100_000 * time.Hour)},
	} {
		if err := o.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q", o, err, want)
		}
	}
}

func TestOptionsForLanes(t *testing.T) {
	o := Options{Lanes: map[string]Lane{"b": {1}}}
	for want, lanes := range map[string][]string{
		"": {"a", "b"},
		`lane "b": no route or copy has this lane; the lanes are a, c`: {"a", "c"},
		`lane "unrouted": the name is reserved`:                        {"b", "unrouted"},
	} {
		got := ""
		if err := o.CheckLanes(lanes); err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%v: error %q, want %q", lanes, got, want)
		}
	}
}

func TestHandlersWithOneName(t *testing.T) {
	handler := func(database, name, config string) *Base {
		return &Base{
			database: worker.Database{Key: database, Name: database},
			endpoint: &worker.Endpoint{Name: name, Handler: intercomwebhook.Endpoint{ConfigHash: config}},
		}
	}
	for _, c := range []struct {
		name   string
		queues []*Base
		want   string
	}{
		{"ok/each its own", []*Base{handler("one", "a", "x"), handler("one", "b", "y")}, ""},
		{"ok/in two databases", []*Base{handler("one", "a", "x"), handler("two", "a", "y")}, ""},
		{"ok/one handler on two ports", []*Base{handler("one", "a", "x"), handler("one", "a", "x")}, ""},
		{"fail/two different ones", []*Base{handler("one", "a", "x"), handler("one", "a", "y")},
			"queue one: two different handlers have the name \"a\": give one of them another name with `name`"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			configs, err := (&app{queues: c.queues}).configs()
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("error %q, want %q", got, c.want)
			}
			if n := len(configs["one"]) + len(configs["two"]); err == nil && c.name == "ok/one handler on two ports" && n != 1 {
				t.Errorf("%d endpoints", n)
			}
		})
	}
}

// A notification with too many deliveries would be refused when it comes, for ever.
func TestTooManyCopiesAreRefused(t *testing.T) {
	var endpoint intercomwebhook.Endpoint
	for i := range worker.MaxCopies + 1 {
		endpoint.Lanes = append(endpoint.Lanes, intercomwebhook.Lane{Name: fmt.Sprint("copy-", i), Copy: true})
	}
	if err := new(Base).Attach(endpoint); err == nil || !strings.Contains(err.Error(), "49 at most") {
		t.Errorf("error %v", err)
	}
}
