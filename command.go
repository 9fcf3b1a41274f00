package intercomwebhook

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/cli"
)

// init registers all that this package adds to Caddy.
func init() {
	for _, module := range []caddy.Module{
		new(Handler), new(Ready), new(MatchTopic), new(MatchWorkspace), new(MatchField), new(adminAPI), new(handlersApp), new(fieldsApp),
	} {
		caddy.RegisterModule(module)
	}

	httpcaddyfile.RegisterHandlerDirective("intercom_webhook", parseCaddyfile)
	httpcaddyfile.RegisterHandlerDirective("intercom_ready", parseReady)
	// Before redir and all that answers, so that nothing answers in their place. intercom_ready
	// comes first, because a site may have intercom_webhook without a path.
	httpcaddyfile.RegisterDirectiveOrder("intercom_ready", httpcaddyfile.Before, "redir")
	httpcaddyfile.RegisterDirectiveOrder("intercom_webhook", httpcaddyfile.Before, "redir")

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
