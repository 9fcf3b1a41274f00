package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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

// The changes, by their commands.
var (
	retry  = change{verb: "retry", past: "retried", to: true}
	resend = change{verb: "resend", past: "resent", to: true, warning: "Backends get again what they have taken already."}
	drop   = change{verb: "drop", past: "dropped", warning: "This cannot be undone."}
	erase  = change{verb: "erase", past: "erased", whole: true, warning: "This cannot be undone, and what is not delivered yet is lost."}
)

// vacuumWarning says for how long storing stands still: the command does not know the size.
const vacuumWarning = "--vacuum writes the whole file or the tables anew. Until it is done, no notification can be stored: Intercom gets 503, sends once more after a minute, and then drops the notification. " +
	"How long it takes depends on the size and on the disk: seconds for 100 MB, and minutes for 10 GB. 'queue move' to a new database, and deleting the old one, stops nothing."

// newCommand returns the command of the change.
func (c *change) newCommand() *cobra.Command {
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
		flags.Bool("vacuum", false, "Also write the whole file or the tables anew; nothing can be stored meanwhile")
	}
	return onQueue(cmd, cobra.ArbitraryArgs, c.run)
}

// run selects deliveries, asks, and changes them. Without a state, the module selects by one.
func (c *change) run(ctx context.Context, q *queueRun, ids []string) error {
	if len(ids) > 0 {
		q.selected["notification"] = append(q.selected["notification"], ids...)
	}
	if len(q.selected) == 0 || len(q.selected) == 1 && q.selected.Has("endpoint") {
		return usagef("nothing is selected: give ids or filters, such as --topic 'conversation.*' or --state dead")
	}
	options, err := c.options(q)
	if err != nil {
		return err
	}
	yes, dryRun := q.Bool("yes"), q.Bool("dry-run")
	if !yes && !dryRun && !isTerminal(q.in) {
		return usagef("there is no terminal to ask on: give --yes to %s without a question, or --dry-run to see how many are selected", c.verb)
	}
	missing, none, err := q.missing(ctx)
	if err != nil || none {
		return errors.Join(missing, err)
	}
	if cursor, ok := options["cursor"]; ok {
		q.selected["cursor"] = cursor
	}
	if !yes || dryRun {
		total, err := c.preview(ctx, q)
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
	return errors.Join(missing, c.carryOut(ctx, q, options))
}

// options returns the parameters that say how deliveries are changed.
func (c *change) options(q *queueRun) (url.Values, error) {
	options, err := q.parameters("to", "cursor")
	if err != nil {
		return nil, err
	}
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
	return options, nil
}

// missing returns as the first error which notifications of the selection are not there: a
// misspelled id of something to erase must not go unnoticed. After an interruption, which a
// cursor tells of, it does not look, because they may be erased. It also reports whether none of
// them is there.
func (q *queueRun) missing(ctx context.Context) (missing error, none bool, failed error) {
	named := q.selected["notification"]
	if len(named) == 0 || q.Changed("cursor") {
		return nil, false, nil
	}
	ids := slices.Clone(named)
	for some := range slices.Chunk(named, 100) { // more could be too long for a request
		parameters := url.Values{"notification": some}
		if endpoint, ok := q.selected["endpoint"]; ok {
			parameters["endpoint"] = endpoint
		}
		_, failed = q.deliveries(ctx, parameters, 0, func(d adminapi.Delivery, _ json.RawMessage) error {
			ids = slices.DeleteFunc(ids, func(id string) bool { return id == d.Notification || id == strconv.FormatInt(d.Number, 10) })
			return nil
		})
		if failed != nil {
			return nil, false, failed
		}
	}
	errs := make([]error, len(ids))
	for i, id := range ids {
		errs[i] = fmt.Errorf("%s: there is no such notification", id)
	}
	return errors.Join(errs...), len(ids) == len(named), nil
}

// post asks for the change with some options more than what is selected, and calls show with
// each line of progress.
func (c *change) post(ctx context.Context, q *queueRun, options url.Values, show func(p adminapi.Progress, line json.RawMessage)) error {
	parameters := maps.Clone(q.selected)
	maps.Copy(parameters, options)
	return ask(ctx, q.admin, http.MethodPost, adminapi.DeliveriesPath+"/"+c.verb, parameters, func(p adminapi.Progress, line json.RawMessage) error {
		show(p, line)
		return nil
	})
}

// preview says how many deliveries are selected. With --json and --dry-run, it prints the
// lines of the answer.
func (c *change) preview(ctx context.Context, q *queueRun) (total int64, err error) {
	asJSON := q.Bool("json")
	err = c.post(ctx, q, url.Values{"dry_run": {"true"}}, func(p adminapi.Progress, line json.RawMessage) {
		total = p.Total
		if asJSON && q.Bool("dry-run") {
			q.printLine(line)
		}
	})
	switch {
	case err != nil || asJSON:
		return total, err
	case total == 0:
		return 0, c.nothing(q)
	}
	fmt.Fprintf(q.out, "%s to %s\n", count(total, "delivery"), c.verb)
	if c.warning != "" {
		fmt.Fprintln(q.out, c.warning)
	}
	if c.whole && q.Bool("vacuum") {
		fmt.Fprintln(q.out, vacuumWarning)
	}
	return total, nil
}

// carryOut changes the deliveries, and reports what was done.
func (c *change) carryOut(ctx context.Context, q *queueRun, options url.Values) error {
	past, where := c.past, ""
	if to := options.Get("to"); to != "" {
		past, where = "sent", " to lane "+escape(to)
	}
	bar := newProgress(q.notes.Writer, past)
	var now adminapi.Progress
	err := c.post(ctx, q, options, func(p adminapi.Progress, line json.RawMessage) {
		now = p
		if q.Bool("json") {
			q.printLine(line)
		}
		bar.show(now.Done, now.Total)
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
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("stopped: at least %s of %s are %s, the others are as they were", comma(now.Done), count(now.Total, "delivery"), past)
	case err != nil && now.Total > 0:
		return fmt.Errorf("%s of %s are %s, then: %w", comma(now.Done), count(now.Total, "delivery"), past, err)
	case err != nil || q.Bool("json"):
		return err
	case now.Total == 0 && !q.Changed("cursor"): // with it, they may be those of the run before
		return c.nothing(q)
	}
	fmt.Fprintf(q.out, "%s %s%s", past, count(now.Done, "delivery"), where)
	if now.Skipped != nil && *now.Skipped > 0 {
		why := "changed meanwhile"
		switch {
		case options.Has("to"):
			why += ", or in that lane already"
		case past == retry.past:
			why += ", or waiting already"
		}
		fmt.Fprintf(q.out, ", skipped %s: %s", comma(*now.Skipped), why)
	}
	fmt.Fprintln(q.out)
	if now.Note != "" {
		fmt.Fprintln(q.out, escape(now.Note))
	}
	return nil
}

// nothing says that no delivery is selected. That is an error if a notification is named.
func (c *change) nothing(q *queueRun) error {
	text := fmt.Sprintf("there is nothing to %s: %s", c.verb, nothingFits(q.selected))
	if q.selected.Has("notification") {
		return errors.New(text + "; see 'caddy intercom-webhook queue show'")
	}
	_, err := fmt.Fprintln(q.out, escape(text))
	return err
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
