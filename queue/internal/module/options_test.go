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
	got, path, err := unmarshal("path q.db\nname crm\nworkers 4\nlane a {\nworkers 2\ndead_on 4xx 500\n}\n" +
		"lane b {\nrate 0.5/s\ndelivery_timeout 1s\nmax_age 1h\nmax_attempts 3\n}\nlane c {\nordered by data.item.id hold 2s\n}\ndead_on 410 5xx\ndelivery_timeout 5s\nmax_attempts 7\nmax_age 1d\nkeep_delivered 2h\nkeep_dead 3d")
	want := Options{
		Name:        "crm",
		LaneOptions: LaneOptions{Workers: 4, DeliveryTimeout: hour / 720, MaxAge: 24 * hour, MaxAttempts: 7, DeadOn: []int{410, 5}},
		Lanes: map[string]Lane{
			"a": {LaneOptions: LaneOptions{Workers: 2, DeadOn: []int{4, 500}}},
			"b": {LaneOptions: LaneOptions{DeliveryTimeout: hour / 3600, MaxAge: hour, MaxAttempts: 3}, Rate: 0.5},
		},
		KeepDelivered: 2 * hour, KeepDead: 72 * hour,
	}
	if o := got.Lanes["c"].Ordered; o == nil || *o != (Ordered{"data.item.id", hour / 1800}) {
		t.Errorf("the order is %+v", o)
	}
	want.Lanes["c"] = got.Lanes["c"] // a pointer
	if err != nil || path != "q.db" || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, %q, %v", got, path, err)
	}
	if err := got.complete(); err != nil {
		t.Error(err)
	}
	lanes := got.forWorker().Lanes
	for name, want := range map[string]worker.LaneOptions{ // what is not given is as in the queue
		"a": {Workers: 2, DeliveryTimeout: 5 * time.Second, MaxAge: 24 * time.Hour, MaxAttempts: 7, DeadOn: []int{4, 500}},
		"b": {Workers: 4, DeliveryTimeout: time.Second, MaxAge: time.Hour, MaxAttempts: 3, DeadOn: []int{410, 5}, Rate: 0.5},
		"c": {Workers: 4, DeliveryTimeout: 5 * time.Second, MaxAge: 24 * time.Hour, MaxAttempts: 7, DeadOn: []int{410, 5}, Ordered: true, OrderBy: "data.item.id", Hold: 2 * time.Second},
	} {
		if fmt.Sprint(lanes[name]) != fmt.Sprint(want) {
			t.Errorf("lane %s: %+v, want %+v", name, lanes[name], want)
		}
	}
}

func TestOptionsOfACaddyfileThatAreRefused(t *testing.T) {
	for block, want := range map[string]string{
		"name a\nname b":                           "name is given twice, at Testfile:3",
		"name":                                     "wrong argument count or unexpected line ending after 'name', at Testfile:2",
		"name Crm":                                 `name "Crm": give lower-case letters and digits, joined by single - or _, 32 at most, at Testfile:2`,
		"path":                                     "wrong argument count",
		`path ""`:                                  "wrong argument count",
		"path bad":                                 "path bad is bad, at Testfile:2",
		"workers 0":                                "workers must be from 1 to 10000, not 0, at Testfile:2",
		"workers many":                             `workers "many" is not a number, at Testfile:2`,
		"max_attempts 0":                           "max_attempts must be from 1 to 1000, not 0, at Testfile:2",
		"max_attempts 1001":                        "max_attempts must be from 1 to 1000, not 1001",
		"delivery_timeout 2h":                      "delivery_timeout must be from 1ms to 1h0m0s",
		"keep_dead 11y":                            `keep_dead "11y" is not a duration`,
		"lane a {\nworkers 1\n}\nlane a {\n}":      "lane a is given twice, at Testfile:5",
		"lane a {\nadopt x\n}":                     "unknown option adopt of a lane: it has workers, delivery_timeout, max_age, max_attempts, dead_on, rate and ordered",
		"lane a {\nkeep_dead 1h\n}":                "unknown option keep_dead of a lane",
		"lane a {\nrate 5\n}":                      `rate "5": give how many attempts a second, as in 5/s or 0.5/s, at Testfile:3`,
		"lane a {\nrate 5/m\n}":                    `rate "5/m": give how many`,
		"lane a {\nrate 0/s\n}":                    "rate must be more than 0 and at most 10000 attempts a second, as in 5/s, not 0, at Testfile:3",
		"lane a {\nrate -1/s\n}":                   "rate must be more than 0",
		"lane a {\nrate NaN/s\n}":                  "rate must be more than 0",
		"lane a {\nrate 10001/s\n}":                "rate must be more than 0 and at most 10000",
		"lane a {\nrate\n}":                        "wrong argument count",
		"lane a {\nrate 1/s 2/s\n}":                "wrong argument count",
		"lane a {\nrate 1/s\nrate 2/s\n}":          "rate is given twice, at Testfile:4",
		"lane a {\ndead_on 4xx\ndead_on 5xx\n}":    "dead_on is given twice, at Testfile:4",
		"lane a {\nmax_age soon\n}":                `max_age "soon" is not a duration`,
		"rate 5/s":                                 "rate is an option of a lane: put it into `lane <name> { … }`, at Testfile:2",
		"dead_on":                                  "wrong argument count",
		"dead_on 4":                                `dead_on: "4" is no status: give one such as 410, or 4xx for all that begin with 4, at Testfile:2`,
		"dead_on 40x":                              `dead_on: "40x" is no status`,
		"dead_on 4xx 5XX":                          `dead_on: "5XX" is no status`,
		"dead_on 200":                              "dead_on: 200 is no status of a failed attempt: give 300 to 599, or 3xx, 4xx or 5xx, at Testfile:2",
		"dead_on 2xx":                              "dead_on: 2 is no status of a failed attempt",
		"dead_on 600":                              `dead_on: "600" is no status`,
		"dead_on 410 410":                          "dead_on: 410 is given twice, at Testfile:2",
		"dead_on 410 4xx":                          "dead_on: 410 is given twice, at Testfile:2",
		"dead_on 4xx 4xx":                          "dead_on: 4xx is given twice, at Testfile:2",
		"lane a":                                   "lane a has no option: give it one, as in { workers 4 }, at Testfile:2",
		"lane a {\nworkers 1\nworkers 2\n}":        "workers is given twice, at Testfile:4",
		"adopt old":                                "unknown option adopt of queue: it has path, name, lane, workers, delivery_timeout, max_age, max_attempts, keep_delivered, keep_dead and dead_on",
		"schema x":                                 "unknown option schema of queue",
		"max_atempts 3":                            "did you mean max_attempts?",
		"max_age 400d":                             "max_age must be from 1ms to 1 year",
		"keep_delivered 0":                         "keep_delivered must be from 1ms to 10 years",
		"name " + strings.Repeat("a", 33):          "32 at most",
		"lane a b {\nworkers 1\n}":                 "wrong argument count",
		"lane a {\nworkers 10001\n}":               "workers must be from 1 to 10000, not 10001, at Testfile:3",
		"keep_delivered 1h\nkeep_delivered 2h":     "keep_delivered is given twice, at Testfile:3",
		"delivery_timeout 1s 2s":                   "wrong argument count",
		"path one\npath two":                       "path is given twice, at Testfile:3",
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
		got.KeepDelivered != 24*time.Hour || got.KeepDead != 720*time.Hour || len(got.Lanes) != 0 || got.DeadOn != nil {
		t.Errorf("the defaults are %+v", got)
	}
	for want, o := range map[string]Options{
		`name "a--b": give`:                  {Name: "a--b"},
		"max_attempts must be from 1":        {LaneOptions: LaneOptions{MaxAttempts: -1}},
		"workers must be from 1":             {LaneOptions: LaneOptions{Workers: -1}},
		"lane a: workers must be from 1":     {Lanes: map[string]Lane{"a": {LaneOptions: LaneOptions{Workers: -1}}}},
		"lane a: rate must be more than 0":   {Lanes: map[string]Lane{"a": {Rate: -1}}},
		"lane a: dead_on: 4xx is given":      {Lanes: map[string]Lane{"a": {LaneOptions: LaneOptions{DeadOn: []int{4, 4}}}}},
		"lane a: ordered: hold must be 0s":   {Lanes: map[string]Lane{"a": {Ordered: &Ordered{Hold: 11 * hour / 3600}}}},
		"lane a: ordered: hold must be 0s,":  {Lanes: map[string]Lane{"a": {Ordered: &Ordered{Hold: 2}}}},
		"lane a: ordered by: field":          {Lanes: map[string]Lane{"a": {Ordered: &Ordered{By: "a..b"}}}},
		"dead_on: 99 is no status":           {LaneOptions: LaneOptions{DeadOn: []int{99}}},
		"max_age must be from 1ms":           {LaneOptions: LaneOptions{MaxAge: 72}},
		"keep_delivered must be from 1ms":    {KeepDelivered: -1},
		"delivery_timeout must be from 1ms":  {LaneOptions: LaneOptions{DeliveryTimeout: 2 * hour}},
		"keep_dead must be from 1ms to 10 y": {KeepDead: caddy.Duration(100_000 * time.Hour)},
	} {
		if err := o.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q", o, err, want)
		}
	}
}

func TestOptionsForLanes(t *testing.T) {
	o := Options{Lanes: map[string]Lane{"b": {Rate: 1}}}
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
