// Package cli has the subcommands of `caddy intercom-webhook`.
package cli

import "github.com/spf13/cobra"

// Commands returns all subcommands.
func Commands() []*cobra.Command {
	return []*cobra.Command{newSendCommand(), newIPRangesCommand()}
}
