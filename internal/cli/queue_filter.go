package cli

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// filterHelp is the part of the help of commands that is about their filters.
const filterHelp = `
Jobs are selected by filters, all of which must fit. A time of --since and --until is a
local one as the tables have it (2026-11-25 14:30:00, 2026-11-25 14:30, 2026-11-25 or
14:30), one with a zone (2026-11-25T14:30:00Z), or how long it is ago (90m, 2h, 3d). It is
the time at which the notification was stored. --error fits if the last error of the job
has the text in it. A topic may be a pattern, as in the Caddyfile.
`

// addFilterFlags adds the flags that select jobs. Their names are those of the admin
// endpoint's parameters, except for --dead.
func addFilterFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.String("topic", "", "Only this topic, or those of a pattern such as 'conversation.*'")
	flags.String("workspace", "", "Only this workspace (the app_id of the notification)")
	flags.String("lane", "", "Only this lane")
	flags.StringSlice("state", nil, "Only these states ("+strings.Join(jobStates, ", ")+"; repeatable)")
	flags.Bool("dead", false, "Only dead letters: the states "+option.Enumerate(deadStates))
	flags.String("notification", "", "Only the notification with this id")
	flags.StringSlice("id", nil, "Only the jobs with these numbers (repeatable)")
	flags.String("since", "", "Only what was stored at this time or later")
	flags.String("until", "", "Only what was stored before this time")
	flags.String("error", "", "Only what has this text in its last error")
	for flag, complete := range map[string]cobra.CompletionFunc{
		"topic": cobra.FixedCompletions(intercom.Topics(), cobra.ShellCompDirectiveNoFileComp),
		"state": cobra.FixedCompletions(jobStates, cobra.ShellCompDirectiveNoFileComp),
		"lane":  completeLanes,
	} {
		_ = cmd.RegisterFlagCompletionFunc(flag, complete) // fails only for a flag that is not there
	}
}

// filter returns the parameters of the filters that are given.
func (q *queueRun) filter(ctx context.Context) (url.Values, error) {
	parameters := make(url.Values)
	for _, name := range []string{"topic", "workspace", "lane", "notification", "since", "until", "error"} {
		if !q.flags.Changed(name) {
			continue
		}
		value := q.flags.String(name)
		if value == "" {
			return nil, emptyFlag(name)
		}
		parameters.Set(name, value)
	}
	for _, name := range []string{"state", "id"} {
		values, err := q.flags.GetStringSlice(name)
		if err != nil {
			return nil, err
		}
		if !q.flags.Changed(name) {
			continue
		}
		if len(values) == 0 { // an empty text is an empty list
			return nil, emptyFlag(name)
		}
		parameters[name] = values
	}
	if q.flags.Bool("dead") {
		if parameters.Has("state") {
			return nil, usagef("--dead is short for --state %s: give one of them", strings.Join(deadStates, ","))
		}
		parameters["state"] = slices.Clone(deadStates)
	}
	for _, state := range parameters["state"] {
		if !slices.Contains(jobStates, state) {
			return nil, usagef("state %q: there is no such state; the states are %s", state, option.Choices(state, jobStates))
		}
	}
	for _, name := range []string{"since", "until"} {
		if parameters.Has(name) {
			at, err := parseTime(name, parameters.Get(name), time.Now())
			if err != nil {
				return nil, err
			}
			parameters.Set(name, at)
		}
	}
	if pattern := parameters.Get("topic"); pattern != "" {
		if err := topicpattern.Check(pattern); err != nil {
			return nil, usageError{err}
		}
	}
	return parameters, q.checkLane(ctx, parameters.Get("lane"))
}

// emptyFlag returns the error for a flag with an empty text, such as a variable that is not
// set. Ignored, it would select more than is meant.
func emptyFlag(name string) error {
	return usagef("--%s is empty: leave it out, or give it a value", name)
}

// scope adds to parameters the queue that they are about, if one is named.
func (q *queueRun) scope(parameters url.Values) url.Values {
	if name := q.flags.String("queue"); name != "" {
		parameters.Set("queue", name)
	}
	return parameters
}

// parseTime returns a time as the admin endpoint reads it. How long it is ago stays as it
// is: the clock that counts is the database's.
func parseTime(name, text string, now time.Time) (string, error) {
	if ago, err := caddy.ParseDuration(text); err == nil && ago >= 0 {
		return text, nil
	}
	if _, err := time.Parse(time.RFC3339, text); err == nil {
		return text, nil
	}
	for _, layout := range []string{time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at.Format(time.RFC3339), nil
		}
	}
	for _, layout := range []string{time.TimeOnly, "15:04"} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil { // today
			y, m, d := now.Date()
			return time.Date(y, m, d, at.Hour(), at.Minute(), at.Second(), 0, now.Location()).Format(time.RFC3339), nil
		}
	}
	return "", usagef(`--%s %q must be a time as in "2026-11-25 14:30" or 2026-11-25T14:30:00Z, or how long it is ago, as in 2h or 3d`, name, text)
}

// whyNothing says why the filters may have selected nothing; empty if nothing is odd.
func whyNothing(parameters url.Values) string {
	pattern := parameters.Get("topic")
	switch {
	case pattern == "" || topicpattern.FitsKnownTopic(pattern):
		return ""
	case strings.Contains(pattern, "*"):
		return "the pattern " + pattern + " fits no known topic; the nearest is " + topicpattern.Nearest(pattern)
	default:
		return "the topic " + pattern + " is not known; the nearest are " + option.Enumerate(intercom.NearestTopics(pattern, 3))
	}
}
