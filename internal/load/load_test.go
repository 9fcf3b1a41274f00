package load

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	tests := []struct {
		name        string
		plan        Plan
		takes       time.Duration
		wantCount   int
		wantElapsed time.Duration
		wantAtOnce  int64
		wantWait    time.Duration // the longest from arriving to the end
	}{
		{"one after the other", Plan{Count: 10}, 100 * time.Millisecond, 10, time.Second, 1, 100 * time.Millisecond},
		{"several after each other", Plan{Count: 40, AtOnce: 4}, 100 * time.Millisecond, 40, time.Second, 4, 100 * time.Millisecond},
		{"for a time", Plan{AtOnce: 4, Duration: 950 * time.Millisecond}, 100 * time.Millisecond, 40, time.Second, 4, 100 * time.Millisecond},
		{"a rate that needs none to overlap", Plan{Count: 11, Rate: 10, AtOnce: 8}, 50 * time.Millisecond, 11, 1050 * time.Millisecond, 1, 50 * time.Millisecond},
		{"a rate that needs some to overlap", Plan{Count: 101, Rate: 100, AtOnce: 32}, 95 * time.Millisecond, 101, 1095 * time.Millisecond, 10, 95 * time.Millisecond},
		{"a rate for a time", Plan{Rate: 100, AtOnce: 32, Duration: 995 * time.Millisecond}, time.Millisecond, 100, 995 * time.Millisecond, 1, time.Millisecond},
		{"a rate that cannot be held counts what it waits", Plan{Count: 64, Rate: 64_000, AtOnce: 32}, time.Second, 64, 2 * time.Second, 32, 2 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var running, most atomic.Int64
				do := func(_ context.Context, arrived time.Time) time.Duration {
					n := running.Add(1)
					defer running.Add(-1)
					for m, swapped := most.Load(), false; n > m && !swapped; m = most.Load() {
						swapped = most.CompareAndSwap(m, n)
					}
					time.Sleep(tt.takes)
					return time.Since(arrived)
				}

				began := time.Now()
				took := NewDurations()
				for d := range Start(t.Context(), tt.plan, do) {
					took.Add(d)
				}

				if took.Len() != tt.wantCount {
					t.Errorf("%d have run, want %d", took.Len(), tt.wantCount)
				}
				if elapsed := time.Since(began); !near(elapsed, tt.wantElapsed) {
					t.Errorf("took %s, want %s", elapsed, tt.wantElapsed)
				}
				if most.Load() != tt.wantAtOnce {
					t.Errorf("%d ran at once, want %d", most.Load(), tt.wantAtOnce)
				}
				if longest := took.Percentile(100); !near(longest, tt.wantWait) {
					t.Errorf("the longest took %s from its arrival, want %s", longest, tt.wantWait)
				}
			})
		})
	}
}

// near allows for what the histogram rounds.
func near(got, want time.Duration) bool { return (got - want).Abs() <= want/500 }

func TestCancelEndsLoad(t *testing.T) {
	for name, plan := range map[string]Plan{
		"at a rate with many that wait": {Rate: 100_000, AtOnce: 2, Count: 1000},
		"at a rate with none that runs": {Rate: 0.001, AtOnce: 2},
		"without a rate":                {AtOnce: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				began := time.Now()
				for range Start(ctx, plan, func(context.Context, time.Time) bool {
					time.Sleep(300 * time.Millisecond)
					return true
				}) {
				}
				if took := time.Since(began); took > 1300*time.Millisecond {
					t.Errorf("ended after %s, want when those that ran had ended", took)
				}
			})
		})
	}
}

func TestPercentile(t *testing.T) {
	tests := []struct {
		name    string
		count   int // of durations: 1ms, 2ms and so on
		percent float64
		want    time.Duration
	}{
		{"the median of a hundred", 100, 50, 50 * time.Millisecond},
		{"all but one of a hundred", 100, 99, 99 * time.Millisecond},
		{"the greatest of a hundred", 100, 100, 100 * time.Millisecond},
		{"any of one", 1, 50, time.Millisecond},
		{"the median of three", 3, 50, 2 * time.Millisecond},
		{"p99 of few is the greatest", 3, 99, 3 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDurations()
			for i := range tt.count {
				d.Add(time.Duration(i+1) * time.Millisecond)
			}
			if got := d.Percentile(tt.percent); !near(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestMaxIsNotRounded(t *testing.T) {
	d := NewDurations()
	if got := d.Max(); got != 0 {
		t.Errorf("the longest of none is %s, want 0", got)
	}
	const longer = 6*time.Second + 100*time.Microsecond // the histogram has no step there
	d.Add(longer)
	d.Add(time.Second)
	for name, got := range map[string]time.Duration{"max": d.Max(), "p99": d.Percentile(99)} {
		if got != longer {
			t.Errorf("%s is %s, want %s", name, got, longer)
		}
	}
}

func TestDurationsOutOfRange(t *testing.T) {
	d := NewDurations()
	if got := d.Percentile(99); got != 0 {
		t.Errorf("p99 of none is %s, want 0", got)
	}
	d.Add(-time.Second)
	d.Add(2 * longest)
	if got := d.Percentile(50); got != 0 {
		t.Errorf("the shorter is %s, want 0", got)
	}
	if got := d.Percentile(100); !near(got, longest) {
		t.Errorf("the longer is %s, want %s", got, longest)
	}
}
