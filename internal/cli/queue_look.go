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
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
)

const maxError = 80 // characters of an error in a table

func newQueueStatusCommand() *cobra.Command {
	cmd := newCommand("queue-status")
	cmd.Flags().Bool("check", false, "Exit with 1 if a lane is down or paused, or there are dead letters; copies do not count")
	return onQueue(cmd, cobra.NoArgs, runQueueStatus)
}

// runQueueStatus prints the lanes of the databases that answer, also if one does not.
func runQueueStatus(ctx context.Context, q *queueRun, _ []string) error {
	var lanes []adminapi.Lane
	q.selected.Set("dead_letters", "true")
	failed := ask(ctx, q.admin, http.MethodGet, adminapi.LanesPath, q.selected, func(l adminapi.Lane, line json.RawMessage) error {
		lanes = append(lanes, l)
		if q.Bool("json") {
			q.printLine(line)
		}
		return nil
	})
	if !q.Bool("json") && (len(lanes) > 0 || failed == nil) {
		failed = errors.Join(printLanes(q.out, lanes), printHeldBack(q.out, lanes), printDeadLetters(q.out, lanes), failed)
	}
	if q.Bool("check") {
		failed = errors.Join(failed, checkLanes(lanes))
	}
	return failed
}

// printLanes prints a table with a line for each lane, and one for all of them.
func printLanes(out io.Writer, lanes []adminapi.Lane) error {
	states := []string{"waiting", "delivering", "retrying", "dead"} // delivered ones are not counted
	rows := [][]string{{"ENDPOINT", "LANE", "KIND", "STATE", "WORKERS"}}
	for _, state := range states {
		rows[0] = append(rows[0], strings.ToUpper(state))
	}
	rows[0] = append(rows[0], "OLDEST")
	add := func(l adminapi.Lane, workers string) {
		row := []string{l.Endpoint, l.Lane, l.Kind, l.State, workers}
		for _, state := range states {
			row = append(row, comma(l.Deliveries[state]))
		}
		rows = append(rows, append(row, age(l.OldestSeconds)))
	}
	total := adminapi.Lane{Lane: "total", Deliveries: make(map[string]int64)}
	for _, l := range lanes {
		for state, n := range l.Deliveries {
			total.Deliveries[state] += n
		}
		total.OldestSeconds = max(total.OldestSeconds, l.OldestSeconds)
		add(l, strconv.Itoa(l.Workers))
	}
	add(total, "")
	return printOfLanes(out, lanes, rows)
}

// printOfLanes prints a table whose rows begin with an endpoint, which only several need.
func printOfLanes(out io.Writer, lanes []adminapi.Lane, rows [][]string) error {
	if !slices.ContainsFunc(lanes, func(l adminapi.Lane) bool { return l.Endpoint != lanes[0].Endpoint }) {
		for i := range rows {
			rows[i] = rows[i][1:]
		}
	}
	t := newTable(out, rows[0]...)
	for _, row := range rows[1:] {
		t.row(row...)
	}
	return t.flush()
}

// printHeldBack prints a table with a line for each lane in which objects are held back, if there are any.
func printHeldBack(out io.Writer, lanes []adminapi.Lane) error {
	rows := [][]string{{"ENDPOINT", "LANE", "OBJECTS HELD BACK", "OLDEST", "BY"}}
	for _, l := range lanes {
		if held := l.HeldBack; held != nil {
			rows = append(rows, []string{l.Endpoint, l.Lane, comma(held.Objects), age(held.OldestSeconds), held.By})
		}
	}
	return printPart(out, lanes, rows)
}

// printDeadLetters prints a table with a line for each of the largest groups of dead letters, if
// there are any.
func printDeadLetters(out io.Writer, lanes []adminapi.Lane) error {
	const most = 20
	type group struct {
		adminapi.DeadLetters
		endpoint, lane string
	}
	var groups []group
	for _, l := range lanes {
		for _, g := range l.DeadLetters {
			groups = append(groups, group{g, l.Endpoint, l.Lane})
		}
	}
	slices.SortStableFunc(groups, func(x, y group) int { return cmp.Compare(y.Count, x.Count) })
	rows := [][]string{{"ENDPOINT", "LANE", "TOPIC", "REASON", "DEAD", "NEWEST", "ITS ERROR"}}
	for _, g := range groups[:min(len(groups), most)] {
		rows = append(rows, []string{g.endpoint, g.lane, g.Topic, g.Reason, comma(g.Count), localTime(g.Newest), shorten(g.Error, maxError)})
	}
	err := printPart(out, lanes, rows)
	if len(groups) > most {
		fmt.Fprintf(out, "and %s more; --json has all\n", count(len(groups)-most, "smaller group"))
	}
	return err
}

// printPart is printOfLanes behind another table, unless there is no row.
func printPart(out io.Writer, lanes []adminapi.Lane, rows [][]string) error {
	if len(rows) == 1 {
		return nil
	}
	fmt.Fprintln(out)
	return printOfLanes(out, lanes, rows)
}

// age writes how long something waits; empty if it does not.
func age(seconds float64) string {
	switch d := time.Duration(seconds * float64(time.Second)); {
	case d <= 0:
		return ""
	case d < time.Second:
		return "<1s"
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	default:
		return fmt.Sprintf("%.1f days", d.Hours()/24)
	}
}

// checkLanes returns an error if a lane is down or paused, or there are dead letters. What is wrong with copies
// need not wake anybody.
func checkLanes(lanes []adminapi.Lane) error {
	var findings []string
	dead := int64(0)
	for _, l := range lanes {
		if l.Kind == "copy" {
			continue
		}
		if l.State == "down" || l.State == "paused" {
			findings = append(findings, "lane "+l.State+": "+l.Lane)
		}
		dead += l.Deliveries["dead"]
	}
	if dead > 0 {
		findings = append(findings, count(dead, "dead letter")+": see 'caddy intercom-webhook queue list --state dead'")
	}
	if len(findings) == 0 {
		return nil
	}
	return errors.New(strings.Join(findings, "; "))
}

func newQueueListCommand() *cobra.Command {
	cmd := newCommand("queue-list")
	addFilterFlags(cmd)
	cmd.Flags().Int("limit", 100, "How many deliveries to list (0 = all)")
	cmd.Flags().Bool("oldest", false, "List the oldest first")
	return onQueue(cmd, cobra.NoArgs, runQueueList)
}

func runQueueList(ctx context.Context, q *queueRun, _ []string) error {
	const block = 1000 // rows whose columns have the same widths
	limit := q.Int("limit")
	if limit < 0 {
		return usagef("limit %d must not be negative", limit)
	}
	first := "newest"
	if q.Bool("oldest") {
		first = "oldest"
		q.selected.Set("order", first)
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
			t = newTable(q.out, "NUMBER", "STORED", "TOPIC", "WORKSPACE", "LANE", "STATE", "ATTEMPTS", "NEXT ATTEMPT", "FINISHED", "LAST ERROR")
		}
		t.row(strconv.FormatInt(d.Number, 10), localTime(d.StoredAt), d.Topic, d.Workspace, d.Lane, stateOf(d),
			strconv.Itoa(d.Attempts), localTime(d.DueAt), localTime(d.FinishedAt), shorten(d.Error, maxError))
		return nil
	})
	if err = errors.Join(t.flush(), err); err != nil {
		return err
	}
	switch {
	case n == 0:
		fmt.Fprintln(q.notes, nothingFits(q.selected))
	case more:
		fmt.Fprintf(q.notes, "the %s %s are listed; for more, see --limit\n", first, comma(n))
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
		fmt.Fprintf(out, "\nbody\n%s\n", prettyBody(last.Request.BodyBytes()))
	}
	return nil
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
		line("object", d.Object)
		line("endpoint", d.Endpoint)
		line("stored", localTime(d.StoredAt))
		if r := d.Request; r != nil {
			line("request", fmt.Sprintf("%s %s, host %s, %s, from %s, %s bytes", r.Method, r.URI, r.Host, r.Proto, r.RemoteAddr, comma(len(r.BodyBytes()))))
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
