package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
)

// change is a kind of change of many deliveries.
type change struct {
	verb    string // also its name on the admin endpoint
	past    string // what then has happened to the deliveries
	warning string // what cannot be undone
	to      bool   // takes --to
	whole   bool   // takes --vacuum
}

func newQueueRetryCommand() *cobra.Command {
	return newChangeCommand(&change{verb: "retry", past: "retried", to: true})
}

func newQueueResendCommand() *cobra.Command {
	return newChangeCommand(&change{verb: "resend", past: "resent", to: true, warning: "Backends get again what they have taken already."})
}

func newQueueDropCommand() *cobra.Command {
	return newChangeCommand(&change{verb: "drop", past: "dropped", warning: "This cannot be undone."})
}

func newQueueEraseCommand() *cobra.Command {
	return newChangeCommand(&change{verb: "erase", past: "erased", whole: true, warning: "This cannot be undone, and what is not delivered yet is lost."})
}

// vacuumWarning says for how long storing stands still: the command does not know the size.
const vacuumWarning = "--vacuum writes the whole file anew. Until it is done, no notification can be stored: Intercom gets 503, and sends once more after a minute. " +
	"How long it takes depends on the size of the file and on the disk: about as long as to copy the file twice, so seconds for 100 MB, and minutes for 10 GB."

func newChangeCommand(c *change) *cobra.Command {
	cmd := newCommand("queue-" + c.verb)
	addFilterFlags(cmd)
	flags := cmd.Flags()
	flags.BoolP("yes", "y", false, "Do not ask")
	flags.Bool("dry-run", false, "Only say how many are selected")
	flags.String("cursor", "", "Where to go on after an error, which says it")
	flags.Float64("rate", 0, "How many deliveries a second at most (0 = as fast as possible)")
	if c.to {
		flags.String("to", "", "Deliver to the route or copy with this lane, whatever the topic, as new deliveries")
		_ = cmd.RegisterFlagCompletionFunc("to", completeLanes) // the flag exists
	}
	if c.whole {
		flags.Bool("vacuum", false, "Also write SQLite's whole file anew; nothing can be stored meanwhile")
	}
	return onQueue(cmd, cobra.ArbitraryArgs, c.run)
}

// run selects deliveries, asks, and changes them.
func (c *change) run(ctx context.Context, q *queueRun, ids []string) error {
	selected, err := c.selection(q, ids)
	if err != nil {
		return err
	}
	options, err := c.options(q)
	if err != nil {
		return err
	}
	yes, dryRun := q.Bool("yes"), q.Bool("dry-run")
	if !yes && !dryRun && !isTerminal(q.in) {
		return usagef("there is no terminal to ask on: give --yes to %s without a question, or --dry-run to see how many are selected", c.verb)
	}
	missing, err := q.missing(ctx, selected)
	if err != nil {
		return err
	}
	if !yes || dryRun {
		total, err := c.preview(ctx, q, selected)
		if err != nil || total == 0 || dryRun {
			return errors.Join(missing, err)
		}
		question := strings.ToUpper(c.verb[:1]) + c.verb[1:] + " " + count(total, "delivery")
		if to := options.Get("to"); to != "" {
			question += " to lane " + escape(to)
		}
		if ok, err := confirm(ctx, q.in, q.notes, question+"?"); err != nil || !ok {
			return cmp.Or(err, errors.New("nothing was changed"))
		}
	}
	for name, values := range selected {
		options[name] = values
	}
	return errors.Join(missing, c.carryOut(ctx, q, options))
}

// selection returns the parameters that select deliveries. Without a state, the module decides.
func (c *change) selection(q *queueRun, ids []string) (url.Values, error) {
	selected := make(url.Values)
	if err := q.copyFlags(selected, filters...); err != nil {
		return nil, err
	}
	if len(ids) > 0 {
		selected["notification"] = append(selected["notification"], ids...)
	}
	if len(selected) == 0 || len(selected) == 1 && selected.Has("endpoint") {
		return nil, usagef("nothing is selected: give ids or filters, such as --topic 'conversation.*' or --state dead")
	}
	return selected, nil
}

// options returns the parameters that say how deliveries are changed.
func (c *change) options(q *queueRun) (url.Values, error) {
	options := make(url.Values)
	rate := q.Float64("rate")
	switch {
	case !(rate >= 0): // this refuses NaN, too
		return nil, usagef("rate %v must not be negative", rate)
	case rate > 0:
		options.Set("rate", strconv.FormatFloat(rate, 'f', -1, 64))
	}
	if c.whole && q.Bool("vacuum") {
		options.Set("whole", "true")
	}
	return options, q.copyFlags(options, "to", "cursor")
}

// missing returns as the first error which notifications of the selection are not there: a
// misspelled id of something to erase must not go unnoticed. After an interruption, which a
// cursor tells of, it does not look, because they may be erased.
func (q *queueRun) missing(ctx context.Context, selected url.Values) (missing, failed error) {
	ids := slices.Clone(selected["notification"])
	if len(ids) == 0 || q.Changed("cursor") {
		return nil, nil
	}
	parameters := url.Values{"notification": selected["notification"]}
	if err := q.copyFlags(parameters, "endpoint"); err != nil {
		return nil, err
	}
	_, failed = q.deliveries(ctx, parameters, 0, func(d adminapi.Delivery, _ json.RawMessage) error {
		ids = slices.DeleteFunc(ids, func(id string) bool { return id == d.Notification || id == strconv.FormatInt(d.Number, 10) })
		return nil
	})
	for _, id := range ids {
		missing = errors.Join(missing, fmt.Errorf("%s: there is no such notification", id))
	}
	return missing, failed
}

// preview says how many deliveries are selected. With --json and --dry-run, it prints the
// lines of the answer.
func (c *change) preview(ctx context.Context, q *queueRun, selected url.Values) (total int64, err error) {
	out := q.out
	parameters := withParameter(selected, "dry_run", "true")
	if q.Changed("cursor") {
		parameters.Set("cursor", q.String("cursor"))
	}
	err = eachLine(q.admin.lines(ctx, http.MethodPost, adminapi.DeliveriesPath+"/"+c.verb, parameters), func(p adminapi.Progress, line json.RawMessage) error {
		total = p.Total
		if q.json && q.Bool("dry-run") {
			q.printLine(line)
		}
		return nil
	})
	switch {
	case err != nil || q.json:
		return total, err
	case total == 0:
		return 0, c.nothing(q, selected)
	}
	fmt.Fprintf(out, "%s to %s\n", count(total, "delivery"), c.verb)
	if c.warning != "" {
		fmt.Fprintln(out, c.warning)
	}
	if c.whole && q.Bool("vacuum") {
		fmt.Fprintln(out, vacuumWarning)
	}
	return total, nil
}

// carryOut changes the deliveries, and reports what was done.
func (c *change) carryOut(ctx context.Context, q *queueRun, parameters url.Values) error {
	bar := newProgress(q.notes, c.past)
	defer bar.clear()
	var now adminapi.Progress
	err := eachLine(q.admin.lines(ctx, http.MethodPost, adminapi.DeliveriesPath+"/"+c.verb, parameters), func(p adminapi.Progress, line json.RawMessage) error {
		now = p
		if q.json {
			q.printLine(line)
		}
		bar.show(now.Done, now.Total)
		return nil
	})
	bar.clear()
	if last, ok := errors.AsType[*lineError](err); ok {
		if last.Progress != nil {
			now = *last.Progress
		}
		if last.Cursor != "" {
			err = fmt.Errorf("%w (to go on: --cursor %s)", err, last.Cursor)
		}
	}
	switch out := q.out; {
	case ctx.Err() != nil:
		return fmt.Errorf("stopped: at least %s of %s are %s, the others are as they were", comma(now.Done), count(now.Total, "delivery"), c.past)
	case err != nil && now.Total > 0:
		return fmt.Errorf("%s of %s are %s, then: %w", comma(now.Done), count(now.Total, "delivery"), c.past, err)
	case err != nil || q.json:
		return err
	case now.Total == 0 && !q.Changed("cursor"): // with it, they may be those of the run before
		return c.nothing(q, parameters)
	default:
		fmt.Fprintf(out, "%s %s", c.past, count(now.Done, "delivery"))
		if now.Skipped != nil && *now.Skipped > 0 {
			fmt.Fprintf(out, ", skipped %s: changed meanwhile", comma(*now.Skipped))
		}
		fmt.Fprintln(out)
		if now.Note != "" {
			fmt.Fprintln(out, escape(now.Note))
		}
	}
	return nil
}

// nothing says that no delivery is selected. That is an error if a notification is named.
func (c *change) nothing(q *queueRun, selected url.Values) error {
	text := fmt.Sprintf("there is nothing to %s: %s", c.verb, nothingFits(selected))
	if selected.Has("notification") {
		return errors.New(text + "; see 'caddy intercom-webhook queue show'")
	}
	_, err := fmt.Fprintln(q.out, escape(text))
	return err
}
