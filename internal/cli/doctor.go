package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

func newDoctorCommand() *cobra.Command {
	cmd := newCommand("doctor")
	cmd.Args, cmd.RunE = usageArgs(cobra.MaximumNArgs(1)), runE(runDoctor)
	flags := cmd.Flags()
	addSecretFlags(flags)
	flags.String("topic", "", "Also send a sample notification of this topic, which reaches the real backend")
	flags.Bool("insecure", false, "Go on if the server's certificate is not valid (WARNING: for local tests only)")
	flags.Duration("timeout", 10*time.Second, "How long to wait for an answer")
	flags.Bool("json", false, "Print JSON, a finding a line")
	addAdminFlags(cmd)
	flags.Lookup("config").Usage = "Config file to read; also where the address of the admin endpoint is, without --address"
	_ = cmd.RegisterFlagCompletionFunc("topic", completeTopic) // the flag exists
	return cmd
}

func runDoctor(ctx context.Context, r *run, args []string) error {
	file := r.String("config")
	if len(args) == 0 && file == "" {
		return usagef("nothing to look at: give the URL of an endpoint, or a config with --config")
	}
	var found findings
	adapts := true
	if file != "" {
		var err error
		if adapts, err = checkConfig(ctx, &found, file, r.String("adapter")); err != nil {
			return err
		}
	}
	switch {
	case len(args) == 0:
	case !adapts:
		found.notChecked("url", "it was not examined, because the config does not load", "correct the config, or give the URL alone")
	default:
		d, err := newURLDoctor(r, args[0])
		if err != nil {
			return err
		}
		d.examine(ctx)
		found = slices.Concat(found, d.findings)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := found.print(r.out, r.Bool("json")); err != nil {
		return err
	}
	return found.err()
}

// newURLDoctor returns a urlDoctor for the flags.
func newURLDoctor(r *run, target string) (*urlDoctor, error) {
	topic := r.String("topic")
	if topic != "" && !intercom.IsKnown(topic) {
		return nil, usagef("topic %q is not known: the nearest topics are %s", topic, strings.Join(intercom.NearestTopics(topic, 3), ", "))
	}
	s, err := newSigningSender(r, target)
	if err != nil {
		return nil, err
	}
	s.scheme, s.name = signature.Hub, intercom.TopicPing
	if _, s.body, err = s.content(); err != nil { // always the same, so that it is found again in the stream
		return nil, err
	}
	admin, err := newAdminClient(r.Flags)
	return &urlDoctor{sender: *s, topic: topic, insecure: r.Bool("insecure"), admin: admin}, err
}
