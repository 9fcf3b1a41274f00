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
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

// change is a kind of change of many jobs.
type change struct {
	verb     string   // also its name on the admin endpoint
	past     string   // what then has happened to the jobs
	states   []string // of the jobs that it takes if no filter says so; nil for all
	idStates []string // likewise, of jobs that are named one by one
	warning  string   // what cannot be undone
	to       bool     // takes --to
	short    string
	long     string
	examples string
}

func newQueueRetryCommand() *cobra.Command {
	return newChangeCommand(&change{
		verb: "retry", past: "retried", states: deadStates, idStates: append([]string{"retryable"}, deadStates...), to: true,
		short: "Tries dead letters again",
		long: `
Tries jobs again, now: dead letters (discarded and cancelled) unless --state says
otherwise, and of those that are named one by one, also those that wait for their next
attempt. Each has at least one more attempt, and its age starts anew.
`,
		examples: `
	$ caddy intercom-webhook queue retry notif_6e8f7a52-8be1-4c21-a1a5-5f7ed9b0a6d5

	$ caddy intercom-webhook queue retry --topic 'conversation.*' --since 2h --error 502

	$ caddy intercom-webhook queue retry --dead --to archive --rate 50 --yes
`,
	})
}

func newQueueResendCommand() *cobra.Command {
	return newChangeCommand(&change{
		verb: "resend", past: "resent", states: []string{"completed"}, idStates: []string{"completed"}, to: true,
		warning: "Backends get again what they have taken already.",
		short:   "Sends again what was delivered already",
		long: `
Delivers again what a backend has taken already: completed jobs, unless --state says
otherwise. Backends get it with the same id and signature, and those that recognize
duplicates drop it. They are kept for as long as the option keep_delivered says.
With --to, a new backend catches up.
`,
		examples: `
	$ caddy intercom-webhook queue resend notif_6e8f7a52-8be1-4c21-a1a5-5f7ed9b0a6d5

	$ caddy intercom-webhook queue resend --since 24h --to new-crm --rate 20
`,
	})
}

func newQueueDropCommand() *cobra.Command {
	return newChangeCommand(&change{
		verb: "drop", past: "dropped", states: deadStates, idStates: deadStates,
		warning: "This cannot be undone.",
		short:   "Deletes dead letters",
		long: `
Deletes dead letters (discarded and cancelled), unless --state says otherwise. A
notification that Intercom sends again after that is no duplicate.
`,
		examples: `
	$ caddy intercom-webhook queue drop notif_6e8f7a52-8be1-4c21-a1a5-5f7ed9b0a6d5

	$ caddy intercom-webhook queue drop --lane crm --until 7d
`,
	})
}

func newQueueEraseCommand() *cobra.Command {
	return newChangeCommand(&change{
		verb: "erase", past: "erased",
		warning: "This cannot be undone, and undelivered jobs are lost.",
		short:   "Deletes jobs of any state so that no trace of them stays in the database",
		long: `
Deletes jobs of any state, unless --state says otherwise, and removes what the database's
own files still have of them. Deliveries that are running are ended; if some do not end
within 30 seconds, their jobs stay, and the exit code is 1. It is for personal data. It
says what of them may remain in backups and replicas.
`,
		examples: `
	$ caddy intercom-webhook queue erase notif_6e8f7a52-8be1-4c21-a1a5-5f7ed9b0a6d5

	$ caddy intercom-webhook queue erase --workspace tulip4 --yes
`,
	})
}

func newChangeCommand(c *change) *cobra.Command {
	running := ""
	if c.states != nil {
		running = "Running jobs are left out. "
	}
	cmd := &cobra.Command{
		Use:   c.verb + " [<notification or job ids...>]",
		Short: c.short,
		Long: c.long + filterHelp + `
Instead of filters, or with them, jobs can be named: by their number, or by the id of the
notification, which stands for its copies, too. At least one id or filter is needed.

First the command shows how many jobs are selected, with their topics and lanes, and asks
whether to go on. --yes answers this question, as scripts must; --dry-run ends there.
` + running + `The Caddy does the work in small batches, and storing new notifications
goes first. Ctrl-C stops it, and what is done stays done.

Examples:
` + c.examples,
	}
	addFilterFlags(cmd)
	flags := cmd.Flags()
	flags.BoolP("yes", "y", false, "Do not ask")
	flags.Bool("dry-run", false, "Only show what is selected")
	flags.String("cursor", "", "Where to go on after an error, which says it")
	flags.Float64("rate", 0, "How many jobs a second at most (0 = as fast as possible)")
	if c.to {
		flags.String("to", "", "Deliver to the route or copy with this lane, whatever the topic, as new jobs")
		_ = cmd.RegisterFlagCompletionFunc("to", completeLanes) // fails only for a flag that is not there
	}
	return onQueue(cmd, cobra.ArbitraryArgs, c.run)
}

// run selects jobs, asks, and changes them.
func (c *change) run(ctx context.Context, q *queueRun, ids []string) error {
	if rate := q.flags.Float64("rate"); q.flags.Changed("rate") && !(rate >= 0) { // this refuses NaN, too
		return usagef("rate %v must not be negative", rate)
	}
	selections, err := c.selections(ctx, q, ids)
	if err != nil {
		return err
	}
	yes, dryRun := q.flags.Bool("yes"), q.flags.Bool("dry-run")
	if !yes && !dryRun && !isTerminal(q.cmd.InOrStdin()) {
		return usagef("there is no terminal to ask on: give --yes to %s without a question, or --dry-run to see what is selected", c.verb)
	}
	options, err := c.options(ctx, q)
	if err != nil {
		return err
	}
	if !yes || dryRun {
		selected, err := c.preview(ctx, q, selections, dryRun)
		if err != nil || selected == 0 || dryRun {
			return err
		}
		question := strings.ToUpper(c.verb[:1]) + c.verb[1:] + " " + count(selected, "job")
		if to := options.Get("to"); to != "" {
			question += " to lane " + to
		}
		if ok, err := confirm(ctx, q.cmd.InOrStdin(), q.cmd.ErrOrStderr(), question+"?"); err != nil || !ok {
			return cmp.Or(err, errors.New("nothing was changed"))
		}
	}
	return c.carryOut(ctx, q, selections, options)
}

// selection is the parameters of one request that changes jobs.
type selection struct {
	parameters url.Values
	id         string // of a notification or job that is named; empty for none
}

// selections returns the requests to make: one for the filters alone, or one for each id.
func (c *change) selections(ctx context.Context, q *queueRun, ids []string) ([]selection, error) {
	filter, err := q.filter(ctx)
	if err != nil {
		return nil, err
	}
	if len(filter) == 0 && len(ids) == 0 {
		return nil, usagef("nothing is selected: give ids or filters, such as --topic 'conversation.*' or, for all dead letters, --dead")
	}
	if len(ids) > 0 && (filter.Has("id") || filter.Has("notification")) {
		return nil, usagef("ids are given as arguments and with --id or --notification: give them in one way")
	}
	if !filter.Has("state") {
		states := c.states
		if len(ids) > 0 || filter.Has("id") || filter.Has("notification") {
			states = c.idStates
		}
		if states != nil {
			filter["state"] = states
		}
	}
	q.scope(filter)
	if q.flags.Changed("cursor") {
		cursor := q.flags.String("cursor")
		switch {
		case cursor == "":
			return nil, emptyFlag("cursor")
		case len(ids) > 0:
			return nil, usagef("--cursor is for a selection by filters: leave the ids out")
		}
		filter.Set("cursor", cursor)
	}
	if len(ids) == 0 {
		return []selection{{parameters: filter}}, nil
	}
	var all []selection
	for _, id := range ids {
		parameters := maps.Clone(filter)
		if number, err := strconv.ParseInt(id, 10, 64); err == nil && number > 0 {
			parameters["id"] = []string{id}
		} else {
			parameters["notification"] = []string{id}
		}
		all = append(all, selection{parameters, id})
	}
	return all, nil
}

// options returns the parameters of a request that changes what a selection selects.
func (c *change) options(ctx context.Context, q *queueRun) (url.Values, error) {
	options := make(url.Values)
	if rate := q.flags.Float64("rate"); rate > 0 {
		options.Set("rate", strconv.FormatFloat(rate, 'f', -1, 64))
	}
	if c.to && q.flags.Changed("to") {
		to := q.flags.String("to")
		if to == "" {
			return nil, usagef("--to is empty: leave it out, or give it a lane")
		}
		options.Set("to", to)
		return options, q.checkLane(ctx, to)
	}
	return options, nil
}

// progressLine is a line of the answer to a request that changes jobs.
type progressLine struct {
	Done    int    `json:"done"`
	Total   int    `json:"total"`
	Skipped int    `json:"skipped"` // running, or gone
	Running int    `json:"running"` // those of them that could not be erased, as they still run
	Note    string `json:"note"`
}

// plus returns the progress of two requests, of which the other is the later one.
func (p progressLine) plus(other progressLine) progressLine {
	return progressLine{p.Done + other.Done, p.Total + other.Total, p.Skipped + other.Skipped, p.Running + other.Running, cmp.Or(other.Note, p.Note)}
}

// carryOut changes the jobs of the selections, one selection after the other. An id that
// selects no job does not keep the others from being changed.
func (c *change) carryOut(ctx context.Context, q *queueRun, selections []selection, options url.Values) error {
	bar := newProgress(q.cmd.ErrOrStderr(), c.past)
	defer bar.clear()
	var sum progressLine
	var left []error // why jobs are not changed
	for _, s := range selections {
		parameters := maps.Clone(s.parameters)
		maps.Copy(parameters, options)
		var now progressLine
		err := eachLine(q.admin.post(ctx, "jobs/"+c.verb, parameters), func(line progressLine, raw json.RawMessage) error {
			now = line
			if q.json {
				q.print(raw)
			}
			all := sum.plus(now)
			bar.show(all.Done, all.Total)
			return nil
		})
		bar.clear()
		if last, ok := errors.AsType[*lineError](err); ok {
			now = last.progressLine
			if last.Cursor != "" && s.id == "" {
				err = fmt.Errorf("%w (to go on: --cursor %s)", err, escape(last.Cursor))
			}
		}
		sum = sum.plus(now)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("stopped: at least %s of %s are %s, the others are as they were", comma(sum.Done), count(sum.Total, "job"), c.past)
		case err != nil && sum.Total > 0:
			return errors.Join(append(left, fmt.Errorf("%s of %s are %s, then: %w", comma(sum.Done), count(sum.Total, "job"), c.past, err))...)
		case err != nil:
			return errors.Join(append(left, err)...)
		case s.id != "" && now.Total == 0:
			left = append(left, c.notFound(ctx, q, s))
		}
	}
	switch {
	case q.json || len(left) == len(selections):
	case sum.Total == 0 && !q.flags.Changed("cursor"): // with it, the jobs may be those of the run before
		c.reportNothing(q, selections)
	default:
		c.report(q, sum)
	}
	if sum.Running > 0 {
		left = append(left, fmt.Errorf("not %s, as they are still being delivered: %s: run the command again when these deliveries have ended", c.past, count(sum.Running, "job")))
	}
	return errors.Join(left...)
}

// report prints what a change has done.
func (c *change) report(q *queueRun, sum progressLine) {
	out := q.cmd.OutOrStdout()
	fmt.Fprintf(out, "%s %s", c.past, count(sum.Done, "job"))
	if sum.Skipped > 0 {
		fmt.Fprintf(out, ", skipped %s: running now, or gone", comma(sum.Skipped))
	}
	fmt.Fprintln(out)
	if sum.Note != "" {
		fmt.Fprintln(out, escape(sum.Note))
	}
}

// reportNothing says that no job was selected, and perhaps why.
func (c *change) reportNothing(q *queueRun, selections []selection) {
	fmt.Fprintf(q.cmd.OutOrStdout(), "there is nothing to %s: %s\n", c.verb, cmp.Or(whyNothing(selections[0].parameters), "no job fits"))
}

// notFound returns the error for an id that selects no job, with the id that is perhaps meant.
func (c *change) notFound(ctx context.Context, q *queueRun, s selection) error {
	states := "in any state"
	if s.parameters.Has("state") {
		states = "in a state that is selected (" + option.Enumerate(s.parameters["state"]) + ")"
	}
	err := fmt.Errorf("%s: there is no such job %s: see 'caddy intercom-webhook queue show %s'", escape(s.id), states, escape(s.id))
	return q.withNearestID(ctx, err, s.id)
}
