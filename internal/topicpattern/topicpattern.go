// Package topicpattern has the form of topics, and the patterns that select them, such as
// `conversation.*`.
package topicpattern

import (
	"fmt"
	"strings"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// IsTopic reports whether s has the form of a topic, known or not: segments of
// [A-Za-z0-9_-], joined by dots.
func IsTopic(s string) bool {
	for segment := range strings.SplitSeq(s, ".") {
		if !validSegment(segment) {
			return false
		}
	}
	return true
}

func validSegment(s string) bool {
	for _, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return s != ""
}

// Check returns an error if a topic pattern is malformed.
func Check(pattern string) error {
	for segment := range strings.SplitSeq(pattern, ".") {
		switch {
		case segment == "":
			return fmt.Errorf("topic pattern %q: empty segment", pattern)
		case segment == "*", validSegment(segment):
		case strings.Contains(segment, "*"):
			return fmt.Errorf("topic pattern %q: a * must be a whole segment, as in conversation.*", pattern)
		default:
			return fmt.Errorf("topic pattern %q: segment %q has characters other than [A-Za-z0-9_-]", pattern, segment)
		}
	}
	return nil
}

// Matches reports whether a topic fits a valid pattern. A * in the middle of the
// pattern stands for exactly one segment, and a * at the end for one or more.
func Matches(pattern, topic string) bool {
	for {
		want, restPattern, morePattern := strings.Cut(pattern, ".")
		segment, restTopic, moreTopic := strings.Cut(topic, ".")
		switch {
		case want == "*" && !morePattern:
			return true
		case want != "*" && want != segment, morePattern != moreTopic:
			return false
		case !morePattern:
			return true
		}
		pattern, topic = restPattern, restTopic
	}
}

// Covers reports whether every topic that fits the pattern goes to an earlier route with
// the pattern cover.
//
// It matches the pattern as if it were a topic. Of all topics that fit the pattern, this
// one is the hardest to match: no other pattern can name its * segments, and a * at the
// end is only one segment. If cover matches it, cover matches all topics of the pattern.
// So it is enough to check earlier patterns one by one: several of them together never
// cover a pattern that none of them covers alone.
func Covers(cover, pattern string) bool {
	if pattern == intercom.TopicPing {
		return cover == intercom.TopicPing
	}
	return Matches(cover, pattern)
}
