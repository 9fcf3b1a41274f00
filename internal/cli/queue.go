package cli

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// The states of deliveries, and the reasons of dead ones.
var (
	deliveryStates = []string{"waiting", "delivering", "retrying", "delivered", "dead"}
	deadReasons    = []string{"attempts", "age", "refused", "unrouted", "cancelled"}
)

// queueRun is one run of a command on the queue of a running Caddy.
type queueRun struct {
	*run
	admin    *adminClient
	selected url.Values // the flags that select deliveries, or only the endpoint
}

// onQueue completes a command that speaks to the queue of a running Caddy.
func onQueue(cmd *cobra.Command, args cobra.PositionalArgs, do func(ctx context.Context, q *queueRun, args []string) error) *cobra.Command {
	addAdminFlags(cmd)
	cmd.Flags().String("endpoint", "", "Name of the endpoint, where several share the database")
	_ = cmd.RegisterFlagCompletionFunc("endpoint", completeEndpoints) // the flag exists
	cmd.Flags().Bool("json", false, "Print the objects of the answer, one a line")
	cmd.Args = usageArgs(args)
	cmd.RunE = runE(func(ctx context.Context, r *run, args []string) error {
		if slices.Contains(args, "") {
			return usagef("an argument is empty: is the variable set that it comes from?")
		}
		selected, err := r.parameters("topic", "workspace", "lane", "state", "reason", "status", "notification", "object",
			"since", "until", "finished-since", "finished-until", "error", "endpoint")
		if err != nil {
			return err
		}
		admin, err := newAdminClient(r.Flags)
		if err != nil {
			return err
		}
		err = do(ctx, &queueRun{r, admin, selected}, args)
		var answer *adminError
		switch {
		case errors.As(err, &answer) && answer.status == http.StatusBadRequest:
			return usageError{err}
		case ctx.Err() != nil && errors.Is(err, context.Canceled):
			return errors.New("interrupted")
		}
		return err
	})
	return cmd
}

// parameters returns the flags that are given, as parameters of the admin endpoint with the same
// names, where - is _. An empty text, such as a variable that is not set, is an error: ignored, it would select
// more than is meant.
func (r *run) parameters(names ...string) (url.Values, error) {
	parameters := make(url.Values)
	for _, name := range names {
		flag := r.Lookup(name)
		if flag == nil || !flag.Changed {
			continue
		}
		values := []string{flag.Value.String()}
		if flag.Value.Type() == "stringSlice" {
			values, _ = r.GetStringSlice(name) // it is one
		}
		if len(values) == 0 || slices.Contains(values, "") {
			return nil, usagef("--%s is empty: leave it out, or give it a value", name)
		}
		parameters[strings.ReplaceAll(name, "-", "_")] = values
	}
	return parameters, nil
}

// addFilterFlags adds the flags that select deliveries.
func addFilterFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.String("topic", "", "Only this topic, or those of a pattern such as 'conversation.*'")
	flags.String("workspace", "", "Only this workspace (the app_id of the notification)")
	flags.String("lane", "", "Only this lane")
	flags.StringSlice("state", nil, "Only these states ("+strings.Join(deliveryStates, ", ")+"; repeatable)")
	flags.StringSlice("reason", nil, "Only dead ones with these reasons ("+strings.Join(deadReasons, ", ")+"; repeatable)")
	flags.StringSlice("status", nil, "Only what was answered so in the last attempt, as in 503 or 5xx (repeatable)")
	flags.StringSlice("notification", nil, "Only the notifications with these ids or numbers (repeatable)")
	flags.String("object", "", "Only what is about this object, such as conversation:123, or an id alone")
	flags.String("since", "", "Only what was stored at this time or later")
	flags.String("until", "", "Only what was stored before this time")
	flags.String("finished-since", "", "Only what was delivered or became dead at this time or later")
	flags.String("finished-until", "", "Only what was delivered or became dead before this time")
	flags.String("error", "", "Only what has this text in its last error, or in what the backend said then")
	for flag, complete := range map[string]cobra.CompletionFunc{
		"topic":  completeTopic,
		"state":  cobra.FixedCompletions(deliveryStates, cobra.ShellCompDirectiveNoFileComp),
		"reason": cobra.FixedCompletions(deadReasons, cobra.ShellCompDirectiveNoFileComp),
		"lane":   completeLanes,
	} {
		_ = cmd.RegisterFlagCompletionFunc(flag, complete) // the flag exists
	}
}

// deliveries calls do for each delivery that the parameters select, the newest first, up to a
// limit; 0 is none. It reports whether there may be more.
func (q *queueRun) deliveries(ctx context.Context, parameters url.Values, limit int, do func(d adminapi.Delivery, line json.RawMessage) error) (more bool, err error) {
	const maxPage = 1000 // the most that the admin endpoint lists in one answer
	type entry struct {
		adminapi.Delivery
		Cursor string `json:"cursor"`
	}
	query := maps.Clone(parameters)
	for n := 0; ; {
		page := maxPage
		if limit > 0 {
			page = min(page, limit-n)
		}
		query.Set("limit", strconv.Itoa(page))
		next := ""
		err := ask(ctx, q.admin, http.MethodGet, adminapi.DeliveriesPath, query, func(e entry, line json.RawMessage) error {
			if e.Cursor != "" {
				next = e.Cursor
				return nil
			}
			n++
			return do(e.Delivery, line)
		})
		switch {
		case err != nil || next == "":
			return false, err
		case limit > 0 && n >= limit:
			return true, nil
		case next == query.Get("cursor"):
			return false, errors.New("the list of Caddy does not go on: it gave the same cursor twice")
		}
		query.Set("cursor", next)
	}
}

// nothingFits says that the filters select nothing, and perhaps why.
func nothingFits(parameters url.Values) string {
	if pattern := parameters.Get("topic"); pattern != "" {
		if why := topicpattern.Unknown(pattern); why != "" {
			return why
		}
	}
	return "no delivery fits"
}

// completeLanes and completeEndpoints complete names for the shell.
var (
	completeLanes     = completeNames(func(l adminapi.Lane) string { return l.Lane })
	completeEndpoints = completeNames(func(l adminapi.Lane) string { return l.Endpoint })
)

// completeNames asks the running Caddy for names, and offers nothing if it does not answer soon.
// It offers those that are well-formed: a shell runs $(…) in what it completes.
func completeNames(name func(adminapi.Lane) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var names []string
		if admin, err := newAdminClient(caddycmd.Flags{FlagSet: cmd.Flags()}); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			_ = ask(ctx, admin, http.MethodGet, adminapi.LanesPath, nil, func(l adminapi.Lane, _ json.RawMessage) error {
				if lanename.Check(name(l)) == nil {
					names = append(names, name(l))
				}
				return nil
			})
		}
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}
