package cli

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

// lane is a lane of the queue, as the admin endpoint describes it.
type lane struct {
	Queue         string         `json:"queue"`
	Lane          string         `json:"lane"`
	State         string         `json:"state"` // active, paused, down, orphaned
	Workers       int            `json:"workers"`
	Jobs          map[string]int `json:"jobs"` // by state
	OldestSeconds float64        `json:"oldest_seconds"`
}

// dead returns the number of dead letters.
func (l lane) dead() int {
	n := 0
	for _, state := range deadStates {
		n += l.Jobs[state]
	}
	return n
}

// oldest returns how long the oldest job waits; 0 if none does.
func (l lane) oldest() time.Duration {
	return time.Duration(l.OldestSeconds * float64(time.Second))
}

// lanes returns the lanes of a queue, or of all queues if the name is empty, and the lines
// of the answer. With an error, it returns those of the databases that answer.
func (c *adminClient) lanes(ctx context.Context, queue string) (lanes []lane, lines []json.RawMessage, err error) {
	query := make(url.Values)
	if queue != "" {
		query.Set("queue", queue)
	}
	err = eachLine(c.get(ctx, "lanes", query), func(l lane, line json.RawMessage) error {
		lanes, lines = append(lanes, l), append(lines, line)
		return nil
	})
	return lanes, lines, err
}

// checkLane returns an error if a queue of the running Caddy has no such lane. An empty name
// is the lane of a flag that is not given.
func (q *queueRun) checkLane(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	lanes, _, err := q.admin.lanes(ctx, q.flags.String("queue"))
	names := laneNames(lanes)
	switch {
	case slices.Contains(names, name):
		return nil
	case err != nil:
		return err
	case len(names) == 0:
		return usagef("lane %q: there are no lanes", name)
	default:
		return usagef("lane %q: there is no such lane; the lanes are %s", name, option.Choices(name, names))
	}
}

// laneNames returns the name of each lane, once.
func laneNames(lanes []lane) []string {
	return distinct(lanes, func(l lane) string { return l.Lane })
}

// queueNames returns the name of each queue, once.
func queueNames(lanes []lane) []string {
	return distinct(lanes, func(l lane) string { return l.Queue })
}

func distinct(lanes []lane, name func(lane) string) []string {
	var names []string
	for _, l := range lanes {
		names = append(names, name(l))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// completeLanes and completeQueues complete names for the shell. They ask the running Caddy,
// and offer nothing if it does not answer soon.
func completeLanes(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return completeNames(cmd, laneNames)
}

func completeQueues(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return completeNames(cmd, queueNames)
}

func completeNames(cmd *cobra.Command, names func([]lane) []string) ([]cobra.Completion, cobra.ShellCompDirective) {
	admin, err := newAdminClient(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	lanes, _, _ := admin.lanes(ctx, "")
	return names(lanes), cobra.ShellCompDirectiveNoFileComp
}

// completeLane completes the only argument of a command, a lane.
func completeLane(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeLanes(cmd, args, typed)
}
