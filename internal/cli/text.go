package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// escape makes text that comes from outside safe to print in one line of a terminal. Each
// character that does not print is written as in Go source text.
func escape(text string) string {
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// prettyBody returns a body for a terminal, indented if it is JSON.
func prettyBody(body []byte) string {
	text, safe := string(body), escape
	var pretty bytes.Buffer
	if utf8.Valid(body) && json.Indent(&pretty, body, "", "  ") == nil {
		text, safe = pretty.String(), escapeJSON
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = safe(line)
	}
	return strings.Join(lines, "\n")
}

// shorten cuts text after so many characters.
func shorten(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most-1]) + "…"
}

// cells makes the cells of a table's row safe to print. An empty one becomes a dash.
func cells(texts ...string) []string {
	for i, text := range texts {
		if texts[i] = escape(text); text == "" {
			texts[i] = "-"
		}
	}
	return texts
}

// localTime writes a time for a person; empty if there is none.
func localTime(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.Local().Format(time.DateTime)
}

// count writes a number and the name of what is counted.
func count(n int, name string) string {
	if n == 1 {
		return "1 " + name
	}
	return comma(n) + " " + name + "s"
}
