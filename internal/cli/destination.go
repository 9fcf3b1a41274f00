package cli

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// destination is where the notifications of a topic go.
type destination struct {
	Routes  []taker `json:"routes"`  // in their order
	Certain bool    `json:"certain"` // whether the last of them takes all that the others leave
	Copies  []taker `json:"copies,omitempty"`
}

// taker is a route that takes notifications of a topic, or a copy.
type taker struct {
	Lane       string   `json:"lane"`
	Workspaces []string `json:"workspaces,omitempty"` // only theirs; none: those of all
	Sometimes  bool     `json:"sometimes,omitempty"`  // only those that other matchers, or the sample of a copy, let through
}

// String returns the taker in words, such as "eu? (for tulip4 rose5)".
func (t taker) String() string {
	text := t.Lane
	if t.Sometimes {
		text += "?"
	}
	if len(t.Workspaces) > 0 {
		text += " (for " + strings.Join(t.Workspaces, " ") + ")"
	}
	return text
}

// taker returns how the route takes the notifications of a topic, and whether it takes any.
func (r topicRoute) taker(topic string) (t taker, takes bool) {
	if topic == intercom.TopicPing && !slices.Contains(r.patterns(), topic) {
		return taker{}, false // a ping goes only to routes that name it
	}
	sampled := r.Sample > 0 && r.Sample < 100
	sets := r.Match
	if len(sets) == 0 {
		sets = []map[string]json.RawMessage{nil}
	}
	t = taker{Lane: r.Lane, Sometimes: sampled}
	limited := true
	for _, set := range sets {
		topics, workspaces, others := limits(set)
		switch {
		case !slices.ContainsFunc(topics, func(pattern string) bool { return topicpattern.Matches(pattern, topic) }):
			continue
		case len(workspaces) == 0 && !others:
			return taker{Lane: r.Lane, Sometimes: sampled}, true
		}
		takes = true
		limited = limited && len(workspaces) > 0
		t.Workspaces = append(t.Workspaces, workspaces...)
		t.Sometimes = t.Sometimes || others
	}
	if !limited {
		t.Workspaces = nil
	}
	return t, takes
}

// limits returns the topic patterns of a matcher set, its workspaces, none for all, and whether
// it has other matchers.
func limits(set map[string]json.RawMessage) (topics, workspaces []string, others bool) {
	topics = []string{"*"}
	for matcher := range set {
		switch matcher {
		case "intercom_topic":
			topics = patternsIn(set)
		case "intercom_workspace":
			workspaces = listIn(set, matcher)
		default:
			others = true
		}
	}
	return topics, workspaces, others
}

// destinationOf returns where the notifications of a topic go.
func (e endpointConfig) destinationOf(topic string) destination {
	d := destination{Routes: []taker{}}
	var taken []string // workspaces of which earlier routes take all
	for _, r := range e.Routes {
		t, takes := r.taker(topic)
		if !takes {
			continue
		}
		all := len(t.Workspaces) == 0
		t.Workspaces = slices.DeleteFunc(t.Workspaces, func(id string) bool { return slices.Contains(taken, id) })
		if !all && len(t.Workspaces) == 0 {
			continue
		}
		d.Routes = append(d.Routes, t)
		if t.Sometimes {
			continue
		}
		if all {
			d.Certain = true
			break
		}
		taken = append(taken, t.Workspaces...)
	}
	for _, c := range e.Copies {
		if t, takes := c.taker(topic); takes {
			d.Copies = append(d.Copies, t)
		}
	}
	return d
}
