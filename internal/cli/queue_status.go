package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
)

func newQueueStatusCommand() *cobra.Command {
	cmd := newCommand("queue-status")
	cmd.Flags().Bool("check", false, "Exit with 1 if a lane is down or there are dead letters")
	return onQueue(cmd, cobra.NoArgs, runQueueStatus)
}

// runQueueStatus prints the lanes of the databases that answer, also if one does not.
func runQueueStatus(ctx context.Context, q *queueRun, _ []string) error {
	var lanes []adminapi.Lane
	failed := ask(ctx, q.admin, http.MethodGet, adminapi.LanesPath, q.selected, func(l adminapi.Lane, line json.RawMessage) error {
		lanes = append(lanes, l)
		if q.Bool("json") {
			q.printLine(line)
		}
		return nil
	})
	if failed != nil && len(lanes) == 0 {
		return failed
	}
	if !q.Bool("json") {
		if err := printLanes(q.out, lanes); err != nil {
			return err
		}
	}
	if q.Bool("check") {
		return errors.Join(failed, checkLanes(lanes))
	}
	return failed
}

// printLanes prints a table with a line for each lane, and one for all of them. It names the
// endpoints if there are several.
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
	several := false
	total := adminapi.Lane{Lane: "total", Deliveries: make(map[string]int64)}
	for _, l := range lanes {
		several = several || l.Endpoint != lanes[0].Endpoint
		for state, n := range l.Deliveries {
			total.Deliveries[state] += n
		}
		total.OldestSeconds = max(total.OldestSeconds, l.OldestSeconds)
		add(l, strconv.Itoa(l.Workers))
	}
	add(total, "")
	if !several {
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

// checkLanes returns an error if a lane is down or there are dead letters.
func checkLanes(lanes []adminapi.Lane) error {
	var findings []string
	dead := int64(0)
	for _, l := range lanes {
		if l.State == "down" {
			findings = append(findings, "lane down: "+l.Lane)
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

// newLaneCommand returns a command that changes a lane.
func newLaneCommand(verb, past string) *cobra.Command {
	cmd := newCommand("queue-" + verb)
	cmd.ValidArgsFunction = completeLane
	return onQueue(cmd, cobra.ExactArgs(1), func(ctx context.Context, q *queueRun, args []string) error {
		path := adminapi.LanesPath + "/" + url.PathEscape(args[0]) + "/" + verb
		return ask(ctx, q.admin, http.MethodPost, path, q.selected, orLine(q.run, func(l adminapi.Lane) error {
			undelivered := l.Deliveries["waiting"] + l.Deliveries["retrying"]
			_, err := fmt.Fprintf(q.out, "%s lane %s; %s not made yet\n", past, escape(l.Lane), count(undelivered, "delivery"))
			return err
		}))
	})
}

// completeLane completes the only argument of a command, a lane.
func completeLane(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeLanes(cmd, args, typed)
}
