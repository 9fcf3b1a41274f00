// Package cli has the subcommands of `caddy intercom-webhook`.
package cli

import "github.com/spf13/cobra"

// AddCommands adds all subcommands to the command.
func AddCommands(cmd *cobra.Command) {
	groupCommands(cmd, newSendCommand(), newIPRangesCommand(), newQueueCommand(), newListenCommand(), newTopicsCommand(), newVerifyCommand(), newDoctorCommand())
}
