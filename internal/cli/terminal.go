package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/jsonview"
)

// isTerminal reports whether a person sees what is written to stream, or types what is read
// from it.
var isTerminal = func(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// confirm asks a question, and reports whether the answer is yes. Everything else means no.
func confirm(ctx context.Context, in io.Reader, out io.Writer, question string) (bool, error) {
	fmt.Fprintf(out, "%s [y/N] ", question)
	answers := make(chan string, 1)
	go func() {
		answer, _ := bufio.NewReader(in).ReadString('\n') // no answer is a no
		answers <- strings.ToLower(strings.TrimSpace(answer))
	}()
	select {
	case answer := <-answers:
		return answer == "y" || answer == "yes", nil
	case <-ctx.Done():
		fmt.Fprintln(out)
		return false, ctx.Err()
	}
}

// progress shows how far a long change has come, in one line of a terminal. Elsewhere it
// shows nothing.
type progress struct {
	out   io.Writer
	verb  string // in the past tense
	start time.Time
	shown bool
}

func newProgress(out io.Writer, verb string) *progress {
	return &progress{out: out, verb: verb, start: time.Now()}
}

// show replaces the line.
func (p *progress) show(done, total int64) {
	if !isTerminal(p.out) || total == 0 {
		return
	}
	left := ""
	if passed := time.Since(p.start); done > 0 && done < total && passed > time.Second {
		rest := time.Duration(float64(passed) / float64(done) * float64(total-done))
		left = fmt.Sprintf(", about %s left", rest.Round(time.Second))
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s %s of %s (%d%%)%s", p.verb, comma(done), comma(total), done*100/total, left)
	p.shown = true
}

// clear removes the line.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = false
	}
}

// escape makes text that comes from outside safe to print in one line of a terminal. Each
// character that does not print is written as in Go source text.
func escape(text string) string {
	quoted := strconv.Quote(text)
	return unescapeQuotes.Replace(quoted[1 : len(quoted)-1])
}

var unescapeQuotes = strings.NewReplacer(`\\`, `\`, `\"`, `"`)

// printable writes to where a person may look, and escapes what a terminal may take for something
// else than text. Everything that a command prints goes through one, so that nothing from outside
// needs to be remembered; only a line break in what belongs into one line needs escape.
type printable struct{ io.Writer }

func (p printable) Write(text []byte) (int, error) {
	_, err := p.Writer.Write([]byte(escapeLines(string(text))))
	return len(text), err
}

// escapeLines is escape for text of several lines.
func escapeLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = escape(line)
	}
	return strings.Join(lines, "\n")
}

// errorText returns the text of an error, which quotes files, servers and other programs, for a
// terminal. Only errors that were joined have lines of their own.
func errorText(err error) string {
	joined, ok := err.(interface{ Unwrap() []error }) // not one that is wrapped
	if !ok {
		return escape(err.Error())
	}
	var raw, lines []string
	for _, part := range joined.Unwrap() {
		raw, lines = append(raw, part.Error()), append(lines, errorText(part))
	}
	if strings.Join(raw, "\n") != err.Error() { // fmt.Errorf with several %w
		return escape(err.Error())
	}
	return strings.Join(lines, "\n")
}

// escapeJSON makes a line of JSON from outside safe to print on a terminal. It writes characters
// that do not print as JSON does, so that the line keeps its meaning.
func escapeJSON(text string) string {
	if !strings.ContainsFunc(text, unprintable) && utf8.ValidString(text) {
		return text
	}
	return escapeRunes(text, unprintable)
}

// escapeRunes writes the characters of JSON that are to be escaped as JSON does.
func escapeRunes(text string, escaped func(rune) bool) string {
	var out strings.Builder
	for _, r := range text {
		switch high, low := utf16.EncodeRune(r); {
		case !escaped(r):
			out.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		}
	}
	return out.String()
}

// unprintable reports whether a terminal may take a character for something else than text.
func unprintable(r rune) bool { return !unicode.IsPrint(r) && r != ' ' }

// printJSON prints a value as one line.
func printJSON(w io.Writer, value any) error {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, escapeJSON(strings.TrimSuffix(line.String(), "\n")))
	return err
}

// prettyBody returns a body for a terminal, indented if it is JSON.
func prettyBody(body []byte) string {
	indented, all := jsonview.Indent(body)
	if !all {
		return escapeLines(string(indented))
	}
	return escapeRunes(string(indented), func(r rune) bool { return unprintable(r) && r != '\n' })
}

// jsonParts returns the strings of JSON, with their quotes, and the bytes between them one by one.
func jsonParts(document []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rest := document; len(rest) > 0; {
			n := 1
			if rest[0] == '"' {
				for n < len(rest) && rest[n] != '"' {
					if rest[n] == '\\' {
						n++
					}
					n++
				}
				n = min(n+1, len(rest))
			}
			if !yield(rest[:n]) {
				return
			}
			rest = rest[n:]
		}
	}
}

// shorten cuts text after so many characters.
func shorten(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most-1]) + "…"
}

// localTime writes a time for a person, as filters take it; empty if there is none.
func localTime(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.Local().Format(time.RFC3339)
}

// duration returns how long something took, rounded for a person.
func duration(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Microsecond)
}

// count writes a number and the name of what is counted, which ends with y or takes an s.
func count[N int | int64](n N, name string) string {
	plural, isY := strings.CutSuffix(name, "y")
	switch {
	case n == 1:
		return "1 " + name
	case isY:
		return comma(n) + " " + plural + "ies"
	default:
		return comma(n) + " " + name + "s"
	}
}

func comma[N int | int64](n N) string { return humanize.Comma(int64(n)) }

// table is a table of text. flush prints it. The zero table prints nothing.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, head ...string) table {
	t := table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	t.row(head...)
	return t
}

// row adds a row. Its cells are made safe to print, and an empty one becomes a dash.
func (t table) row(cells ...string) {
	for i, text := range cells {
		cells[i] = cmp.Or(escape(text), "-")
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t table) flush() error {
	if t.w == nil {
		return nil
	}
	return t.w.Flush()
}
