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
	verb     string   // also its name on the admin endpoint
	past     string   // what then has happened to the deliveries
	states   []string // of the deliveries that it selects if no filter says so; nil for all
	idStates []string // likewise, of notifications that are named one by one
	warning  string   // what cannot be undone
	to       bool     // takes --to
	whole    bool     // takes --vacuum
	short    string
	long     string
	examples string
}

func newQueueRetryCommand() *cobra.Command {
	return newChangeCommand(&change{
		verb: "retry", past: "retried", states: []string{"dead"}, idStates: []string{"retrying", "dead"}, to: true,
		short: "Tries dead letters again",
		long: `
Tries deliveries again, now: dead letters unless --state says otherwise, and of notifications
that are named one by one, also what waits for its next attempt. Each has its whole schedule
again: its attempts and its age start anew.
`,
		examples: `
	$ caddy intercom-webhook queue retry notif_6e8f7a52-8be1-4c21-a1a5-5f7ed9b0a6d5

	$ caddy intercom-webhook queue retry --topic 'conversation.*' --since 2h --error 502

	$ caddy intercom-webhook queue retry --state dead --to archive --rate 50 --yes
`,
	})
}

func newQueueResendCommand() *cobra.Command {
	return newChangeCommand(&change{
		verb: "resend", past: "resent", states: []string{"delivered"}, idStates: []string{"delivered"}, to: true,
		warning: "Backends get again what they have taken already.",
		short:   "Sends again what was delivered already",
		long: `
Delivers again what a backend has taken already: deliveries in the state delivered, unless
--state says otherwise. Backends get the notification with the same id and signature, and
those that recognize duplicates drop it. It is kept for as long as the option keep_delivered
says. With --to, a new backend catches up.
`,
		examples: `
	$ caddy intercom-webhook queue resend notif_6e8f7a52-8be1-4c21-a1a5-5f7ed9b0a6d5

	$ caddy intercom-webhook queue resend --since 24h --to new-crm --rate 20
`,
	})
}

func newQueueDropCommand() *cobra.Command {
	return newChangeCommand(&change{
		verb: "drop", past: "dropped", states: []string{"dead"}, idStates: []string{"dead"},
		warning: "This cannot be undone.",
		short:   "Deletes dead letters",
		long: `
Deletes dead letters, unless --state says otherwise. A notification of which nothing is left,
and that Intercom sends again after that, is no duplicate.
`,
		examples: `
	$ caddy intercom-webhook queue drop notif_6e8f7a52-8be1-4c21-a1a5-5f7ed9b0a6d5

	$ caddy intercom-webhook queue drop --lane crm --until 7d
`,
	})
}

func newQueueEraseCommand() *cobra.Command {
	return newChangeCommand(&change{
		verb: "erase", past: "erased", whole: true,
		warning: "This cannot be undone, and what is not delivered yet is lost.",
		short:   "Deletes deliveries of any state so that no trace of them stays in the database",
		long: `
Deletes deliveries of any state, unless --state says otherwise, and removes what the
database's own files still have of them. Those that are being made are ended; what cannot be
erased is said, and the exit code is 1. It is for personal data. It says what of it may
remain in backups and replicas.

With --vacuum, SQLite's file is also written anew, so that not one byte of what was ever
deleted is left. No notification can be stored during that time, and Intercom gets 503.
`,
		examples: `
	$ caddy intercom-webhook queue erase notif_6e8f7a52-8be1-4c21-a1a5-5f7ed9b0a6d5

	$ caddy intercom-webhook queue erase --workspace tulip4 --yes
`,
	})
}

// vacuumWarning says for how long storing stands still: the command does not know the size.
const vacuumWarning = "--vacuum writes the whole file anew. Until it is done, no notification can be stored: Intercom gets 503, and sends once more after a minute. " +
	"How long it takes depends on the size of the file and on the disk: about as long as to copy the file twice, so seconds for 100 MB, and minutes for 10 GB."

func newChangeCommand(c *change) *cobra.Command {
	cmd := &cobra.Command{
		Use:   c.verb + " [<notification ids or numbers...>]",
		Short: c.short,
		Long: c.long + filterHelp + `
Instead of filters, or with them, notifications can be named by their ids or numbers. All
their deliveries are then selected, copies too. At least one id or filter is needed.

First the command says how many deliveries are selected, and asks whether to go on. --yes
answers this question, as scripts must; --dry-run ends there. What changes in the meantime
is left as it is. The Caddy does the work in small batches, and storing new notifications
goes first. Ctrl-C stops it, and what is done stays done.

Examples:
` + c.examples,
	}
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
	if n := len(missing); n > 0 && n == len(selected["notification"]) {
		return c.notFound(missing, selected)
	}
	if !yes || dryRun {
		total, err := c.preview(ctx, q, selected)
		if err != nil || total == 0 || dryRun {
			return errors.Join(c.notFound(missing, selected), err)
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
	return errors.Join(c.carryOut(ctx, q, options), c.notFound(missing, selected))
}

// selection returns the parameters that select deliveries.
func (c *change) selection(q *queueRun, ids []string) (url.Values, error) {
	selected := make(url.Values)
	if err := q.copyFlags(selected, filters...); err != nil {
		return nil, err
	}
	if len(ids) > 0 {
		selected["notification"] = append(selected["notification"], ids...)
	}
	named := selected.Has("notification")
	if len(selected) == 0 || len(selected) == 1 && selected.Has("endpoint") {
		return nil, usagef("nothing is selected: give ids or filters, such as --topic 'conversation.*' or --state %s", cmp.Or(strings.Join(c.states, ","), "dead"))
	}
	states := c.states
	if named {
		states = c.idStates
	}
	if !selected.Has("state") && states != nil {
		selected["state"] = states
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

// missing returns the ids and numbers of the selection of which there is no delivery. After an
// interruption, which a cursor tells of, it does not look: they may be changed already.
func (q *queueRun) missing(ctx context.Context, selected url.Values) ([]string, error) {
	ids := slices.Clone(selected["notification"])
	if len(ids) == 0 || q.Changed("cursor") {
		return nil, nil
	}
	_, err := q.deliveries(ctx, selected, 0, func(d adminapi.Delivery, _ json.RawMessage) error {
		ids = slices.DeleteFunc(ids, func(id string) bool { return id == d.Notification || id == strconv.FormatInt(d.Number, 10) })
		return nil
	})
	return ids, err
}

// notFound returns an error for the ids that select no delivery; nil if there are none.
func (c *change) notFound(ids []string, selected url.Values) error {
	in := "in any state"
	if selected.Has("state") {
		in = "in a state that is selected (" + strings.Join(selected["state"], ", ") + ")"
	}
	var all []error
	for _, id := range ids {
		all = append(all, fmt.Errorf("%s: there is no such delivery %s: see 'caddy intercom-webhook queue show %[1]s'", id, in))
	}
	return errors.Join(all...)
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
		_, err = fmt.Fprintf(out, "there is nothing to %s: %s\n", c.verb, escape(nothingFits(selected)))
		return 0, err
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
		fmt.Fprintf(out, "there is nothing to %s: %s\n", c.verb, escape(nothingFits(parameters)))
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
