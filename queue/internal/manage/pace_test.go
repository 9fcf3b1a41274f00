package manage

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	for _, c := range []struct {
		name    string
		rate    float64
		cost    time.Duration // of one delivery
		latency time.Duration // of answers
		n       int
		least   time.Duration
		most    time.Duration
	}{
		{"pauses for as long as it works", 0, time.Millisecond, 0, 1000, 2 * time.Second, 2 * time.Second},
		{"keeps to the rate", 50, 0, 0, 100, 2 * time.Second, 2 * time.Second},
		{"keeps to a rate below one a second", 0.5, 0, 0, 3, 6 * time.Second, 6 * time.Second},
		{"makes no pause that is not needed", 1000, time.Millisecond, 0, 1000, 2 * time.Second, 2200 * time.Millisecond},
		{"pauses for longer while answers are slow", 0, 0, 100 * time.Millisecond, 500, 2000 * time.Millisecond, 2800 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				p := newPace(c.rate)
				for left := c.n; left > 0; {
					n := min(left, p.size)
					took := time.Duration(n) * c.cost
					time.Sleep(took)
					if took > 4*batchTime {
						t.Errorf("a batch takes %s", took)
					}
					if err := p.wait(t.Context(), n, took, c.latency); err != nil {
						t.Fatal(err)
					}
					left -= n
				}
				if took := time.Since(began); took < c.least || took > c.most {
					t.Errorf("took %s, want from %s to %s", took, c.least, c.most)
				}
			})
		})
	}
}

func TestPaceEndsWithItsContext(t *testing.T) {
	config, end := context.WithCancel(t.Context())
	ctx, cancel := WhileConfig(t.Context(), config)
	defer cancel()
	end()
	if err := newPace(0.001).wait(ctx, 1, 0, 0); !errors.Is(err, errConfigChanged) {
		t.Errorf("error %v", err)
	}
}

func TestTheLowestRateIsNoMissingLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if err := newPace(1e-300).wait(ctx, 1, 0, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a day later, it is %v", err)
		}
	})
}
