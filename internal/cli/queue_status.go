package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

func newQueueStatusCommand() *cobra.Command {
	cmd := newCommand("queue-status")
	cmd.Flags().Bool("check", false, "Exit with 1 if a lane is down or there are dead letters")
	return onQueue(cmd, cobra.NoArgs, runQueueStatus)
}

// runQueueStatus prints the lanes of the databases that answer, also if one does not.
func runQueueStatus(ctx context.Context, q *queueRun, _ []string) error {
	parameters, err := q.ofEndpoint()
	if err != nil {
		return err
	}
	var lanes []adminapi.Lane
	failed := eachLine(q.admin.lines(ctx, http.MethodGet, adminapi.LanesPath, parameters), func(l adminapi.Lane, line json.RawMessage) error {
		lanes = append(lanes, l)
		if q.json {
			q.printLine(line)
		}
		return nil
	})
	if failed != nil && len(lanes) == 0 {
		return failed
	}
	if !q.json {
		if err := q.printLanes(lanes); err != nil {
			return err
		}
	}
	if q.Bool("check") {
		return errors.Join(failed, checkLanes(lanes))
	}
	return failed
}

// backlogStates are the states whose deliveries are counted by lane.
var backlogStates = []string{"waiting", "delivering", "retrying", "dead"}

// printLanes prints a table with a line for each lane, and one for all of them.
func (q *queueRun) printLanes(lanes []adminapi.Lane) error {
	several := false
	for _, l := range lanes {
		several = several || l.Endpoint != lanes[0].Endpoint
	}
	row := func(endpoint string, texts ...string) []string {
		if several {
			return append([]string{endpoint}, texts...)
		}
		return texts
	}
	head := row("ENDPOINT", "LANE", "KIND", "STATE", "WORKERS")
	for _, state := range backlogStates {
		head = append(head, strings.ToUpper(state))
	}
	t := newTable(q.out, append(head, "OLDEST")...)
	total := adminapi.Lane{Deliveries: make(map[string]int64)}
	print := func(l adminapi.Lane, cells []string) {
		for _, state := range backlogStates {
			cells = append(cells, comma(l.Deliveries[state]))
		}
		t.row(append(cells, age(l.OldestSeconds))...)
	}
	for _, l := range lanes {
		for state, n := range l.Deliveries {
			total.Deliveries[state] += n
		}
		total.OldestSeconds = max(total.OldestSeconds, l.OldestSeconds)
		print(l, row(l.Endpoint, l.Lane, l.Kind, l.State, strconv.Itoa(l.Workers)))
	}
	print(total, row("", "total", "", "", ""))
	return t.Flush()
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
	var down, findings []string
	dead := int64(0)
	for _, l := range lanes {
		if l.State == "down" {
			down = append(down, l.Lane)
		}
		dead += l.Deliveries["dead"]
	}
	switch {
	case len(down) == 1:
		findings = append(findings, "lane down: "+down[0])
	case len(down) > 1:
		findings = append(findings, "lanes down: "+option.Enumerate(down))
	}
	if dead > 0 {
		findings = append(findings, fmt.Sprintf("%s: see 'caddy intercom-webhook queue list --state dead'", count(dead, "dead letter")))
	}
	if len(findings) == 0 {
		return nil
	}
	return errors.New(strings.Join(findings, "; "))
}

func newQueuePauseCommand() *cobra.Command { return newLaneCommand("pause", "paused") }

func newQueueResumeCommand() *cobra.Command { return newLaneCommand("resume", "resumed") }

// newLaneCommand returns a command that changes a lane.
func newLaneCommand(verb, past string) *cobra.Command {
	cmd := newCommand("queue-" + verb)
	cmd.ValidArgsFunction = completeLane
	return onQueue(cmd, cobra.ExactArgs(1), func(ctx context.Context, q *queueRun, args []string) error {
		parameters, err := q.ofEndpoint()
		if err != nil {
			return err
		}
		path := adminapi.LanesPath + "/" + url.PathEscape(args[0]) + "/" + verb
		return eachLine(q.admin.lines(ctx, http.MethodPost, path, parameters), func(l adminapi.Lane, line json.RawMessage) error {
			if q.json {
				q.printLine(line)
				return nil
			}
			undelivered := l.Deliveries["waiting"] + l.Deliveries["retrying"]
			_, err := fmt.Fprintf(q.out, "%s lane %s; %s not made yet\n", past, escape(l.Lane), count(undelivered, "delivery"))
			return err
		})
	})
}

// completeLane completes the only argument of a command, a lane.
func completeLane(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeLanes(cmd, args, typed)
}
