package web

import (
	"fmt"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
)

// functions are what the templates use.
var functions = template.FuncMap{
	"plain":  plain,
	"number": func(n any) string { return number(whole(n)) },
	"took":   took,
	"ago":    ago,
	"age":    age,
	"since":  func(t time.Time) string { return rough(time.Since(t)) },
	"query":  query,
	"plural": func(n any, one, several string) string { return plural(whole(n), one, several) },
	"title":  func(text any) string { return title(fmt.Sprint(text)) },
	"count":  count,
	"comma":  func(text string) bool { return strings.Contains(text, ",") },
	"past":   func(verb manage.Verb) string { return past[verb] },
	"seconds": func(seconds float64) time.Duration {
		return time.Duration(seconds * float64(time.Second))
	},
	"list": func(values ...any) []any { return values },
}

var past = map[manage.Verb]string{manage.Retry: "retried", manage.Resend: "resent", manage.Drop: "dropped"}

// plain returns text of somebody else with its control characters in visible form: also those that change the
// direction of the text after them. Joiners stay, for scripts and emoji.
func plain(text string) string {
	var b strings.Builder
	for _, char := range text {
		if unicode.IsGraphic(char) || strings.ContainsRune("\n\t\u200c\u200d", char) {
			b.WriteRune(char)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(char), "'"))
		}
	}
	return b.String()
}

// title returns a text with a capital letter.
func title(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// whole returns a whole number of either type.
func whole(n any) int64 {
	if n, ok := n.(int); ok {
		return int64(n)
	}
	return n.(int64)
}

// count returns how many deliveries are in some states.
func count(of map[string]int64, states ...string) string {
	var n int64
	for _, state := range states {
		n += of[state]
	}
	return number(n)
}

// number returns a number with commas between thousands.
func number[T int | int64](n T) string { return humanize.Comma(int64(n)) }

// plural returns a number with its noun.
func plural(n int64, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + several
}

// took returns how long something took, with two or three digits; a dash for what took no time.
func took(d time.Duration) string {
	switch {
	case d <= 0:
		return "–"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return span(d)
	}
}

// span returns a duration in its two largest units.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	units := []struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}}
	for i, u := range units {
		if d < u.size {
			continue
		}
		text := fmt.Sprintf("%d %s", d/u.size, u.name)
		if i+1 < len(units) && d%u.size >= units[i+1].size {
			text += fmt.Sprintf(" %d %s", d%u.size/units[i+1].size, units[i+1].name)
		}
		return text
	}
	return "0 s"
}

// ago returns how long ago a time is.
func ago(t time.Time) string { return rough(time.Since(t)) + " ago" }

// age returns an age in seconds as text.
func age(seconds float64) string {
	if seconds == 0 {
		return "–"
	}
	return rough(time.Duration(seconds * float64(time.Second)))
}

// rough returns a duration so roughly that what is shown does not change each second.
func rough(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "under 1 min"
	case d < 24*time.Hour:
		return span(d.Truncate(time.Minute))
	default:
		return span(d.Truncate(time.Hour))
	}
}

// query returns a query of names and values, without those that are empty.
func query(pairs ...string) template.URL {
	values := make(url.Values)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			values.Set(pairs[i], pairs[i+1])
		}
	}
	return template.URL(values.Encode()) //nolint:gosec // it is escaped
}
