package intercomwebhook

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

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
