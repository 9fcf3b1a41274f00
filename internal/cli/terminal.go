package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
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
