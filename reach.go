package intercomwebhook

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// share is a part of all notifications: those of some topics, from one workspace or from
// all.
type share struct {
	topics    string // a pattern
	workspace string // empty: all of them
}

// String returns the share as a Caddyfile has it.
func (s share) String() string {
	if s.workspace == "" {
		return s.topics
	}
	return s.topics + " for " + s.workspace
}

// shares returns the shares of all pairs of a topic pattern and a workspace. Without
// workspaces, these are the shares of all workspaces.
func shares(topics, workspaces []string) []share {
	if len(workspaces) == 0 {
		workspaces = []string{""}
	}
	var all []share
	for _, pattern := range topics {
		for _, workspace := range workspaces {
			all = append(all, share{pattern, workspace})
		}
	}
	return all
}

// covers reports whether every notification of the other share goes to an earlier route
// with the share s.
//
// Of all notifications of a share, the hardest to match is that of the topic that
// topicpattern.Covers looks at, from a workspace that no route names if the share is of
// all workspaces. If s has this one, s has all of the share. So it is enough to check
// earlier shares one by one: several of them together never cover a share that none of them
// covers alone.
func (s share) covers(other share) bool {
	return (s.workspace == "" || s.workspace == other.workspace) && topicpattern.Covers(s.topics, other.topics)
}

// checkReachable returns an error if earlier routes take all shares of a route.
func checkReachable(wanted, taken []share) error {
	var covered []string
	for _, one := range wanted {
		i := slices.IndexFunc(taken, func(earlier share) bool { return earlier.covers(one) })
		if i < 0 {
			return nil
		}
		covered = append(covered, fmt.Sprintf("%s covers %s", taken[i], one))
	}
	return fmt.Errorf("can never be reached: earlier routes take all its topics (%s); put it before them", strings.Join(covered, ", "))
}

// patterns returns the topic patterns of the route's matchers, in their order.
func (r Route) patterns() []string {
	var patterns []string
	for _, set := range r.MatcherSets {
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

// reach returns the shares of all notifications that can fit the route, some of which its
// other matchers may exclude, and those that always fit it.
func (r Route) reach() (possible, certain []share) {
	sets := r.MatcherSets
	if len(sets) == 0 {
		sets = caddyhttp.MatcherSets{nil}
	}
	for _, set := range sets {
		topics, workspaces, others := limits(set)
		if topics == nil {
			topics = []string{"*"}
		}
		fitting := shares(topics, workspaces)
		possible = append(possible, fitting...)
		if !others {
			certain = append(certain, fitting...)
		}
	}
	return possible, certain
}

// topics returns the topics of notifications that can come to a lane.
func (h *Handler) topics(lane string) []string {
	for i := range h.copies {
		if h.copies[i].lane == lane {
			possible, _ := h.Copies[i].reach()
			return labels(func(label string) bool { return fitSome(possible, label) })
		}
	}
	var taken []share // always go to one of the routes so far
	for i := range h.routes {
		possible, certain := h.Routes[i].reach()
		if h.routes[i].lane == lane {
			return labels(func(label string) bool { return fitSome(possible, label) && !fitAll(taken, label) })
		}
		taken = append(taken, certain...)
	}
	return labels(func(label string) bool { return lane == "" && label != intercom.TopicPing && !fitAll(taken, label) })
}

// labels returns the labels of topics that are wanted.
func labels(wanted func(label string) bool) []string {
	return slices.DeleteFunc(append(intercom.Topics(), intercom.OtherTopics), func(label string) bool { return !wanted(label) })
}

// fitSome reports whether a notification whose topic has this label, known or other, can be
// in one of the shares.
func fitSome(shares []share, label string) bool {
	return slices.ContainsFunc(shares, func(s share) bool {
		if label == intercom.OtherTopics {
			return strings.Contains(s.topics, "*") || !intercom.IsKnown(s.topics)
		}
		return topicpattern.Covers(s.topics, label)
	})
}

// fitAll reports whether all notifications whose topics have this label are in the shares.
func fitAll(shares []share, label string) bool {
	if label == intercom.OtherTopics {
		label = "*"
	}
	return slices.ContainsFunc(shares, func(s share) bool { return s.covers(share{topics: label}) })
}
