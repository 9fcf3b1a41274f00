package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"
)

func newQueuePauseCommand() *cobra.Command {
	return newLaneCommand("pause", "paused", "Pauses a lane: it stores, and delivers nothing", `
Pauses a lane, in all Caddys that share the queue. Its notifications are stored and
answered with 200 as ever, and wait until the lane is resumed. Deliveries that are running
end as usual. The pause outlasts restarts and reloads.

After the lane is resumed, notifications that are older than max_age become dead letters
at their next failed attempt.

Examples:

	$ caddy intercom-webhook queue pause crm
`)
}

func newQueueResumeCommand() *cobra.Command {
	return newLaneCommand("resume", "resumed", "Resumes a paused lane", `
Resumes a lane that was paused: what waits there is delivered.

Examples:

	$ caddy intercom-webhook queue resume crm
`)
}

func newLaneCommand(verb, past, short, long string) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " <lane>", Short: short, Long: long, ValidArgsFunction: completeLane}
	return onQueue(cmd, cobra.ExactArgs(1), func(ctx context.Context, q *queueRun, args []string) error {
		if err := q.checkLane(ctx, args[0]); err != nil {
			return err
		}
		path := "lanes/" + url.PathEscape(args[0]) + "/" + verb
		return eachLine(q.admin.post(ctx, path, q.scope(make(url.Values))), func(l lane, line json.RawMessage) error {
			if q.json {
				q.print(line)
				return nil
			}
			waiting := l.Jobs["available"] + l.Jobs["retryable"]
			fmt.Fprintf(q.cmd.OutOrStdout(), "%s lane %s; %s not delivered yet\n", past, escape(l.Lane), count(waiting, "job"))
			return nil
		})
	})
}
