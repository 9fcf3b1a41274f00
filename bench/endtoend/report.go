package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Units of figures.
const (
	perSecond    = "/s"
	milliseconds = " ms"
	kilobytes    = " KB"
	mebibytes    = " MiB"
	ofBare       = " of the bare proxy"
)

// figure is a line of the table: of each build, what was measured in each round.
type figure struct {
	what, unit string
	measured   [][]float64
}

// add notes what was measured of a figure with the rig's build.
func (r *rig) add(what, unit string, value float64) {
	at := slices.IndexFunc(r.figures, func(f *figure) bool { return f.what == what && f.unit == unit })
	if at < 0 {
		at = len(r.figures)
		r.figures = append(r.figures, &figure{what, unit, make([][]float64, len(r.gateways))})
	}
	of := r.figures[at].measured
	of[r.build] = append(of[r.build], value)
}

// addRate notes a rate, and its ratio to the bare reverse_proxy of the same process.
func (r *rig) addRate(what string, rate float64) {
	r.add(what, perSecond, rate)
	r.add(what, ofBare, rate/r.bare)
}

// addMemory notes the most memory that the gateway has had since it was launched.
func (r *rig) addMemory(what string) error {
	bytes, err := mostMemory(r.cmd.Process.Pid)
	r.add(what, mebibytes, bytes/(1<<20))
	return err
}

// addUsage notes what a notification has cost since u.
func (r *rig) addUsage(ctx context.Context, what string, u usage, notifications int) error {
	now, err := r.startUsage(ctx)
	if err != nil {
		return err
	}
	each := float64(max(1, notifications))
	r.add(what+", processor time of the gateway each", milliseconds, inMilliseconds(now.gateway-u.gateway)/each)
	if r.bench.engine == postgres {
		r.add(what+", processor time of PostgreSQL each", milliseconds, inMilliseconds(now.server-u.server)/each)
		r.add(what+", write-ahead log each", kilobytes, (now.log-u.log)/1000/each)
	}
	return nil
}

// print prints the table in Markdown: of each build the median, and in brackets the least and
// the most; with several builds, of each but the last the median of its ratios to the last
// one, round by round.
func (b *bench) print(w io.Writer) {
	fmt.Fprintf(w, "\nAppending to a file: %.0f/s (4 KiB, %d callers share each fsync)\n\n| %s |", b.appended, connectionCount, b.engine)
	last := len(b.gateways) - 1
	for i, path := range b.gateways {
		fmt.Fprintf(w, " build %d (%s) |", i+1, filepath.Join(filepath.Base(filepath.Dir(path)), filepath.Base(path)))
	}
	for i := range last {
		fmt.Fprintf(w, " %d to %d |", i+1, last+1)
	}
	fmt.Fprintf(w, "\n|%s\n", strings.Repeat("---|", 2+2*last))
	for _, f := range b.figures {
		fmt.Fprintf(w, "| %s |", f.what)
		for i := range b.gateways {
			fmt.Fprintf(w, " %s |", spread(f.measured[i], f.unit))
		}
		for i := range last {
			fmt.Fprintf(w, " %s |", spread(ratios(f.measured[i], f.measured[last]), ""))
		}
		fmt.Fprintln(w)
	}
}

// ratios divides round by round.
func ratios(of, to []float64) (ratios []float64) {
	for i := range min(len(of), len(to)) {
		ratios = append(ratios, of[i]/to[i])
	}
	return ratios
}

// spread writes the median, and the least and the most.
func spread(values []float64, unit string) string {
	if len(values) == 0 {
		return "–"
	}
	sorted := slices.Sorted(slices.Values(values))
	median := (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
	return fmt.Sprintf("%s%s (%s to %s)", digits(median), unit, digits(sorted[0]), digits(sorted[len(sorted)-1]))
}

// digits writes a number with no more digits than are worth reading.
func digits(value float64) string {
	switch {
	case value >= 100:
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	default:
		return fmt.Sprintf("%.2f", value)
	}
}

func inMilliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

func short(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }
