package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

func newQueueStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Shows the lanes with what is in them",
		Long: `
Shows each lane of the queue: its state, how many deliveries it makes at once in this
Caddy, how many jobs it has in each state, and how long the oldest undelivered one waits.
Where several Caddys share a PostgreSQL database, the jobs are those of all of them.

The states of a lane are

	active     it delivers
	paused     a person has paused it, and it stores only
	down       its backend has failed at the last deliveries
	orphaned   no config of a running Caddy has it; another Caddy takes it over

With --check, the exit code is 1 if a lane is down or there are dead letters, for
monitoring without metrics.

Examples:

	$ caddy intercom-webhook queue status

	$ caddy intercom-webhook queue status --check --json
`,
	}
	cmd.Flags().Bool("check", false, "Exit with 1 if a lane is down or there are dead letters")
	return onQueue(cmd, cobra.NoArgs, runQueueStatus)
}

func runQueueStatus(ctx context.Context, q *queueRun, _ []string) error {
	lanes, lines, failed := q.admin.lanes(ctx, q.flags.String("queue"))
	if failed != nil && len(lanes) == 0 {
		return failed
	}
	if q.json {
		for _, line := range lines {
			q.print(line)
		}
	} else if err := q.printLanes(lanes); err != nil {
		return err
	}
	if q.flags.Bool("check") {
		return errors.Join(failed, checkLanes(lanes))
	}
	return failed
}

// printLanes prints a table with a line for each lane, and one for all of them.
func (q *queueRun) printLanes(lanes []lane) error {
	several := len(queueNames(lanes)) > 1
	row := func(t table, l lane, workers string) {
		texts := []string{l.Lane, l.State, workers}
		if several {
			texts = append([]string{l.Queue}, texts...)
		}
		for _, state := range jobStates {
			texts = append(texts, comma(l.Jobs[state]))
		}
		t.row(cells(append(texts, age(l.oldest()))...)...)
	}

	head := []string{"LANE", "STATE", "WORKERS"}
	if several {
		head = append([]string{"QUEUE"}, head...)
	}
	for _, state := range jobStates {
		head = append(head, strings.ToUpper(state))
	}
	t := newTable(q.cmd.OutOrStdout(), append(head, "OLDEST")...)
	total := lane{Queue: "total", Jobs: make(map[string]int)}
	if !several {
		total.Lane = "total"
	}
	for _, l := range lanes {
		row(t, l, strconv.Itoa(l.Workers))
		for state, n := range l.Jobs {
			total.Jobs[state] += n
		}
		total.OldestSeconds = max(total.OldestSeconds, l.OldestSeconds)
	}
	row(t, total, "")
	return t.Flush()
}

// age writes how long something waits; empty if it does not.
func age(d time.Duration) string {
	switch {
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
func checkLanes(lanes []lane) error {
	var down, findings []string
	dead := 0
	for _, l := range lanes {
		if l.State == "down" {
			down = append(down, l.Lane)
		}
		dead += l.dead()
	}
	if len(down) > 0 {
		findings = append(findings, fmt.Sprintf("%s down: %s", map[bool]string{true: "lane", false: "lanes"}[len(down) == 1], option.Enumerate(down)))
	}
	if dead > 0 {
		findings = append(findings, fmt.Sprintf("%s: see 'caddy intercom-webhook queue list --dead'", count(dead, "dead letter")))
	}
	if len(findings) == 0 {
		return nil
	}
	return errors.New(strings.Join(findings, "; "))
}
