package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

const (
	maxSummarized = 10_000 // jobs that a preview looks at
	maxGroups     = 20     // lines that it prints
)

// jobGroup is what a preview counts jobs by.
type jobGroup struct{ topic, lane, state string }

// preview returns how many jobs the selections select, and prints of which topics and lanes
// they are. With --json, it prints the lines of the answer of a dry run.
func (c *change) preview(ctx context.Context, q *queueRun, selections []selection, dryRun bool) (total int, err error) {
	for _, s := range selections {
		parameters := maps.Clone(s.parameters)
		parameters.Set("dry_run", "true")
		selected := 0
		err := eachLine(q.admin.post(ctx, "jobs/"+c.verb, parameters), func(line progressLine, raw json.RawMessage) error {
			selected = line.Total
			if q.json && dryRun {
				q.print(raw)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		if s.id != "" && selected == 0 {
			return 0, c.notFound(ctx, q, s)
		}
		total += selected
	}
	switch {
	case q.json:
		return total, nil
	case total == 0:
		c.reportNothing(q, selections)
		return 0, nil
	case q.flags.Changed("cursor"): // a list does not begin at the cursor of a change
		fmt.Fprintf(q.cmd.OutOrStdout(), "%s to %s\n", count(total, "job"), c.verb)
		return total, nil
	}
	groups, counted, err := q.groups(ctx, selections)
	if err != nil {
		return 0, err
	}
	return total, c.printGroups(q, groups, counted, total)
}

// groups counts jobs of the selections by topic, lane and state, up to maxSummarized of them.
func (q *queueRun) groups(ctx context.Context, selections []selection) (groups map[jobGroup]int, counted int, err error) {
	groups = make(map[jobGroup]int)
	for _, s := range selections {
		if counted >= maxSummarized {
			break
		}
		_, err := q.jobs(ctx, s.parameters, maxSummarized-counted, func(j job, _ json.RawMessage) error {
			groups[jobGroup{j.Topic, j.Lane, j.State}]++
			counted++
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return groups, counted, nil
}

// printGroups prints the groups, the largest first.
func (c *change) printGroups(q *queueRun, groups map[jobGroup]int, counted, total int) error {
	out := q.cmd.OutOrStdout()
	fmt.Fprintf(out, "%s to %s", count(total, "job"), c.verb)
	if counted < total {
		fmt.Fprintf(out, ", of the newest %s these", comma(counted))
	}
	fmt.Fprintln(out)
	bySize := slices.SortedFunc(maps.Keys(groups), func(a, b jobGroup) int {
		return cmp.Or(groups[b]-groups[a], cmp.Compare(a.topic, b.topic), cmp.Compare(a.lane, b.lane), cmp.Compare(a.state, b.state))
	})
	t := newTable(out, "JOBS", "TOPIC", "LANE", "STATE")
	for i, group := range bySize {
		if i == maxGroups {
			t.row("…", strconv.Itoa(len(bySize)-maxGroups)+" more groups")
			break
		}
		t.row(cells(comma(groups[group]), group.topic, group.lane, group.state)...)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if c.warning != "" {
		fmt.Fprintln(out, c.warning)
	}
	return nil
}
