package cli

import (
	"context"
	"fmt"
	"io"
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
	if n := found.count(levelBroken); n > 0 {
		return fmt.Errorf("doctor found %s", count(n, "broken thing"))
	}
	return nil
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

// level says how bad a finding is.
type level string

const (
	levelOK         level = "ok"
	levelWarning    level = "warning"
	levelBroken     level = "broken"      // notifications are lost, or anybody can send them
	levelNotChecked level = "not checked" // something stood in the way
)

// finding is what a check of doctor has found.
type finding struct {
	Level level  `json:"level"`
	Check string `json:"check"`
	What  string `json:"what"`
	Why   string `json:"why,omitempty"` // why it matters
	Do    string `json:"do,omitempty"`  // what to do
}

// findings are all that doctor has found.
type findings []finding

func (f *findings) ok(check, format string, args ...any) {
	*f = append(*f, finding{Level: levelOK, Check: check, What: fmt.Sprintf(format, args...)})
}

func (f *findings) warn(check, what, why, do string) {
	*f = append(*f, finding{levelWarning, check, what, why, do})
}

func (f *findings) broken(check, what, why, do string) {
	*f = append(*f, finding{levelBroken, check, what, why, do})
}

func (f *findings) notChecked(check, what, do string) {
	*f = append(*f, finding{Level: levelNotChecked, Check: check, What: what, Do: do})
}

// count returns how many findings are of a level.
func (f findings) count(l level) int {
	n := 0
	for _, finding := range f {
		if finding.Level == l {
			n++
		}
	}
	return n
}

// print prints the findings by level, one a line.
func (f findings) print(w io.Writer, asJSON bool) error {
	for _, l := range []level{levelOK, levelNotChecked, levelWarning, levelBroken} {
		if f.count(l) > 0 && !asJSON {
			fmt.Fprintln(w, l)
		}
		for _, finding := range f {
			switch {
			case finding.Level != l:
			case asJSON:
				if err := printJSON(w, finding); err != nil {
					return err
				}
			default:
				fmt.Fprintf(w, "  %s: %s\n", finding.Check, finding.text())
			}
		}
	}
	return nil
}

// text returns what was found, why it matters, and what to do.
func (f finding) text() string {
	parts := slices.DeleteFunc([]string{f.What, f.Why, f.Do}, func(part string) bool { return part == "" })
	return escape(strings.Join(parts, "; "))
}
