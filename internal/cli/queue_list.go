package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

const (
	maxPage        = 1000 // the most that the admin endpoint lists in one answer
	maxReasonShown = 80   // characters, in a table
)

func newQueueListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists jobs, the newest first",
		Long: `
Lists the jobs of the queue, the newest first: the number of the job, when it was stored,
its topic, workspace, lane and state, the number of its last attempt, and why it failed.
'queue show' shows everything about one of them.
` + filterHelp + `
Examples:

	$ caddy intercom-webhook queue list

	$ caddy intercom-webhook queue list --dead --since 2h --error 502

	$ caddy intercom-webhook queue list --topic 'conversation.*' --limit 0 --json
`,
	}
	addFilterFlags(cmd)
	cmd.Flags().Int("limit", 100, "How many jobs to list (0 = all)")
	return onQueue(cmd, cobra.NoArgs, runQueueList)
}

func runQueueList(ctx context.Context, q *queueRun, _ []string) error {
	limit := q.flags.Int("limit")
	if limit < 0 {
		return usagef("limit %d must not be negative", limit)
	}
	parameters, err := q.filter(ctx)
	if err != nil {
		return err
	}
	var t table
	n := 0
	more, err := q.jobs(ctx, parameters, limit, func(j job, line json.RawMessage) error {
		n++
		if q.json {
			q.print(line)
			return nil
		}
		if n%maxPage == 1 {
			if n > 1 { // show what is there already, and begin anew with the widths
				if err := t.Flush(); err != nil {
					return err
				}
			}
			t = newTable(q.cmd.OutOrStdout(), "ID", "STORED", "TOPIC", "WORKSPACE", "LANE", "STATE", "ATTEMPT", "REASON")
		}
		t.row(cells(strconv.FormatInt(j.ID, 10), localTime(j.StoredAt), j.Topic, j.Workspace, j.Lane, j.State,
			fmt.Sprintf("%d/%d", j.Attempt, j.MaxAttempts), shorten(j.Reason, maxReasonShown))...)
		return nil
	})
	if t.Writer != nil {
		err = errors.Join(t.Flush(), err)
	}
	if err != nil {
		return err
	}
	switch notes := q.cmd.ErrOrStderr(); {
	case n == 0:
		fmt.Fprintln(notes, cmp.Or(whyNothing(parameters), "no job fits"))
	case more:
		fmt.Fprintf(notes, "the newest %s are listed; for more, see --limit\n", comma(n))
	}
	return nil
}

// jobs calls do for each job that the parameters select, the newest first, up to a limit; 0
// is none. It reports whether there may be more.
func (q *queueRun) jobs(ctx context.Context, parameters url.Values, limit int, do func(j job, line json.RawMessage) error) (more bool, err error) {
	type entry struct {
		job
		Cursor string `json:"cursor"`
	}
	query := make(url.Values)
	maps.Copy(query, parameters)
	q.scope(query)
	for n := 0; ; {
		page := maxPage
		if limit > 0 {
			page = min(page, limit-n)
		}
		query.Set("limit", strconv.Itoa(page))
		cursor := ""
		err := eachLine(q.admin.get(ctx, "jobs", query), func(e entry, line json.RawMessage) error {
			if e.Cursor != "" {
				cursor = e.Cursor
				return nil
			}
			n++
			return do(e.job, line)
		})
		switch {
		case err != nil:
			return false, err
		case cursor == "":
			return false, nil
		case limit > 0 && n >= limit:
			return true, nil
		case cursor == query.Get("cursor"):
			return false, errors.New("the list of Caddy does not go on: it gave the same cursor twice")
		}
		query.Set("cursor", cursor)
	}
}
