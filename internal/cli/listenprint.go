package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// listenPrinter prints notifications for people or, with json, for programs.
type listenPrinter struct {
	w    io.Writer
	json bool
	body bool
}

// print prints a notification. One that was printed before is printed as it was sent on.
func (p *listenPrinter) print(n *listened) {
	switch {
	case p.json:
		p.printJSON(n)
	case n.Dropped.Dropped > 0:
		fmt.Fprintf(p.w, "-- %d missed: they came faster than this could take them\n", n.Dropped.Dropped)
	case n.forwarded != nil:
		fmt.Fprintf(p.w, "%s  -> %s  %s\n", strings.Repeat(" ", len(listenTime)), n.forwarded, escape(n.name()))
	default:
		p.printText(n)
	}
}

// listenTime is how the time of a notification is printed.
const listenTime = "15:04:05.000"

func (p *listenPrinter) printText(n *listened) {
	fmt.Fprintf(p.w, "%s  %-32s  %-10s  %-38s  %s\n", n.At.Local().Format(listenTime),
		escape(n.Topic), cmp.Or(escape(n.Workspace), "-"), cmp.Or(escape(n.ID), "-"), escape(n.result()))
	if p.body && n.Request != nil {
		fmt.Fprintln(p.w, prettyBody(requestBody(n.Request)))
	}
}

// printJSON prints the line of the stream. The request is left out if it is only there to be
// sent on.
func (p *listenPrinter) printJSON(n *listened) {
	line := []byte(n.line)
	if !p.body && n.Request != nil || n.forwarded != nil {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(line, &members); err != nil {
			return // it was read before
		}
		if !p.body {
			delete(members, "request")
		}
		if n.forwarded != nil {
			members["forwarded"], _ = json.Marshal(n.forwarded) // cannot fail
		}
		line, _ = json.Marshal(members)
	}
	fmt.Fprintln(p.w, escapeJSON(string(line)))
}

// name returns what the notification is called in later lines.
func (n *listened) name() string {
	if n.ID == "" {
		return n.Topic
	}
	return n.ID
}

// result says what came of a notification.
func (n *listened) result() string {
	text := n.Outcome
	if n.Lane != "" {
		text += " (" + n.Lane + ")"
	}
	took := time.Duration(n.Seconds * float64(time.Second))
	return fmt.Sprintf("%s, %d in %s%s", text, n.Status, roundTime(took), lateness(took))
}

// String says what came of sending a notification on.
func (f *forwarded) String() string {
	if f.Error != "" {
		return escape(f.Error)
	}
	took := time.Duration(f.Seconds * float64(time.Second))
	text := fmt.Sprintf("%s in %s%s", statusText(f.Status), roundTime(took), lateness(took))
	if answer := strings.TrimSpace(f.answer); !intercom.Accepts(f.Status) && answer != "" {
		text += ": " + escape(answer)
	}
	return text
}
