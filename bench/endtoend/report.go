package main

import (
	"fmt"
	"io"
	"time"
)

// result is a line of the table.
type result struct {
	what, figure, note string
	perSecond          float64 // 0: no rate
}

func (r *rig) addRate(what string, perSecond float64, note string) {
	r.results = append(r.results, result{what: what, figure: fmt.Sprintf("%.0f/s", perSecond), perSecond: perSecond, note: note})
}

func (r *rig) addTime(what string, took time.Duration, note string) {
	r.results = append(r.results, result{what: what, figure: short(took), note: note})
}

// addMemory adds the most memory that the gateway has had since it was launched.
func (r *rig) addMemory(what string) error {
	bytes, err := mostMemory(r.cmd.Process.Pid)
	r.results = append(r.results, result{what: what, figure: fmt.Sprintf("%.0f MiB", bytes/(1<<20))})
	return err
}

// wanted has what the project wants on a machine whose bare reverse_proxy does 7,800 to
// 9,200/s.
var wanted = map[string]map[string]string{
	sqlite: {
		"stored and delivered together":        "≥ 4,000/s, ratio ≥ 0.40",
		"working off a backlog":                "≥ 5,500/s",
		"most memory with a backlog of 200000": "< 150 MiB",
	},
	postgres: {
		"stored and delivered together": "≥ 2,500/s, ratio ≥ 0.25",
		"working off a backlog":         "≥ 4,000/s",
	},
}

// wantedOfBoth has what is the same for both engines.
var wantedOfBoth = map[string]string{
	"most memory at 64 connections":      "< 110 MiB",
	"most memory at 2,500/s":             "< 100 MiB",
	"sending to delivery at 2500/s, p99": "< 150 ms",
	"sending to answer at 2500/s, p99":   "< 100 ms",
	"sending to delivery at 50/s, p50":   "< 3 ms",
	"sending to delivery at 50/s, p99":   "< 30 ms",
}

// print prints the table in Markdown.
func (b *bench) print(w io.Writer) {
	fmt.Fprintf(w, "\n| %s | figure | ratio to bare | wanted | |\n|---|---|---|---|---|\n", b.engine)
	fmt.Fprintf(w, "| appending to a file | %.0f/s | | | 4 KiB, %d callers share each fsync |\n", b.appended, connectionCount)
	var bare float64
	for _, perSecond := range b.bare {
		bare += perSecond / float64(len(b.bare))
	}
	if bare > 0 {
		fmt.Fprintf(w, "| bare `reverse_proxy` | %.0f/s | 1 | | first and last: %.0f |\n", bare, b.bare)
	}
	for _, r := range b.results {
		ratio := ""
		if r.perSecond > 0 && bare > 0 {
			ratio = fmt.Sprintf("%.2f", r.perSecond/bare)
		}
		want := wanted[b.engine][r.what] + wantedOfBoth[r.what]
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", r.what, r.figure, ratio, want, r.note)
	}
}

// short writes a duration with no more digits than are worth reading.
func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	default:
		return fmt.Sprintf("%d µs", d.Microseconds())
	}
}
