package intercomwebhook

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

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
