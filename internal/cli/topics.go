package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

func newTopicsCommand() *cobra.Command {
	cmd := newRunCommand("topics", cobra.ArbitraryArgs, runTopics)
	cmd.ValidArgsFunction = completeTopic
	flags := cmd.Flags()
	flags.String("route", "", "Topic whose route in a running Caddy is printed")
	flags.String("workspace", "", "Workspace of the notification of --route")
	flags.Bool("json", false, "Print JSON, a topic or an intercom_webhook a line")
	addAdminFlags(cmd)
	_ = cmd.RegisterFlagCompletionFunc("route", completeTopic) // the flag exists
	return cmd
}

// completeTopic completes a topic in the shell.
func completeTopic(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return slices.Concat(intercom.Topics(), intercom.FinTopics()), cobra.ShellCompDirectiveNoFileComp
}

func runTopics(ctx context.Context, r *run, args []string) error {
	switch {
	case r.Changed("route") && len(args) > 0:
		return usagef("--route takes one topic, and no patterns: give either")
	case r.Changed("route"):
		return printRoutes(ctx, r)
	case r.Changed("workspace"):
		return usagef("--workspace is for --route: give the topic with --route")
	}
	for _, pattern := range args {
		if err := topicpattern.Check(pattern); err != nil {
			return usageError{err}
		}
		if why := topicpattern.Unknown(pattern); why != "" {
			return errors.New(why)
		}
	}
	var t table
	if !r.Bool("json") {
		t = newTable(r.out, "TOPIC", "OBJECT", "SINCE", "NOTES")
	}
	known := intercom.Catalogue()
	if len(args) > 0 { // the whole list is of what can be subscribed to
		for _, name := range intercom.FinTopics() {
			known = append(known, intercom.Topic{Name: name, Object: "Fin Agent API event", Note: "needs fin_secret"})
		}
	}
	for _, topic := range known {
		if len(args) > 0 && !slices.ContainsFunc(args, func(pattern string) bool { return topicpattern.Matches(pattern, topic.Name) }) {
			continue
		}
		versions := topic.Since
		switch topic.Until {
		case "":
		case topic.Since:
			versions += " only"
		default:
			versions += " to " + topic.Until
		}
		if err := r.print(topic, func(io.Writer) { t.row(topic.Name, topic.Object, versions, topic.Note) }); err != nil {
			return err
		}
	}
	return t.flush()
}

// printRoutes prints where a notification would go in a running Caddy.
func printRoutes(ctx context.Context, r *run) error {
	query := url.Values{"topic": {r.String("route")}}
	if !topicpattern.IsTopic(query.Get("topic")) {
		return usagef("--route %q is no topic: it has the form conversation.user.created", query.Get("topic"))
	}
	if r.Changed("workspace") {
		query.Set("workspace", r.String("workspace"))
	}
	admin, err := newAdminClient(r.Flags)
	if err != nil {
		return err
	}
	n, out := 0, r.out
	err = ask(ctx, admin, http.MethodGet, adminapi.RoutePath, query, func(route adminapi.Route, line json.RawMessage) error {
		if n++; r.Bool("json") {
			r.printLine(line)
			return nil
		}
		place := []string{"intercom_webhook"}
		for _, part := range [][2]string{{" of server ", route.Server}, {", queue ", route.Endpoint}} {
			if part[1] != "" {
				place = append(place, part[0]+part[1])
			}
		}
		lane := cmp.Or(route.Lane, "none: no route fits")
		if route.Ignored {
			lane = "none: it is ignored"
		}
		fmt.Fprintf(out, "%s\n  lane: %s\n", escape(strings.Join(place, "")), escape(lane))
		if len(route.Copies) > 0 {
			fmt.Fprintf(out, "  copies: %s\n", escape(strings.Join(route.Copies, ", ")))
		}
		for _, p := range route.Passed {
			fmt.Fprintf(out, "  not %s: %s\n", escape(p.Lane), escape(p.Why))
		}
		return nil
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("the Caddy at %s has no intercom_webhook: name another one with --address", admin.address)
	}
	return err
}

// unknownTopic says that a topic is not known, and which are near.
func unknownTopic(topic string) string {
	return cmp.Or(topicpattern.Unknown(topic), fmt.Sprintf("%q is not a topic that is known", topic))
}
