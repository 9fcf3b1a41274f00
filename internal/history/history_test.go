package history

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s, other Series
		s.Count(time.Now(), Accepted)
		time.Sleep(59 * time.Minute)
		s.Took(time.Now(), Delivered, time.Second)
		s.Took(time.Now(), Failed, 3*time.Second)
		other.Count(time.Now(), Accepted)
		hour := Hour(&s, &other)
		if first, last := hour[0], hour[Minutes-1]; first.Accepted != 1 || last.Accepted != 1 || last.Delivered != 1 || last.Failed != 1 {
			t.Errorf("the first minute is %+v, the last %+v", first, last)
		}
		if took := hour[Minutes-1].At.Sub(hour[0].At); took != 59*time.Minute || hour[Minutes-1].At.After(time.Now()) {
			t.Errorf("from %s, over %s", hour[0].At, took)
		}
		if sum := Sum(hour); sum.Accepted != 2 || sum.Delivered != 1 || sum.Failed != 1 {
			t.Errorf("the sum is %+v", sum)
		}
		time.Sleep(time.Minute)
		if sum := Sum(Hour(&s)); sum.Accepted != 0 || sum.Delivered != 1 {
			t.Errorf("after an hour, the sum is %+v", sum)
		}
		time.Sleep(time.Hour)
		if sum := Sum(Hour(&s)); sum.Delivered != 0 || sum.Quantile(0.5) != 0 {
			t.Errorf("after two hours, the sum is %+v", sum)
		}
	})
}

func TestQuantiles(t *testing.T) {
	for _, took := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 480 * time.Millisecond, 30 * time.Second} {
		var s Series
		for range 98 {
			s.Took(time.Now(), Delivered, took)
		}
		for range 2 {
			s.Took(time.Now(), Delivered, 2*took)
		}
		sum := Sum(Hour(&s))
		for part, want := range map[float64]time.Duration{0.5: took, 0.95: took, 0.99: 2 * took} {
			if got := sum.Quantile(part); math.Abs(float64(got-want)) > float64(want)/8 {
				t.Errorf("%s: %v is %s, want %s", took, part, got, want)
			}
		}
	}
	var s Series
	s.Took(time.Now(), Delivered, 0)
	s.Took(time.Now(), Delivered, 1000*time.Hour) // no bound
}

// Names of lanes can come from a database.
func TestLanesAreBounded(t *testing.T) {
	for i := range 2 * maxLanes {
		Lane(fmt.Sprint("lane ", i)).Count(time.Now(), Accepted)
	}
	if n := len(lanes.byLabel); n != maxLanes {
		t.Errorf("%d lanes", n)
	}
	if sum := Sum(AllLanes()); sum.Accepted != 2*maxLanes {
		t.Errorf("%d were counted", sum.Accepted)
	}
	if Lane("lane 0") == Lane("lane 1") || Lane("new") != &lanes.rest {
		t.Error("lanes share a series")
	}
}

func BenchmarkTook(b *testing.B) {
	s := Lane("benchmark")
	for b.Loop() {
		s.Took(time.Now(), Delivered, 20*time.Millisecond)
	}
}
