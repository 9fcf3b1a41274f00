package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// QueueDatabase is the database of a queue, which export and import open without a Caddy.
type QueueDatabase interface {
	// Export writes all jobs, with a header before them and an end behind them, an object a
	// line.
	Export(ctx context.Context, to io.Writer, report func(QueueMove)) (QueueMove, error)

	// Import reads what Export has written, and stores those jobs that are not there. When
	// it reports, what it reports is durable.
	Import(ctx context.Context, from io.Reader, report func(QueueMove)) (QueueMove, error)
}

// QueueMove is how far an export or an import is.
type QueueMove struct {
	Database string         // for people
	Jobs     int            // that are exported, or were read
	Total    int            // about, for the progress; 0 if it is not known
	States   map[string]int // of the jobs that are exported, imported or were there already

	Imported    int
	There       int      // before
	Refused     int      // by the database
	Refusals    []string // the first ones, with their lines
	Undelivered []string // endpoints that have imported jobs, but no handler
}

// FindQueueDatabase returns the database of a config's queues, which are given as they are in
// the handlers: the only one or, for a name, that of the endpoint with this name. Package
// queue sets it. It is nil in a build without that package.
var FindQueueDatabase func(queues []json.RawMessage, name string) (QueueDatabase, error)

var errBuiltWithoutQueue = errors.New("this Caddy is built without the queue: build it with github.com/caddy-intercom/caddy-intercom-webhook/queue")

// onDatabase completes a command that works on the database of a config's queue.
func onDatabase(cmd *cobra.Command, args cobra.PositionalArgs, run func(ctx context.Context, d *databaseRun, args []string) error) *cobra.Command {
	flags := cmd.Flags()
	flags.StringP("config", "c", "", "Config file with the queue (required)")
	flags.StringP("adapter", "a", "", "Name of the config adapter to apply to --config")
	flags.String("queue", "", "Name of the queue, where the config has several databases")
	flags.Bool("json", false, "Print the summary as JSON")
	cmd.Args = usageArgs(args)
	cmd.RunE = runE(func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop) // a second signal ends what waits for its input
		return run(ctx, &databaseRun{cmd: cmd, flags: caddycmd.Flags{FlagSet: flags}}, args)
	})
	return cmd
}

// databaseRun is one run of a command on the database of a config's queue.
type databaseRun struct {
	cmd   *cobra.Command
	flags caddycmd.Flags
}

// database finds the database. Nothing is opened yet.
func (d *databaseRun) database() (QueueDatabase, error) {
	if FindQueueDatabase == nil {
		return nil, errBuiltWithoutQueue
	}
	file := d.flags.String("config")
	if file == "" {
		return nil, usagef("--config is missing: name the config file whose queue is meant")
	}
	c, err := readConfig(file, d.flags.String("adapter"))
	if err != nil {
		return nil, usageError{err}
	}
	var queues []json.RawMessage
	for _, e := range c.endpoints {
		if e.Queue != nil {
			queues = append(queues, e.Queue)
		}
	}
	if len(queues) == 0 {
		return nil, usagef("%s has no queue: name a config with a queue in an intercom_webhook", file)
	}
	database, err := FindQueueDatabase(queues, d.flags.String("queue"))
	if err != nil {
		return nil, usageError{err}
	}
	return database, nil
}

// moving returns what shows the progress, and what hides it.
func (d *databaseRun) moving(past string) (report func(QueueMove), hide func()) {
	bar := newProgress(d.cmd.ErrOrStderr(), past)
	return func(m QueueMove) { bar.show(m.Jobs, max(m.Jobs, m.Total)) }, bar.clear
}

// printStates prints how many jobs of each state were moved.
func (m QueueMove) printStates(w io.Writer) error {
	table := newTable(w, "STATE", "JOBS")
	for _, state := range slices.Concat(jobStates, m.otherStates()) {
		if n := m.States[state]; n > 0 {
			table.row(state, comma(n))
		}
	}
	return table.Flush()
}

// otherStates are those that only River's own worker knows.
func (m QueueMove) otherStates() []string {
	var others []string
	for state := range m.States {
		if !slices.Contains(jobStates, state) {
			others = append(others, state)
		}
	}
	slices.Sort(others)
	return others
}

// endedEarly returns the error of a move that ended early. What says what is done.
func (m QueueMove) endedEarly(ctx context.Context, err error, what string) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("stopped: %s", what)
	case m.Jobs == 0:
		return err
	default:
		return fmt.Errorf("%w (%s)", err, what)
	}
}
