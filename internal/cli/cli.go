// Package cli has the subcommands of `caddy intercom-webhook`. They decide nothing that the
// module decides: they ask a running Caddy, or have Caddy load a config.
package cli

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

// AddCommands adds all subcommands to the command.
func AddCommands(cmd *cobra.Command) {
	queue := newCommand("queue")
	groupCommands(queue,
		newQueueStatusCommand(), newQueueListCommand(), newQueueShowCommand(),
		retry.newCommand(), resend.newCommand(), drop.newCommand(), erase.newCommand(),
		newLaneCommand("pause", "paused"), newLaneCommand("resume", "resumed"), newQueueMoveCommand())
	groupCommands(cmd,
		newSendCommand(), newIPRangesCommand(), queue, newListenCommand(), newTopicsCommand(), newVerifyCommand(), newDoctorCommand())
}

// help has a file for each command: a line of usage, a line that is its short description, and
// its help. What several of them say is in files of its own.
//
//go:embed help
var help embed.FS

func helpText(name string) string {
	text, err := help.ReadFile("help/" + name + ".txt")
	if err != nil {
		panic(err) // it is embedded
	}
	return string(text)
}

// newCommand returns a command with its help.
func newCommand(name string) *cobra.Command {
	use, rest, _ := strings.Cut(helpText(name), "\n")
	short, long, _ := strings.Cut(rest, "\n")
	for _, part := range []string{"secret", "changes", "filters"} {
		long = strings.ReplaceAll(long, "{{"+part+"}}\n", helpText(part))
	}
	return &cobra.Command{Use: use, Short: short, Long: long}
}

// The exit codes of all commands.
const (
	exitFine   = caddy.ExitCodeSuccess // 0
	exitFailed = 1                     // it failed, or found what it was asked to look for
	exitUsage  = 2                     // it was used wrongly
)

// usageError is the error of a command that was used wrongly.
type usageError struct{ error }

// Unwrap returns the error that tells what is wrong.
func (e usageError) Unwrap() error { return e.error }

// usagef makes a usageError.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// safeError is an error whose text is safe to print on a terminal: errors quote files, servers
// and other programs.
type safeError struct{ error }

// Error returns the text, in which only line breaks are left as they are.
func (e *safeError) Error() string { return escapeLines(e.error.Error()) }

// Unwrap returns the error as it was.
func (e *safeError) Unwrap() error { return e.error }

// run is one run of a command.
type run struct {
	caddycmd.Flags
	cmd        *cobra.Command
	in         io.Reader
	out, notes io.Writer
}

func newRun(cmd *cobra.Command) *run {
	return &run{caddycmd.Flags{FlagSet: cmd.Flags()}, cmd, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()}
}

// print prints a value as JSON, with the flag json, or else what text prints.
func (r *run) print(value any, text func(out io.Writer)) error {
	if r.Bool("json") {
		return printJSON(r.out, value)
	}
	text(r.out)
	return nil
}

// printLine prints a line of an answer of the admin endpoint.
func (r *run) printLine(line json.RawMessage) { fmt.Fprintln(r.out, escapeJSON(string(line))) }

// orLine returns a function that prints each line of an answer as it is, with the flag json, or
// else what text prints of it.
func orLine[T any](r *run, text func(T) error) func(T, json.RawMessage) error {
	return func(value T, line json.RawMessage) error {
		if r.Bool("json") {
			r.printLine(line)
			return nil
		}
		return text(value)
	}
}

// runE returns the RunE function of a command that does do. The context ends with the first
// SIGINT or SIGTERM.
func runE(do func(ctx context.Context, r *run, args []string) error) func(*cobra.Command, []string) error {
	return withExitCode(func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return do(ctx, newRun(cmd), args)
	})
}

// withExitCode has an error of do printed once, by Caddy's logger. The exit code is 2 for a
// usageError, and 1 for other errors.
func withExitCode(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) {
			err := do(cmd, args)
			switch {
			case err == nil:
				return exitFine, nil
			case errors.As(err, new(usageError)):
				return exitUsage, &safeError{err}
			default:
				return exitFailed, &safeError{err}
			}
		})(cmd, args)
	}
}

// usageArgs has cobra's check of the arguments end with the exit code of wrong use.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return withExitCode(func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) != nil {
			return usagef("got %s: expecting '%s': see '%s --help'", count(len(args), "argument"), strings.TrimSuffix(cmd.UseLine(), " [flags]"), cmd.CommandPath())
		}
		return nil
	})
}

// groupCommands makes cmd the parent of subcommands. Alone, it prints its help. A wrong
// flag of it or of a subcommand, and an unknown subcommand, are wrong use.
func groupCommands(cmd *cobra.Command, subcommands ...*cobra.Command) {
	cmd.AddCommand(subcommands...)
	cmd.Args = withExitCode(noSuchCommand)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return withExitCode(func(*cobra.Command, []string) error {
			if cmd.HasSubCommands() { // the flag may be one of the command that is meant
				if unknown := noSuchCommand(cmd, cmd.Flags().Args()); unknown != nil {
					return unknown
				}
			}
			return usagef("%w: see '%s --help'", err, cmd.CommandPath())
		})(cmd, nil)
	})
}

// noSuchCommand returns an error if there is an argument: it is no subcommand.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return usagef("unknown command %q: the commands of '%s' are %s", args[0], cmd.CommandPath(), option.Choices(args[0], names))
}
