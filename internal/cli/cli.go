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
)

// help has a file for each command: a line of usage, a line that is its short description, the
// page of the docs that says more, and its help. What several of them say is in files of its own.
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
	short, rest, _ := strings.Cut(rest, "\n")
	page, long, _ := strings.Cut(rest, "\n")
	for _, part := range []string{"secret", "changes", "filters"} {
		long = strings.ReplaceAll(long, "{{"+part+"}}\n", helpText(part))
	}
	cmd := &cobra.Command{Use: use, Short: short, Long: long}
	linkHelp(cmd, page)
	return cmd
}

// linkHelp has the help of a command end with a link to a page of the docs, in place of Caddy's.
func linkHelp(cmd *cobra.Command, page string) {
	cmd.SetHelpTemplate(new(cobra.Command).HelpTemplate() +
		"\nFull documentation is available at:\nhttps://github.com/caddy-intercom/caddy-intercom-webhook/blob/main/" + page + "\n")
}

// newRunCommand returns a command with its help that does do.
func newRunCommand(name string, args cobra.PositionalArgs, do func(ctx context.Context, r *run, args []string) error) *cobra.Command {
	cmd := newCommand(name)
	cmd.Args, cmd.RunE = usageArgs(args), runE(do)
	return cmd
}

// The exit codes of all commands.
const (
	exitFine   = caddy.ExitCodeSuccess // 0
	exitFailed = 1                     // it failed, or found what it was asked to look for
	exitUsage  = 2                     // it was used wrongly
)

// usageError is the error of a command that was used wrongly.
type usageError struct{ error }

// usagef makes a usageError.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run is one run of a command.
type run struct {
	caddycmd.Flags
	in         io.Reader
	out, notes printable
}

func newRun(cmd *cobra.Command) *run {
	return &run{caddycmd.Flags{FlagSet: cmd.Flags()}, cmd.InOrStdin(), printable{cmd.OutOrStdout()}, printable{cmd.ErrOrStderr()}}
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

// withExitCode has an error of do printed once, by Caddy's logger, so that a terminal takes no
// part of it for a command. The exit code is 2 for a
// usageError, and 1 for other errors.
func withExitCode(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) {
			err := do(cmd, args)
			if err == nil {
				return exitFine, nil
			}
			code := exitFailed
			if errors.As(err, new(usageError)) {
				code = exitUsage
			}
			return code, errors.New(errorText(err))
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
