package load

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// longest is the longest duration that is told from longer ones.
const longest = time.Hour

// Durations keeps how long things took, exact to 0.1 % and to the microsecond. It takes
// the same memory however many there are. It is not for use by several goroutines at once.
type Durations struct {
	histogram *hdrhistogram.Histogram
	greatest  time.Duration
}

// NewDurations returns an empty one.
func NewDurations() *Durations {
	return &Durations{histogram: hdrhistogram.New(1, longest.Microseconds(), 3)}
}

// Add adds one. What is negative counts as 0.
func (d *Durations) Add(took time.Duration) {
	took = min(max(0, took), longest)
	d.greatest = max(d.greatest, took)
	_ = d.histogram.RecordValue(took.Microseconds()) // it is in the range
}

// Len returns how many there are.
func (d *Durations) Len() int { return int(d.histogram.TotalCount()) }

// Percentile returns the duration that so many percent do not exceed; 0 if there are none.
// The histogram rounds up, but the result is never more than Max.
func (d *Durations) Percentile(percent float64) time.Duration {
	return min(time.Duration(d.histogram.ValueAtQuantile(percent))*time.Microsecond, d.greatest)
}

// Max returns the longest duration, without rounding; 0 if there are none.
func (d *Durations) Max() time.Duration { return d.greatest }
