package web

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/history"
)

// The size of a chart, and of the part of it that has the curves.
const (
	chartWidth, chartHeight = 480, 170
	left, right             = 50.0, 474.0
	top, bottom             = 12.0, 146.0
	slot                    = (right - left) / history.Minutes
)

// drawing is an SVG. Only numbers and fixed texts are written into it.
type drawing struct{ strings.Builder }

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(d, format, args...) }

func (d *drawing) html() template.HTML { return template.HTML(d.String() + "</svg>") } //nolint:gosec // see drawing

// newChart begins a chart with the axis of the last hour. What label says is for those who cannot see it.
func newChart(label string) *drawing {
	d := new(drawing)
	d.add(`<svg class="chart" viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartWidth, chartHeight, template.HTMLEscapeString(label))
	for i, text := range []string{"60 min ago", "45", "30", "15", "now"} {
		anchor, x := "middle", left+(right-left)*float64(i)/4
		switch i {
		case 0:
			anchor = "start"
		case 4:
			anchor = "end"
		}
		d.add(`<text x="%.0f" y="164" text-anchor="%s">%s</text>`, x, anchor, text)
	}
	return d
}

// line draws a horizontal line with its value.
func (d *drawing) line(class string, y float64, label string) {
	d.add(`<path class="%s" d="M%.1f %.1fH%.1f"/><text x="%.1f" y="%.1f" text-anchor="end">%s</text>`, class, left, y, right, left-6, y+4, label)
}

// curve draws a curve through the middles of the minutes, with gaps where y returns a negative number.
func (d *drawing) curve(class string, begin, width float64, y func(minute int) float64) {
	var path strings.Builder
	command := "M"
	for i := range history.Minutes {
		at := y(i)
		if at < 0 {
			command = "M"
			continue
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", command, begin+width*(float64(i)+.5), at)
		if command == "M" {
			path.WriteString("h.01") // so that one that stands alone is seen
		}
		command = "L"
	}
	d.add(`<path class="%s" d="%s"/>`, class, path.String())
}

// hover gives each minute a text for the pointer.
func (d *drawing) hover(hour []history.Minute, text func(*history.Minute) string) {
	for i := range hour {
		d.add(`<rect class="hit" x="%.1f" y="%.0f" width="%.1f" height="%.0f"><title>%s UTC: %s</title></rect>`,
			left+slot*float64(i), top, slot, bottom-top, hour[i].At.Format("15:04"), text(&hour[i]))
	}
}

// nice returns the smallest of 1, 2, 5, 10, 20 … that is not smaller.
func nice(n int) int {
	for size := 1; ; size *= 10 {
		for _, factor := range []int{1, 2, 5} {
			if size*factor >= n {
				return size * factor
			}
		}
	}
}

// rates draws how many there were in each minute.
func rates(hour []history.Minute) template.HTML {
	most := 4
	for i := range hour {
		most = max(most, hour[i].Accepted, hour[i].Delivered, hour[i].Failed)
	}
	most = nice(most)
	sum := history.Sum(hour)
	d := newChart(fmt.Sprintf("In the last hour: %s accepted, %s delivered, %s failed", number(sum.Accepted), number(sum.Delivered), number(sum.Failed)))
	y := func(n int) float64 { return bottom - (bottom-top)*float64(n)/float64(most) }
	d.line("grid", y(most), number(most))
	d.line("grid", y(most/2), number(most/2))
	d.line("axis", bottom, "0")
	for i := range hour {
		if n := hour[i].Failed; n > 0 {
			d.add(`<rect class="failed" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, left+slot*float64(i)+1.5, min(y(n), bottom-2), slot-3, max(bottom-y(n), 2))
		}
	}
	curve := func(class string, n func(*history.Minute) int) {
		d.curve(class, left, slot, func(i int) float64 {
			if i == history.Minutes-1 && n(&hour[i]) < n(&hour[i-1]) {
				return -1 // this minute has not ended yet
			}
			return y(n(&hour[i]))
		})
	}
	curve("accepted", func(m *history.Minute) int { return m.Accepted })
	curve("delivered", func(m *history.Minute) int { return m.Delivered })
	d.hover(hour, func(m *history.Minute) string {
		return fmt.Sprintf("%s accepted, %s delivered, %s failed", number(m.Accepted), number(m.Delivered), number(m.Failed))
	})
	return d.html()
}

// latencies draws how long half of all took at most, and how long so large a part of all, on a scale on which each line
// is ten times the one below it. A limit is drawn, too.
func latencies(hour []history.Minute, part float64, limit time.Duration) template.HTML {
	const shortest = time.Millisecond
	longest := time.Second
	for i := range hour {
		for longest < hour[i].Quantile(part) {
			longest *= 10
		}
	}
	name := fmt.Sprintf("p%.0f", part*100)
	sum := history.Sum(hour)
	d := newChart(fmt.Sprintf("In the last hour: p50 %s, %s %s", took(sum.Quantile(.5)), name, took(sum.Quantile(part))))
	y := func(t time.Duration) float64 {
		over := math.Log(float64(max(t, shortest))/float64(shortest)) / math.Log(float64(longest)/float64(shortest))
		return bottom - (bottom-top)*over
	}
	for t := shortest; t <= longest; t *= 10 {
		class := "grid"
		if t == shortest {
			class = "axis"
		}
		label := strings.Replace(took(t), ".0", "", 1)
		if t > time.Minute {
			label = fmt.Sprintf("%.0f s", t.Seconds())
		}
		d.line(class, y(t), label)
	}
	if limit > 0 {
		d.add(`<path class="limit" d="M%.1f %.1fH%.1f"/><text class="limit" x="%.1f" y="%.1f">%s</text>`, left, y(limit), right, left+4, y(limit)-4, took(limit))
	}
	curve := func(class string, part float64) {
		d.curve(class, left, slot, func(i int) float64 {
			if t := hour[i].Quantile(part); t > 0 {
				return y(t)
			}
			return -1
		})
	}
	curve("slow", part)
	curve("half", .5)
	d.hover(hour, func(m *history.Minute) string {
		return fmt.Sprintf("p50 %s, %s %s", took(m.Quantile(.5)), name, took(m.Quantile(part)))
	})
	return d.html()
}

// spark draws the last hour of a lane in a row of a table.
func spark(hour []history.Minute) template.HTML {
	const width, height = 2.0, 26.0
	most := 1
	for i := range hour {
		most = max(most, hour[i].Delivered, hour[i].Failed)
	}
	sum := history.Sum(hour)
	text := fmt.Sprintf("In the last hour: %s delivered, %s failed", number(sum.Delivered), number(sum.Failed))
	d := new(drawing)
	d.add(`<svg class="spark" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s"><title>%[3]s</title><path class="axis" d="M0 25.5H120"/>`, width*history.Minutes, height, text)
	y := func(n int) float64 { return height - 1 - (height-3)*float64(n)/float64(most) }
	for i := range hour {
		if n := hour[i].Failed; n > 0 {
			d.add(`<rect class="failed" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, width*float64(i), min(y(n), height-3), width-.4, max(height-1-y(n), 2))
		}
	}
	d.curve("delivered", 0, width, func(i int) float64 { return y(hour[i].Delivered) })
	return d.html()
}
