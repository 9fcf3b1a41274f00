package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

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
