package worker

import (
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

func TestHealthOfALane(t *testing.T) {
	const second = time.Second
	type step struct {
		at     time.Duration
		what   string // ok, fail, late (a failure that began long ago), idle, or nothing
		state  LaneState
		change string // down or up
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"a lane that delivers", []step{{0, "", LaneActive, ""}, {1 * second, "ok", LaneActive, ""}}},
		{"three failures over ten seconds", []step{
			{0, "fail", LaneFailing, ""}, {1 * second, "fail", LaneFailing, ""}, {9 * second, "fail", LaneFailing, ""},
			{10 * second, "fail", LaneDown, "down"}, {20 * second, "fail", LaneDown, ""}, {400 * second, "", LaneDown, ""},
			{401 * second, "ok", LaneActive, "up"}, {402 * second, "ok", LaneActive, ""},
		}},
		{"two failures are too few", []step{{0, "fail", LaneFailing, ""}, {60 * second, "fail", LaneFailing, ""}}},
		{"a success between", []step{
			{0, "fail", LaneFailing, ""}, {1 * second, "fail", LaneFailing, ""}, {5 * second, "ok", LaneFailing, ""},
			{11 * second, "fail", LaneFailing, ""}, {12 * second, "fail", LaneFailing, ""}, {13 * second, "fail", LaneFailing, ""},
		}},
		{"failures that began before the last success", []step{
			{0, "ok", LaneActive, ""}, {20 * second, "ok", LaneActive, ""}, {21 * second, "late", LaneFailing, ""},
			{32 * second, "late", LaneFailing, ""}, {33 * second, "late", LaneFailing, ""}, {34 * second, "late", LaneFailing, ""},
		}},
		{"nothing is left to deliver", []step{
			{0, "fail", LaneFailing, ""}, {1 * second, "fail", LaneFailing, ""}, {11 * second, "fail", LaneDown, "down"},
			{12 * second, "idle", LaneFailing, "up"}, {13 * second, "idle", LaneFailing, ""},
		}},
		{"failures are forgotten after five minutes", []step{
			{0, "fail", LaneFailing, ""}, {290 * second, "", LaneFailing, ""}, {311 * second, "", LaneActive, ""},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h health
			start := time.Unix(1_800_000_000, 0)
			for _, step := range c.steps {
				now := start.Add(step.at)
				var change healthChange
				switch step.what {
				case "ok":
					change = h.succeeded(now)
				case "fail":
					change = h.failed(now, now, errBackend)
				case "late":
					change = h.failed(now, start, errBackend)
				case "idle":
					change = h.idle(now)
				}
				told := ""
				if change.changed {
					told = map[bool]string{true: "down", false: "up"}[change.down]
				}
				if state, _, _ := h.state(now); state != step.state || told != step.change {
					t.Errorf("%s at %s: %s and told %q, want %s and %q", step.what, step.at, state, told, step.state, step.change)
				}
			}
		})
	}
}

// Half of the attempts fail, one every four seconds: three failures in a row come every minute.
func TestALaneOfWhichHalfFailsDoesNotGoUpAndDown(t *testing.T) {
	var h health
	now, told := time.Unix(1_800_000_000, 0), 0
	const pattern = "-++---+-+----++-+++-++--+" // 13 of 25
	for i := range 40 * len(pattern) {
		now = now.Add(4 * time.Second)
		var change healthChange
		if pattern[i%len(pattern)] == '+' {
			change = h.succeeded(now)
		} else {
			change = h.failed(now, now, errBackend)
		}
		if change.changed {
			told++
		}
		if state, _, _ := h.state(now); state != LaneFailing {
			t.Errorf("attempt %d: %s", i, state)
		}
	}
	if told > 0 {
		t.Errorf("%d changes in %d attempts", told, 40*len(pattern))
	}
	down := 0
	for !h.failed(now, now, errBackend).changed {
		now, down = now.Add(4*time.Second), down+1
	}
	if state, since, lastError := h.state(now); state != LaneDown || down > 30 || now.Sub(since) < downAfter || lastError != errBackend.Error() {
		t.Errorf("%s since %s (%s) after %d failures in a row", state, since, lastError, down)
	}
}

func TestATenthOfFailuresIsFailing(t *testing.T) {
	var h health
	now := time.Unix(1_800_000_000, 0)
	for range 9 {
		h.succeeded(now)
	}
	h.failed(now, now, errBackend)
	if state, _, _ := h.state(now); state != LaneFailing {
		t.Errorf("one of ten: %s", state)
	}
	h.succeeded(now)
	if state, _, _ := h.state(now); state != LaneActive {
		t.Errorf("one of eleven: %s", state)
	}
}

func TestLaneHealthIsLogged(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	e := &Endpoint{Name: "crm", Logger: zap.New(core)}
	e.Handler.Lanes = []intercomwebhook.Lane{{Name: "support", Copy: true}}
	tellHealth(e, "support", healthChange{})
	tellHealth(e, "support", healthChange{true, true, 3, time.Minute, errBackend.Error()})
	tellHealth(e, "support", healthChange{true, false, 7, time.Hour, errBackend.Error()})
	var got []string
	for _, entry := range logs.All() {
		got = append(got, entry.Level.String())
	}
	first := logs.All()[0].ContextMap()
	if !slices.Equal(got, []string{"warn", "info"}) || first["error"] != errBackend.Error() || first["lane"] != "crm|support" || first["kind"] != "copy" {
		t.Errorf("logged %v", logs.All())
	}
}
