package worker

import (
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
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
					change = h.failed(now, now)
				case "late":
					change = h.failed(now, start)
				case "idle":
					change = h.idle(now)
				}
				told := ""
				if change.changed {
					told = map[bool]string{true: "down", false: "up"}[change.down]
				}
				if state := h.state(now); state != step.state || told != step.change {
					t.Errorf("%s at %s: %s and told %q, want %s and %q", step.what, step.at, state, told, step.state, step.change)
				}
			}
		})
	}
}

func TestATenthOfFailuresIsFailing(t *testing.T) {
	var h health
	now := time.Unix(1_800_000_000, 0)
	for range 9 {
		h.succeeded(now)
	}
	h.failed(now, now)
	if state := h.state(now); state != LaneFailing {
		t.Errorf("one of ten: %s", state)
	}
	h.succeeded(now)
	if state := h.state(now); state != LaneActive {
		t.Errorf("one of eleven: %s", state)
	}
}

func TestLaneHealthIsLogged(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	e := &Endpoint{Logger: zap.New(core)}
	tellHealth(e, "support", healthChange{}, nil)
	tellHealth(e, "support", healthChange{true, true, 3, time.Minute}, errBackend)
	tellHealth(e, "support", healthChange{true, false, 7, time.Hour}, nil)
	var got []string
	for _, entry := range logs.All() {
		got = append(got, entry.Level.String())
	}
	if !slices.Equal(got, []string{"warn", "info"}) || logs.All()[0].ContextMap()["error"] != errBackend.Error() {
		t.Errorf("logged %v", logs.All())
	}
}
