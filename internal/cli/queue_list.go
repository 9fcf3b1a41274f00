package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
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
	parameters := make(url.Values)
	if err := q.copyFlags(parameters, filters...); err != nil {
		return err
	}
	var t table
	n := 0
	more, err := q.deliveries(ctx, parameters, limit, func(d adminapi.Delivery, line json.RawMessage) error {
		n++
		if q.json {
			q.printLine(line)
			return nil
		}
		if n%block == 1 {
			if n > 1 { // show what is there already
				if err := t.Flush(); err != nil {
					return err
				}
			}
			t = newTable(q.out, "NUMBER", "STORED", "TOPIC", "WORKSPACE", "LANE", "STATE", "ATTEMPTS", "LAST ERROR")
		}
		t.row(strconv.FormatInt(d.Number, 10), localTime(d.StoredAt), d.Topic, d.Workspace, d.Lane, stateOf(d),
			strconv.Itoa(d.Attempts), shorten(d.Error, maxError))
		return nil
	})
	if t.Writer != nil {
		err = errors.Join(t.Flush(), err)
	}
	if err != nil {
		return err
	}
	switch notes := q.notes; {
	case n == 0:
		fmt.Fprintln(notes, nothingFits(parameters))
	case more:
		fmt.Fprintf(notes, "the newest %s are listed; for more, see --limit\n", comma(n))
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
