package queue

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

func TestDeadLettersAreLoggedOnceASecondForEachLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		a := &attachment{logger: zap.New(core)}
		die := func(l *lane, ids ...int64) {
			for _, id := range ids {
				one := &attempt{
					dispatcher: new(dispatcher), attachment: a, lane: l, job: &heldJob{id: id, queue: l.queue, attempt: 1},
					delivery: intercomwebhook.Delivery{Err: errors.New("backend answered 500")},
				}
				l.deadLetters.warn(one)
			}
		}
		type line struct {
			job     int64
			leftOut int64
		}
		expect := func(when string, want ...line) {
			t.Helper()
			var got []line
			for _, entry := range logs.TakeAll() {
				fields := entry.ContextMap()
				leftOut, _ := fields["left_out"].(int64)
				got = append(got, line{fields["job"].(int64), leftOut})
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
		}

		support, sales := &lane{queue: "support"}, &lane{queue: "sales"}
		die(support, 1, 2, 3, 4)
		die(sales, 5, 6)
		expect("the first of each lane", line{1, 0}, line{5, 0})
		time.Sleep(1500 * time.Millisecond)
		got := logs.Len()
		if got != 2 {
			t.Fatalf("%d lines after a second, want the last of each lane", got)
		}
		for _, entry := range logs.TakeAll() {
			if fields := entry.ContextMap(); fields["lane"] == "support" && (fields["job"] != int64(4) || fields["left_out"] != int64(2)) ||
				fields["lane"] == "sales" && (fields["job"] != int64(6) || fields["left_out"] != nil) {
				t.Errorf("after a second: %v", fields)
			}
		}
		die(support, 7)
		expect("within a second of that")
		time.Sleep(3 * time.Second)
		expect("the last one", line{7, 0})
		die(support, 8)
		expect("after a pause", line{8, 0})
	})
}

func TestWhatAPersonCancelsIsNotCountedAsADeadLetter(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	one := &attempt{
		dispatcher: &dispatcher{db: instance{}}, attachment: &attachment{logger: zap.New(core)}, lane: &lane{queue: "person"},
		job: &heldJob{queue: "person", attempt: 1, note: &notification{ID: "notif_1", Topic: "ticket.created"}},
	}
	one.cancelled()
	if n := testutil.ToFloat64(deadLettersTotal.WithLabelValues("person", "ticket.created")); n != 0 {
		t.Errorf("counted %v", n)
	}
	if lines := logs.All(); len(lines) != 1 || lines[0].ContextMap()["id"] != "notif_1" || lines[0].ContextMap()["error"] != "cancelled by a person" {
		t.Errorf("logged %v", lines)
	}
}

// instance is a database that only knows the name of this instance.
type instance struct{ jobdb.DB }

func (instance) Instance() string { return "host-1" }

func TestCountersOfTheLanesStartAtZero(t *testing.T) {
	a := &attachment{options: &Options{Name: "crm"}, target: &fakeTarget{lanes: []string{"fresh"}, topics: map[string][]string{
		"fresh": {"ticket.created", "other"}, "": {"user.created"},
	}}}
	deadLetters, deliveries, waits := testutil.CollectAndCount(deadLettersTotal), testutil.CollectAndCount(deliveriesTotal), testutil.CollectAndCount(waitSeconds)
	a.startCounters()
	for what, n := range map[string][2]int{
		"dead_letters_total":     {testutil.CollectAndCount(deadLettersTotal) - deadLetters, 3},
		"queue_deliveries_total": {testutil.CollectAndCount(deliveriesTotal) - deliveries, 2 * len(results)},
		"queue_wait_seconds":     {testutil.CollectAndCount(waitSeconds) - waits, 2},
	} {
		if n[0] != n[1] {
			t.Errorf("%s: %d new series, want %d", what, n[0], n[1])
		}
	}
	if got := testutil.ToFloat64(deadLettersTotal.WithLabelValues("crm|unrouted", "user.created")); got != 0 {
		t.Errorf("began with %v", got)
	}
}
