// Package history keeps what this process saw in the last hour, by minutes, for the charts of the pages, and when
// Intercom did what. It is in memory only, and bounded.
package history

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Minutes is how many are kept.
	Minutes = 60

	// maxLanes is how many lanes have a series of their own. Further ones share one.
	maxLanes = 200
)

// Kind is what is counted.
type Kind int

// The kinds.
const (
	Accepted  Kind = iota // notifications that were answered with success, or stored for a lane
	Delivered             // attempts that succeeded
	Failed                // attempts, or answers to Intercom, that did not
	kinds
)

// Intercom is what Intercom did, and what it was answered. Its series has the times of the answers.
var Intercom struct {
	Series
	Errors               atomic.Int64 // error answers since the last good one
	Head, Ping, Verified Moment       // when the last one came
}

// Moment is when something happened last in this process.
type Moment struct{ nanos atomic.Int64 }

// Set sets it.
func (m *Moment) Set(t time.Time) { m.nanos.Store(t.UnixNano()) }

// Get returns it; the zero time if it never happened.
func (m *Moment) Get() (t time.Time) {
	if n := m.nanos.Load(); n != 0 {
		t = time.Unix(0, n)
	}
	return t
}

var lanes = struct {
	sync.Mutex
	byLabel map[string]*Series
	rest    Series
}{byLabel: make(map[string]*Series)}

// Lane returns the series of a lane, which has the times of its backend.
func Lane(label string) *Series {
	lanes.Lock()
	defer lanes.Unlock()
	s := lanes.byLabel[label]
	switch {
	case s != nil:
	case len(lanes.byLabel) == maxLanes:
		s = &lanes.rest
	default:
		s = new(Series)
		lanes.byLabel[label] = s
	}
	return s
}

// Series is what happened in the last hour. Its methods may be called at the same time.
type Series struct {
	mu      sync.Mutex
	minutes [Minutes]bucket
}

type bucket struct {
	number int64 // minutes since the epoch
	counts [kinds]int
	times  times
}

// at returns the bucket of a time.
func (s *Series) at(now time.Time) *bucket {
	number := now.Unix() / 60
	b := &s.minutes[number%Minutes]
	if b.number != number {
		*b = bucket{number: number}
	}
	return b
}

// Count counts what has happened.
func (s *Series) Count(now time.Time, kind Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at(now).counts[kind]++
}

// Took counts what has happened, and how long it took.
func (s *Series) Took(now time.Time, kind Kind, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.at(now)
	b.counts[kind]++
	b.times.add(took)
}

// Minute is what happened in a minute, or in several.
type Minute struct {
	At                          time.Time // its begin
	Accepted, Delivered, Failed int
	times                       times
}

// Quantile returns the time that so large a part of all took at most, about: it is right to an eighth. It is 0 if nothing
// took any time.
func (m Minute) Quantile(part float64) time.Duration { return m.times.quantile(part) }

func (m *Minute) add(b *bucket) {
	m.Accepted += b.counts[Accepted]
	m.Delivered += b.counts[Delivered]
	m.Failed += b.counts[Failed]
	for i, n := range b.times {
		m.times[i] += n
	}
}

// Hour returns the last minutes of some series together, the oldest first. The last one has not ended yet.
func Hour(all ...*Series) []Minute {
	last := time.Now().Unix() / 60
	hour := make([]Minute, Minutes)
	for i := range hour {
		hour[i].At = time.Unix((last-Minutes+1+int64(i))*60, 0).UTC()
	}
	for _, s := range all {
		s.mu.Lock()
		for i := range s.minutes {
			if at := s.minutes[i].number - last + Minutes - 1; at >= 0 && at < Minutes {
				hour[at].add(&s.minutes[i])
			}
		}
		s.mu.Unlock()
	}
	return hour
}

// AllLanes returns the last minutes of all lanes together.
func AllLanes() []Minute {
	lanes.Lock()
	all := []*Series{&lanes.rest}
	for _, s := range lanes.byLabel {
		all = append(all, s)
	}
	lanes.Unlock()
	return Hour(all...)
}

// Sum adds up minutes.
func Sum(minutes []Minute) (sum Minute) {
	for i := range minutes {
		m := &minutes[i]
		sum.add(&bucket{counts: [kinds]int{m.Accepted, m.Delivered, m.Failed}, times: m.times})
	}
	return sum
}

// times counts how long something took. The first class is up to shortest, each further one up to step times as long.
type times [64]uint32

const (
	shortest = float64(200 * time.Microsecond)
	step     = 1.24
)

func (t *times) add(took time.Duration) {
	class := 0
	if over := float64(took) / shortest; over > 1 {
		class = min(int(math.Ceil(math.Log(over)/math.Log(step))), len(t)-1)
	}
	t[class]++
}

func (t *times) quantile(part float64) time.Duration {
	var all, below uint64
	for _, n := range t {
		all += uint64(n)
	}
	for class, n := range t {
		if below += uint64(n); n > 0 && float64(below) >= part*float64(all) {
			return time.Duration(shortest * math.Pow(step, float64(class)-0.5)) // the middle of the class
		}
	}
	return 0
}
