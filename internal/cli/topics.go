package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

func newTopicsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "topics [patterns...]",
		Short: "Prints the topics that Intercom is known to send",
		Long: `
Prints the known topics that fit one of the patterns, or all of them: the object that
their notifications carry, the first version of Intercom's API that has them, the last
one if newer versions do not have them, and what is unusual about them. The patterns are
those of the Caddyfile, as in conversation.* or *.created. Quote them, so that the shell
leaves the * to this command.

With --config, it prints where the notifications of each topic go: the lanes of the routes
that take them, in the order of the routes, and the lanes of copies. In brackets are the
workspaces to whose notifications a route is limited. A ? after a lane means that the route
takes only some of them, because it has other matchers, or the copy is a sample. A - at the
end of the lanes means that nobody takes the rest: without a queue it is answered with 200
and lost, with a queue it becomes dead letters. A ping that no route takes is answered by
intercom_webhook itself. With --json, routes and copies are lists of objects: lane,
workspaces (none: all), sometimes (the ?); and certain is true if the routes leave no rest.

Intercom adds topics without notice. Unknown ones work: they are routed by their patterns.

The exit code is 0, or 1 if no known topic fits, and 2 if the arguments are wrong.

Examples:

	$ caddy intercom-webhook topics

	$ caddy intercom-webhook topics 'conversation.*' --json

	$ caddy intercom-webhook topics --config /etc/caddy/Caddyfile
`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeTopic,
		RunE:              runE(runTopics),
	}
	flags := cmd.Flags()
	flags.StringP("config", "c", "", "Config file whose routes are printed")
	flags.StringP("adapter", "a", "", "Name of the config adapter to apply to --config")
	flags.Bool("json", false, "Print JSON, a topic a line")
	return cmd
}

// completeTopic completes a topic in the shell.
func completeTopic(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return intercom.Topics(), cobra.ShellCompDirectiveNoFileComp
}

func runTopics(cmd *cobra.Command, args []string) error {
	fl := caddycmd.Flags{FlagSet: cmd.Flags()}
	for _, pattern := range args {
		if err := topicpattern.Check(pattern); err != nil {
			return usageError{err}
		}
	}
	topics := slices.DeleteFunc(intercom.Catalogue(), func(topic intercom.Topic) bool {
		return len(args) > 0 && !slices.ContainsFunc(args, func(pattern string) bool { return topicpattern.Matches(pattern, topic.Name) })
	})
	for _, pattern := range args {
		if !topicpattern.FitsKnownTopic(pattern) {
			return fmt.Errorf("topic pattern %q fits no known topic: the nearest is %s", pattern, topicpattern.Nearest(pattern))
		}
	}
	if file := fl.String("config"); file != "" {
		c, err := readConfig(file, fl.String("adapter"))
		if err != nil {
			return usageError{err}
		}
		if len(c.endpoints) == 0 {
			return errNoEndpoint
		}
		return printDestinations(cmd.OutOrStdout(), topics, c.endpoints, fl.Bool("json"))
	}
	return printTopics(cmd.OutOrStdout(), topics, fl.Bool("json"))
}

// printTopics prints what is known about topics.
func printTopics(w io.Writer, topics []intercom.Topic, asJSON bool) error {
	if asJSON {
		for _, topic := range topics {
			if err := printJSON(w, topic); err != nil {
				return err
			}
		}
		return nil
	}
	table := newTable(w, "TOPIC", "OBJECT", "SINCE", "NOTES")
	for _, topic := range topics {
		versions := topic.Since
		switch topic.Until {
		case "":
		case topic.Since:
			versions += " only"
		default:
			versions += " to " + topic.Until
		}
		table.row(topic.Name, topic.Object, versions, topic.Note)
	}
	return table.Flush()
}

// destinationLine is where the notifications of a topic go, as JSON.
type destinationLine struct {
	Topic    string `json:"topic"`
	Endpoint string `json:"endpoint"`
	destination
}

// printDestinations prints where the notifications of topics go.
func printDestinations(w io.Writer, topics []intercom.Topic, endpoints []endpointConfig, asJSON bool) error {
	for i, e := range endpoints {
		if asJSON {
			for _, topic := range topics {
				if err := printJSON(w, destinationLine{topic.Name, e.place, e.destinationOf(topic.Name)}); err != nil {
					return err
				}
			}
			continue
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		if len(endpoints) > 1 {
			fmt.Fprintf(w, "# %s\n", e.place)
		}
		head := []string{"TOPIC", "LANE"}
		if len(e.Copies) > 0 {
			head = append(head, "COPIES")
		}
		table := newTable(w, head...)
		for _, topic := range topics {
			d := e.destinationOf(topic.Name)
			cells := []string{topic.Name, e.describe(topic.Name, d)}
			if len(e.Copies) > 0 {
				cells = append(cells, cmp.Or(strings.Join(lanesOf(d.Copies), ", "), "-"))
			}
			table.row(cells...)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// describe returns where the notifications of a topic go: the routes in their order, and what
// becomes of those that none of them takes.
func (e endpointConfig) describe(topic string, d destination) string {
	if len(e.Routes) == 0 {
		return "(the next handler)"
	}
	words := lanesOf(d.Routes)
	switch {
	case d.Certain:
	case topic == intercom.TopicPing:
		words = append(words, "(answered here)")
	default:
		words = append(words, "-")
	}
	return strings.Join(words, ", ")
}

func lanesOf(takers []taker) []string {
	var lanes []string
	for _, t := range takers {
		lanes = append(lanes, t.String())
	}
	return lanes
}
