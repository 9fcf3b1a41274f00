package intercomwebhook

import (
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
		CobraFunc: cli.AddCommands,
	})
}
