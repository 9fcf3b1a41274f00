// Package cli has the subcommands of `caddy intercom-webhook`. They decide nothing that the
// module decides: they ask a running Caddy, or have Caddy load a config.
package cli

import "github.com/spf13/cobra"

// AddCommands adds all subcommands to the command.
func AddCommands(cmd *cobra.Command) {
	queue := newCommand("queue")
	groupCommands(queue,
		newQueueStatusCommand(), newQueueListCommand(), newQueueShowCommand(),
		newQueueRetryCommand(), newQueueResendCommand(), newQueueDropCommand(), newQueueEraseCommand(),
		newQueuePauseCommand(), newQueueResumeCommand(), newQueueMoveCommand())
	groupCommands(cmd,
		newSendCommand(), newIPRangesCommand(), queue, newListenCommand(), newTopicsCommand(), newVerifyCommand(), newDoctorCommand())
}
