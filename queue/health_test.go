package queue

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestLaneHealthIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		a := &attachment{logger: zap.New(core)}
		bad := errors.New("backend answered 500")
		var h laneHealth
		fail := func(began time.Time) { h.failed(a, "support", began, bad) }
		expect := func(when string, want ...string) {
			t.Helper()
			var got []string
			for _, entry := range logs.TakeAll() {
				got = append(got, entry.Level.String())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", when, got, want)
			}
		}

		h.succeeded(a, "support")
		expect("all is well")
		time.Sleep(time.Second)
		for range 100 {
			fail(time.Now())
		}
		expect("it goes bad", "warn")
		began := time.Now()
		time.Sleep(time.Second)
		h.succeeded(a, "support")
		h.succeeded(a, "support")
		expect("it is back", "info")
		fail(began)
		expect("a failure is told late")
		time.Sleep(time.Second)
		fail(time.Now())
		h.succeeded(a, "support")
		expect("single ones fail soon after")
		time.Sleep(warnAgainAfter)
		fail(time.Now())
		expect("it goes bad later", "warn")
	})
}
