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
	cmd := newCommand("send-app-request")
	cmd.Args, cmd.ValidArgs, cmd.RunE = usageArgs(cobra.ExactArgs(2)), intercom.AppRequestKinds(), runE(runSendAppRequest)
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
