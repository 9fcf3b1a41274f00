package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

func newQueueCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queue <command>",
		Short: "Looks into the queue of a running Caddy, and changes it",
		Long: `
Looks into the queue of a running Caddy, and changes it: which lanes there are and what
waits in them, what became of a notification, and what is to be tried or sent again.

The commands ask Caddy's admin endpoint, so they work on the machine that Caddy runs on,
as the admin endpoint is usually reached from there only. --address names another
endpoint, as for Caddy's own commands. It may be a Unix socket, as in
unix//run/caddy-admin.sock. With --config, the address is that of a config.

Only export and import ask no Caddy: they work on the database that a config names, and
move the queue to another one.

The word job stands for what the queue delivers: a notification to its route, or a copy of
it to a further backend. The states of a job are

	available   it waits for a free worker
	running     it is being delivered
	retryable   an attempt failed, and it waits for the next one
	completed   a backend has taken it
	discarded   it is dead: the last attempt failed, or it became too old
	cancelled   it is dead: no route fits, or a person ended it

Times are local ones. With --json, each object of the answer is a line, as the admin
endpoint gives it, and times are UTC. The exit code is 0 if all went well, 1 if not, and 2
if the command was used wrongly.

Examples:

	$ caddy intercom-webhook queue status

	$ caddy intercom-webhook queue list --dead --since 2h

	$ caddy intercom-webhook queue retry --topic 'conversation.*' --error 502
`,
	}
	groupCommands(cmd,
		newQueueStatusCommand(), newQueueListCommand(), newQueueShowCommand(),
		newQueueRetryCommand(), newQueueResendCommand(), newQueueDropCommand(), newQueueEraseCommand(),
		newQueuePauseCommand(), newQueueResumeCommand(), newQueueExportCommand(), newQueueImportCommand())
	return cmd
}

// queueRun is one run of a command on the queue of a running Caddy.
type queueRun struct {
	cmd   *cobra.Command
	flags caddycmd.Flags
	admin *adminClient
	json  bool // print the lines of the answer as they are
}

// onQueue completes a command that speaks to the queue of a running Caddy.
func onQueue(cmd *cobra.Command, args cobra.PositionalArgs, run func(ctx context.Context, q *queueRun, args []string) error) *cobra.Command {
	addAdminFlags(cmd)
	cmd.Flags().String("queue", "", "Name of the queue, where there are several")
	_ = cmd.RegisterFlagCompletionFunc("queue", completeQueues) // fails only for a flag that is not there
	cmd.Flags().Bool("json", false, "Print the objects of the answer, one a line")
	cmd.Args = usageArgs(args)
	cmd.RunE = runE(func(cmd *cobra.Command, args []string) error {
		if slices.Contains(args, "") {
			return usagef("an argument is empty: is the variable set that it comes from?")
		}
		admin, err := newAdminClient(cmd)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		flags := caddycmd.Flags{FlagSet: cmd.Flags()}
		err = run(ctx, &queueRun{cmd: cmd, flags: flags, admin: admin, json: flags.Bool("json")}, args)
		var answer *adminError
		switch {
		case errors.As(err, &answer) && answer.status == http.StatusBadRequest:
			return usageError{err}
		case ctx.Err() != nil && errors.Is(err, context.Canceled):
			return errors.New("interrupted")
		}
		return err
	})
	return cmd
}

// print prints a line of an answer.
func (q *queueRun) print(line json.RawMessage) {
	fmt.Fprintln(q.cmd.OutOrStdout(), escapeJSON(string(line)))
}

// lineError is the last line of an answer that could not be completed.
type lineError struct {
	Text   string `json:"error"`
	Cursor string `json:"cursor"` // where to go on
	progressLine
}

func (e *lineError) Error() string { return escape(e.Text) }

// eachLine calls do for each line of an answer, decoded and as it is. If the last line says
// that the answer could not be completed, eachLine returns it as a *lineError.
func eachLine[T any](lines iter.Seq2[json.RawMessage, error], do func(value T, line json.RawMessage) error) error {
	for line, err := range lines {
		if err != nil {
			return err
		}
		var value T
		var last lineError
		if err := cmp.Or(json.Unmarshal(line, &last), json.Unmarshal(line, &value)); err != nil {
			return fmt.Errorf("the answer of Caddy has an unknown form (%w): is it a newer or older version than this command?", err)
		}
		if last.Text != "" {
			return &last
		}
		if err := do(value, line); err != nil {
			return err
		}
	}
	return nil
}

// job is a job of the queue, as the admin endpoint describes it.
type job struct {
	ID            int64     `json:"id"`
	Notification  string    `json:"notification"`
	Topic         string    `json:"topic"`
	Workspace     string    `json:"workspace"`
	Queue         string    `json:"queue"`
	Lane          string    `json:"lane"`
	To            string    `json:"to"` // the lane that a person has chosen
	State         string    `json:"state"`
	Attempt       int       `json:"attempt"`
	MaxAttempts   int       `json:"max_attempts"`
	StoredAt      time.Time `json:"stored_at"`
	NextAttemptAt time.Time `json:"next_attempt_at"`
	FinishedAt    time.Time `json:"finished_at"`
	Reason        string    `json:"reason"` // the last error
}

var (
	deadStates = []string{"discarded", "cancelled"}
	jobStates  = append([]string{"available", "running", "retryable", "completed"}, deadStates...)
)

// isDead reports whether a job in this state is a dead letter.
func isDead(state string) bool { return slices.Contains(deadStates, state) }
