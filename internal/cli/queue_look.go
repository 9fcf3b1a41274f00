package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
)

func newQueueListCommand() *cobra.Command {
	cmd := newCommand("queue-list")
	addFilterFlags(cmd)
	cmd.Flags().Int("limit", 100, "How many deliveries to list (0 = all)")
	return onQueue(cmd, cobra.NoArgs, runQueueList)
}

func runQueueList(ctx context.Context, q *queueRun, _ []string) error {
	const (
		block    = 1000 // rows whose columns have the same widths
		maxError = 80   // characters
	)
	limit := q.Int("limit")
	if limit < 0 {
		return usagef("limit %d must not be negative", limit)
	}
	var t table
	n := 0
	more, err := q.deliveries(ctx, q.selected, limit, func(d adminapi.Delivery, line json.RawMessage) error {
		n++
		if q.Bool("json") {
			q.printLine(line)
			return nil
		}
		if n%block == 1 {
			if err := t.flush(); err != nil { // show what is there already
				return err
			}
			t = newTable(q.out, "NUMBER", "STORED", "TOPIC", "WORKSPACE", "LANE", "STATE", "ATTEMPTS", "LAST ERROR")
		}
		t.row(strconv.FormatInt(d.Number, 10), localTime(d.StoredAt), d.Topic, d.Workspace, d.Lane, stateOf(d),
			strconv.Itoa(d.Attempts), shorten(d.Error, maxError))
		return nil
	})
	if err = errors.Join(t.flush(), err); err != nil {
		return err
	}
	switch {
	case n == 0:
		fmt.Fprintln(q.notes, nothingFits(q.selected))
	case more:
		fmt.Fprintf(q.notes, "the newest %s are listed; for more, see --limit\n", comma(n))
	}
	return nil
}

// stateOf returns the state of a delivery and, of a dead one, the reason.
func stateOf(d adminapi.Delivery) string {
	if d.Reason == "" {
		return d.State
	}
	return d.State + " (" + d.Reason + ")"
}

func newQueueShowCommand() *cobra.Command {
	cmd := newCommand("queue-show")
	cmd.Flags().Bool("body", false, "Print the body, too")
	cmd.Flags().Bool("headers", false, "Print the headers of the request, too")
	return onQueue(cmd, cobra.ExactArgs(1), runQueueShow)
}

func runQueueShow(ctx context.Context, q *queueRun, args []string) error {
	out := q.out
	var last adminapi.Details
	path := adminapi.NotificationsPath + "/" + url.PathEscape(args[0])
	err := ask(ctx, q.admin, http.MethodGet, path, q.selected, orLine(q.run, func(d adminapi.Details) error {
		if last.ID != 0 {
			fmt.Fprintln(out)
		}
		if err := printDelivery(out, d, d.Number != last.Number); err != nil {
			return err
		}
		last = d
		return nil
	}))
	if err != nil || last.Request == nil {
		return err
	}
	if q.Bool("headers") {
		fmt.Fprintln(out, "\nheaders")
		for _, name := range slices.Sorted(maps.Keys(last.Request.Header)) {
			for _, value := range last.Request.Header[name] {
				fmt.Fprintf(out, "  %s: %s\n", escape(name), escape(value))
			}
		}
	}
	if q.Bool("body") {
		fmt.Fprintf(out, "\nbody\n%s\n", prettyBody(requestBody(last.Request)))
	}
	return nil
}

// requestBody returns the body of a request of the admin endpoint.
func requestBody(r *adminapi.Request) []byte {
	if r.Body == nil {
		return r.BodyBase64
	}
	return []byte(*r.Body)
}

// printDelivery prints everything about a delivery and, with notification, what its other
// deliveries have, too.
func printDelivery(out io.Writer, d adminapi.Details, notification bool) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, escape(text))
		}
	}
	if notification {
		line("notification", cmp.Or(d.Notification, "(without id)"))
		line("number", strconv.FormatInt(d.Number, 10))
		line("topic", d.Topic)
		line("workspace", d.Workspace)
		line("endpoint", d.Endpoint)
		line("stored", localTime(d.StoredAt))
		if r := d.Request; r != nil {
			line("request", fmt.Sprintf("%s %s, host %s, %s, from %s, %s bytes", r.Method, r.URI, r.Host, r.Proto, r.RemoteAddr, comma(len(requestBody(r)))))
		}
		fmt.Fprintln(t)
	}
	line("lane", d.Lane)
	line("state", fmt.Sprintf("%s, %s", stateOf(d.Delivery), count(d.Attempts, "attempt")))
	line("next attempt", localTime(d.DueAt))
	line("finished", localTime(d.FinishedAt))
	if d.State == "delivered" {
		line("answer", answerOf(d.Status, d.Upstream, d.Seconds))
	} else {
		line("last error", d.Error)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, a := range d.History {
		fmt.Fprintf(out, "\nfailed attempt, %s", localTime(a.At))
		if a.Instance != "" {
			fmt.Fprintf(out, ", by %s", escape(a.Instance))
		}
		fmt.Fprintln(out)
		if text := answerOf(a.Status, a.Upstream, a.Seconds); text != "" {
			fmt.Fprintf(out, "  %s\n", escape(text))
		}
		fmt.Fprintf(out, "  error: %s\n", escape(a.Error))
		if answer := cmp.Or(a.Answer, string(a.AnswerBase64)); answer != "" {
			fmt.Fprintf(out, "  answer: %s\n", escape(answer))
		}
	}
	return nil
}

// answerOf says which status came from which upstream after what time; empty if neither is known.
func answerOf(status int, upstream string, took float64) string {
	if status == 0 && upstream == "" {
		return ""
	}
	what := "no answer"
	if status != 0 {
		what = statusText(status)
	}
	return fmt.Sprintf("%s from %s in %s", what, cmp.Or(upstream, "the route"), duration(took))
}
