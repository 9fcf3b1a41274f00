package intercomwebhook

import (
	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/cli"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "intercom-webhook",
		Usage: "<command>",
		Short: "Tools for Intercom webhooks",
		Long: `
Tools for an endpoint that Intercom sends webhook notifications to, served with
the intercom_webhook directive.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(cli.Commands()...)
			cmd.Args = cobra.NoArgs // so that a mistyped command is an error
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		},
	})
}
