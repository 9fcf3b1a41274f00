package intercomwebhook

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// MatchTopic matches verified notifications by their topic. It takes one or more
// patterns, and the topic must fit one of them. A pattern is a topic such as
// `conversation.user.replied`, in which segments may be `*`. A `*` stands for exactly one
// segment or, at the end, for one or more. `*` alone fits every topic. So
// `conversation.*` fits `conversation.user.replied`, but not `conversation_part.redacted`.
//
// It does not match requests that have not passed an `intercom_webhook` handler, and
// requests that are not notifications.
type MatchTopic []string

// CaddyModule returns the Caddy module information.
func (*MatchTopic) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.intercom_topic",
		New: func() caddy.Module { return new(MatchTopic) },
	}
}

// Provision warns of patterns that fit no known topic. They are not an error, because
// Intercom adds topics.
func (m *MatchTopic) Provision(ctx caddy.Context) error {
	for _, pattern := range *m {
		if why := topicpattern.Unknown(pattern); why != "" {
			withPlace(ctx.Logger(), hashOf(m)).Warn(why, zap.String("pattern", pattern))
		}
	}
	return nil
}

// Validate refuses malformed patterns.
func (m *MatchTopic) Validate() error {
	if len(*m) == 0 {
		return errors.New("no topic pattern given")
	}
	for _, pattern := range *m {
		if err := topicpattern.Check(pattern); err != nil {
			return err
		}
	}
	return nil
}

// MatchWithError reports whether the request is a notification whose topic fits.
func (m *MatchTopic) MatchWithError(r *http.Request) (bool, error) {
	t, ok := caddyhttp.GetVar(r.Context(), tagVar).(*tag)
	return ok && t.isNotification() && slices.ContainsFunc(*m, func(pattern string) bool {
		return topicpattern.Matches(pattern, t.Topic)
	}), nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	intercom_topic <patterns...>
func (m *MatchTopic) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	*m, err = parseList(d, *m, "topic pattern", topicpattern.Check)
	return err
}

// MatchWorkspace matches verified notifications by the workspace that they come from. It
// takes one or more app ids of workspaces, such as `tulip4`, and the `app_id` of the
// notification must be one of them. Capitals count. A notification without an app id comes
// from no workspace.
//
// It does not match requests that have not passed an `intercom_webhook` handler, and
// requests that are not notifications.
type MatchWorkspace []string

// CaddyModule returns the Caddy module information.
func (*MatchWorkspace) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.intercom_workspace",
		New: func() caddy.Module { return new(MatchWorkspace) },
	}
}

// Validate refuses malformed app ids.
func (m *MatchWorkspace) Validate() error {
	if len(*m) == 0 {
		return errors.New("no workspace given")
	}
	for _, id := range *m {
		if err := checkWorkspace(id); err != nil {
			return err
		}
	}
	return nil
}

// MatchWithError reports whether the request is a notification from one of the workspaces.
func (m *MatchWorkspace) MatchWithError(r *http.Request) (bool, error) {
	t, ok := caddyhttp.GetVar(r.Context(), tagVar).(*tag)
	return ok && t.isNotification() && slices.Contains(*m, t.AppID), nil
}

// checkWorkspace returns an error if the app id of a workspace is malformed.
func checkWorkspace(id string) error {
	switch {
	case id == "":
		return errors.New("workspace: the app id is empty")
	case strings.Contains(id, "*"):
		return fmt.Errorf("workspace %q: an app id cannot have a *; to take all workspaces, name none", id)
	case len(id) > envelope.MaxHeaderValue:
		return fmt.Errorf("workspace: an app id has at most %d characters", envelope.MaxHeaderValue)
	}
	for _, c := range []byte(id) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '_' && c != '-' {
			return fmt.Errorf("workspace %q: an app id has only the characters [A-Za-z0-9_-]", id)
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	intercom_workspace <app ids...>
func (m *MatchWorkspace) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	*m, err = parseList(d, *m, "workspace", checkWorkspace)
	return err
}

// parseList parses a matcher that is a list, each time that it is given, and returns the
// list with the new elements at its end.
func parseList(d *caddyfile.Dispenser, list []string, element string, check func(string) error) (_ []string, err error) {
	for d.Next() {
		name := d.Val()
		if d.CountRemainingArgs() == 0 {
			return nil, d.ArgErr()
		}
		for d.NextArg() {
			if list, err = appendNew(list, element, d.Val(), check); err != nil {
				return nil, d.WrapErr(err)
			}
		}
		if d.NextBlock(0) {
			return nil, d.Errf("%s takes no block", name)
		}
	}
	return list, nil
}

// appendNew appends a value to a list, unless it is malformed or there already.
func appendNew(list []string, element, value string, check func(string) error) ([]string, error) {
	if err := check(value); err != nil {
		return nil, err
	}
	if slices.Contains(list, value) {
		return nil, fmt.Errorf("%s %q is given twice", element, value)
	}
	return append(list, value), nil
}

// patternsOf returns the topic patterns of the matchers, in their order.
func patternsOf(sets caddyhttp.MatcherSets) []string {
	var patterns []string
	for _, set := range sets {
		topics, _, _ := limits(set)
		patterns = append(patterns, topics...)
	}
	return patterns
}

// limits returns the topic patterns and the workspaces of a matcher set, nil if it has none,
// and whether it has other matchers.
func limits(set caddyhttp.MatcherSet) (topics, workspaces []string, others bool) {
	for _, matcher := range set {
		switch matcher := matcher.(type) {
		case *MatchTopic:
			topics = *matcher
		case *MatchWorkspace:
			workspaces = *matcher
		default:
			others = true
		}
	}
	return topics, workspaces, others
}

// hasOtherMatchers is why a route may be passed although topic and workspace fit.
const hasOtherMatchers = "topic and workspace fit, but it has other matchers, which decide by more than these"

// explainMatchers says why a notification does not fit a matcher set, or may not. It returns
// an empty string if it fits.
func explainMatchers(set caddyhttp.MatcherSet, r *http.Request) string {
	topics, workspaces, others := limits(set)
	var conditions MatchField
	for _, matcher := range set {
		if m, ok := matcher.(*MatchField); ok {
			conditions = *m
		}
	}
	topicFits, _ := (*MatchTopic)(&topics).MatchWithError(r)
	workspaceFits, _ := (*MatchWorkspace)(&workspaces).MatchWithError(r)
	switch {
	case topics != nil && !topicFits:
		return "the topic fits none of its patterns: " + strings.Join(topics, " ")
	case workspaces != nil && !workspaceFits:
		return "the workspace is none of its: " + strings.Join(workspaces, " ")
	case conditions != nil:
		return "topic and workspace fit, but the body must fit, too: " + strings.Join(conditions, " ")
	case others:
		return hasOtherMatchers
	default:
		return ""
	}
}

// coverage is a part of all notifications: those of some topics, from one workspace or from
// all.
type coverage struct {
	topics    string // a pattern
	workspace string // empty: all of them
}

// String returns the coverage as a Caddyfile has it.
func (c coverage) String() string {
	if c.workspace == "" {
		return c.topics
	}
	return c.topics + " for " + c.workspace
}

// covers reports whether every notification of the other one goes to an earlier route that
// has the coverage c.
//
// Of all notifications of a coverage, the hardest to match is that of the topic that
// topicpattern.Covers looks at, from a workspace that no route names if it is of all
// workspaces. If c has this one, c has all of them. So it is enough to check earlier routes
// one by one: several of them together never cover what none of them covers alone.
func (c coverage) covers(other coverage) bool {
	return (c.workspace == "" || c.workspace == other.workspace) && topicpattern.Covers(c.topics, other.topics)
}

// coverages returns those of all pairs of a topic pattern and a workspace. Without
// workspaces, they are of all workspaces.
func coverages(topics, workspaces []string) []coverage {
	if len(workspaces) == 0 {
		workspaces = []string{""}
	}
	var all []coverage
	for _, pattern := range topics {
		for _, workspace := range workspaces {
			all = append(all, coverage{pattern, workspace})
		}
	}
	return all
}

// coverageOf returns what can fit the matchers of a route, some of which its other matchers
// may exclude, and what always fits them.
func coverageOf(sets caddyhttp.MatcherSets) (possible, certain []coverage) {
	if len(sets) == 0 {
		sets = caddyhttp.MatcherSets{nil}
	}
	for _, set := range sets {
		topics, workspaces, others := limits(set)
		if topics == nil {
			topics = []string{"*"}
		}
		fitting := coverages(topics, workspaces)
		possible = append(possible, fitting...)
		if !others {
			certain = append(certain, fitting...)
		}
	}
	return possible, certain
}

// checkReachable returns an error if earlier routes cover all that a route can have.
func checkReachable(wanted, earlier []coverage) error {
	var covered []string
	for _, one := range wanted {
		i := slices.IndexFunc(earlier, func(before coverage) bool { return before.covers(one) })
		if i < 0 {
			return nil
		}
		covered = append(covered, fmt.Sprintf("%s covers %s", earlier[i], one))
	}
	return fmt.Errorf("can never be reached: earlier routes take all its topics (%s); put it before them", strings.Join(covered, ", "))
}

// Interface guards
var (
	_ caddy.Provisioner                 = (*MatchTopic)(nil)
	_ caddy.Validator                   = (*MatchTopic)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchTopic)(nil)
	_ caddyfile.Unmarshaler             = (*MatchTopic)(nil)

	_ caddy.Validator                   = (*MatchWorkspace)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchWorkspace)(nil)
	_ caddyfile.Unmarshaler             = (*MatchWorkspace)(nil)
)
