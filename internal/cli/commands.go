package cli

import (
	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

// AddCommands adds all subcommands to the command.
func AddCommands(cmd *cobra.Command) {
	linkHelp(cmd, "docs/commands.md")
	queue := newCommand("queue")
	groupCommands(queue,
		newQueueStatusCommand(), newQueueListCommand(), newQueueShowCommand(),
		retry.newCommand(), resend.newCommand(), drop.newCommand(), erase.newCommand(),
		newLaneCommand("pause", "paused"), newLaneCommand("resume", "resumed"), newQueueMoveCommand())
	groupCommands(cmd,
		newSendCommand(), newIPRangesCommand(), queue, newListenCommand(), newTopicsCommand(), newVerifyCommand(), newDoctorCommand())
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
