package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

func newSendAppRequestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "app-request <kind> <url>",
		Short: "Sends a signed app request, and prints the answer",
		Long: `
Sends an app request to the given URL, signed as Intercom signs it, in the header
X-Body-Signature, and prints the answer, JSON in a readable form. The body is a sample.
The kinds are:

	health-check   the installation health check, about daily of each workspace
	initialize     Canvas Kit: the app is shown to a teammate
	submit         Canvas Kit: a button or another component is used
	uninstall      a workspace has uninstalled the app
` + secretHelp + `
The first secret is used.

With --body, the file ("-" is standard input) is signed and sent without changes.

Redirects are not followed. The exit code is 0 if the answer is a 2xx, 1 if it is not,
and 2 if the arguments are wrong. An answer to a health check, initialize or submit that
is not JSON is a 1, too: Intercom cannot use it.

Examples:

	$ caddy intercom-webhook send app-request health-check http://localhost:8080/intercom

	$ caddy intercom-webhook send app-request submit http://localhost:8080/intercom --json
`,
		Args:      usageArgs(cobra.ExactArgs(2)),
		ValidArgs: intercom.AppRequestKinds(), // for shell completion only
		RunE:      runE(runSendAppRequest),
	}
	flags := cmd.Flags()
	addSecretFlags(flags)
	flags.String("body", "", "File to send as it is, - for standard input")
	addRequestFlags(flags)
	return cmd
}

func runSendAppRequest(ctx context.Context, r *run, args []string) error {
	kind := args[0]
	sample, err := intercom.NewAppRequest(kind)
	if err != nil {
		return usagef("app request %q is not known: the kinds are %s", kind, option.Choices(kind, intercom.AppRequestKinds()))
	}
	s, err := newSender(r, args[1])
	if err != nil {
		return err
	}
	s.scheme, s.name = signature.Body, kind
	if s.body == nil {
		s.body = sample
	}
	answer, err := s.sendAndPrint(ctx, r)
	switch {
	case err != nil:
		return err
	case !answer.ok():
		return answer.notAccepted()
	case kind != "uninstall" && !json.Valid(answer.body):
		return fmt.Errorf("the answer to %s is not JSON: Intercom cannot use it", kind)
	}
	return nil
}
