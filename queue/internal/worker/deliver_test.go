package worker

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func TestOutcomesOfAttempts(t *testing.T) {
	failed := intercomwebhook.Delivery{Err: errBackend}
	answered := func(status int) intercomwebhook.Delivery {
		return intercomwebhook.Delivery{Err: errBackend, Status: status}
	}
	for _, c := range []struct {
		name   string
		result intercomwebhook.Delivery
		before int
		age    time.Duration
		most   int   // attempts
		deadOn []int // statuses
		want   db.State
		reason db.Reason
	}{
		{"success", intercomwebhook.Delivery{Status: 200}, 9, 100 * time.Hour, 1, []int{4}, db.Delivered, ""},
		{"failure", failed, 0, 0, 0, nil, db.Retrying, ""},
		{"there is no limit of attempts by default", failed, 1000, 0, 0, nil, db.Retrying, ""},
		{"before the last attempt", failed, 1, 0, 3, nil, db.Retrying, ""},
		{"the last attempt", failed, 2, 0, 3, nil, db.Dead, db.Attempts},
		{"too old", failed, 2, 72 * time.Hour, 0, nil, db.Dead, db.Age},
		{"no route", intercomwebhook.Delivery{Err: fmt.Errorf("%w: no handler", intercomwebhook.ErrUnrouted)}, 0, 0, 0, []int{4, 5}, db.Dead, db.Unrouted},
		{"a status that is refused", answered(410), 0, 0, 0, []int{410}, db.Dead, db.Refused},
		{"a status of a class that is refused", answered(404), 0, 0, 0, []int{503, 4}, db.Dead, db.Refused},
		{"another status than those that are refused", answered(503), 0, 0, 0, []int{4, 500}, db.Retrying, ""},
		{"no answer, and all are refused", failed, 0, 0, 0, []int{3, 4, 5}, db.Retrying, ""},
		{"the last attempt with a status that is refused", answered(404), 2, 100 * time.Hour, 3, []int{4}, db.Dead, db.Refused},
	} {
		options := testOptions.LaneOptions
		options.MaxAttempts, options.DeadOn = c.most, c.deadOn
		got := decide(c.result, c.before, c.age, &options)
		if got.State != c.want || got.Reason != c.reason || (got.Delay > 0) != (c.want == db.Retrying) {
			t.Errorf("%s: %+v, want %s %s", c.name, got, c.want, c.reason)
		}
	}
}

func TestRetriesGrowToAnHour(t *testing.T) {
	want := []time.Duration{
		time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, time.Hour,
	}
	for failedBefore, about := range want {
		seen := make(map[time.Duration]bool)
		for range 100 {
			delay := retryDelay(failedBefore, 0)
			if delay < about*8/10 || delay > about*12/10 {
				t.Errorf("after %d failures: %s, want about %s", failedBefore, delay, about)
			}
			seen[delay] = true
		}
		if len(seen) < 50 {
			t.Errorf("after %d failures: only %d different delays of 100, want jitter", failedBefore, len(seen))
		}
	}
}

func TestRetryAfterIsHonoredUpToAnHour(t *testing.T) {
	for _, c := range []struct {
		asked, least, most time.Duration
	}{
		{0, 0, 2 * time.Second},
		{time.Millisecond, 500 * time.Millisecond, 2 * time.Second}, // not sooner than without
		{7 * time.Minute, 7 * time.Minute, 7 * time.Minute},
		{24 * time.Hour, time.Hour, time.Hour},
	} {
		if got := retryDelay(0, c.asked); got < c.least || got > c.most {
			t.Errorf("asked for %s: %s, want %s to %s", c.asked, got, c.least, c.most)
		}
	}
}

func TestDeadLettersAreLoggedOnceASecondForEachLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		e := &Endpoint{Logger: zap.New(core)}
		die := func(l *lane, ids ...int64) {
			for _, id := range ids {
				a := &attempt{delivery: &delivery{id: id, note: new(db.Notification), lane: l}, endpoint: e, label: Label(l.Lane)}
				a.result.Err = errBackend
				a.deadLetter(db.Attempts)
			}
		}
		expect := func(when string, want ...int64) {
			t.Helper()
			var got []int64
			for _, entry := range logs.TakeAll() {
				got = append(got, entry.ContextMap()["delivery"].(int64))
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
		}
		support, sales := &lane{Lane: named("support")}, &lane{Lane: named("sales")}
		die(support, 1, 2, 3, 4)
		die(sales, 5, 6)
		expect("the first of each lane", 1, 5)
		time.Sleep(1500 * time.Millisecond)
		die(support, 7, 8)
		expect("after a second", 7)
	})
}

func TestCountersOfTheLanesStartAtZero(t *testing.T) {
	deadLettersTotal.Reset()
	attemptsTotal.Reset()
	waitSeconds.Reset()
	Config{"crm": new(fakeHandler).endpoint("crm", testOptions, "fresh")}.startCounters()
	for what, n := range map[string][2]int{
		"dead_letters_total":   {testutil.CollectAndCount(deadLettersTotal), 2},
		"queue_attempts_total": {testutil.CollectAndCount(attemptsTotal), 2 * len(results)},
		"queue_wait_seconds":   {testutil.CollectAndCount(waitSeconds), 2},
	} {
		if n[0] != n[1] {
			t.Errorf("%s: %d series, want %d", what, n[0], n[1])
		}
	}
	if got := testutil.ToFloat64(attemptsTotal.WithLabelValues("crm|unrouted", "unrouted")); got != 0 {
		t.Errorf("began with %v", got)
	}
}

func TestMetricsOfLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler, database := &fakeHandler{lane: "support", answer: nil}, newFakeDB()
		database.paused[named("support")] = true
		e := handler.endpoint("intercom", testOptions, "support", "staging")
		e.Handler.Lanes[1].Copy = true
		w := openWorker(t, database, e)
		defer w.close()
		w.put("support", "a")
		database.mu.Lock()
		database.deliveries[7] = &fakeRow{lane: db.Lane{Endpoint: "another", Name: "x"}, state: db.Waiting, stored: time.Now()}
		database.mu.Unlock()
		time.Sleep(time.Minute)
		registry := prometheus.NewRegistry()
		for range 2 { // each config has a registry of its own, and some are the same
			if err := Register(registry); err != nil {
				t.Fatal(err)
			}
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]float64)
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				key := family.GetName()
				for _, label := range metric.GetLabel() {
					key += " " + label.GetValue()
				}
				got[key] = metric.GetGauge().GetValue()
			}
		}
		const prefix = "caddy_intercom_webhook_"
		for key, want := range map[string]float64{
			"lane_paused support": 1, "lane_paused staging": 0,
			"queue_deliveries support waiting": 1, "queue_deliveries staging dead": 0,
		} {
			if value, ok := got[prefix+key]; !ok || value != want {
				t.Errorf("%s is %v (there: %t), want %v", key, value, ok, want)
			}
		}
		if age := got[prefix+"queue_oldest_seconds support"]; age < 60 {
			t.Errorf("the oldest is %v s old, want 60", age)
		}
		if _, ok := got[prefix+"queue_oldest_seconds another|x"]; ok {
			t.Error("another endpoint's lane has metrics")
		}
	})
}
