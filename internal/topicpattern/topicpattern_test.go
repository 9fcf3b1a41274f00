package topicpattern

import (
	"slices"
	"strings"
	"testing"
)

func TestMatches(t *testing.T) {
	for _, tc := range []struct {
		pattern, topic string
		want           bool
	}{
		{"conversation.user.replied", "conversation.user.replied", true},
		{"conversation.user.replied", "conversation.user.created", false},
		{"conversation.user", "conversation.user.replied", false},
		{"conversation.user.replied", "conversation.user", false},
		{"conversation.*", "conversation.user.replied", true},
		{"conversation.*", "conversation.deleted", true},
		{"conversation.*", "conversation.admin.open.assigned", true},
		{"conversation.*", "conversation", false},
		{"conversation.*", "conversation_part.redacted", false},
		{"conversation.*.created", "conversation.user.created", true},
		{"conversation.*.created", "conversation.admin.single.created", false},
		{"conversation.*.created", "conversation.created", false},
		{"*.created", "user.created", true},
		{"*.created", "contact.user.created", false},
		{"*.*", "ping", false},
		{"*.*", "user.created", true},
		{"*.*", "contact.tag.created", true},
		{"*", "ping", true},
		{"*", "contact.user.tag.created", true},
		{"content_stat.series", "content_stat.series.webhook", false},
		{"content_stat.series.*", "content_stat.series", false},
		{"content_stat.series.*", "content_stat.series.webhook", true},
		{"ping", "ping", true},
		{"Ping", "ping", false},
		{"A-b.*", "A-b.C_d", true},
	} {
		if got := Matches(tc.pattern, tc.topic); got != tc.want {
			t.Errorf("pattern %s, topic %s: got %t", tc.pattern, tc.topic, got)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, pattern := range []string{"*", "ping", "conversation.*", "*.created", "a.*.b", "conversation_part.redacted", "v2.x", "Conversation.*", "conversation-x.*", "-", "A_B-c.D"} {
		if err := Check(pattern); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	for pattern, part := range map[string]string{
		"":              "empty segment",
		".":             "empty segment",
		"conversation.": "empty segment",
		"a..b":          "empty segment",
		"conversation*": "whole segment",
		"**":            "whole segment",
		"a.*b.c":        "whole segment",
		"größe":         "[A-Za-z0-9_-]",
		"a b":           "[A-Za-z0-9_-]",
		"a/b":           "[A-Za-z0-9_-]",
	} {
		if err := Check(pattern); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: error %v does not say %q", pattern, err, part)
		}
	}
}

// FuzzMatches holds Matches against the rule written out plainly: split
// both, and compare segment by segment.
func FuzzMatches(f *testing.F) {
	f.Add("conversation.*", "conversation.user.replied")
	f.Add("*.created", "user.created")
	f.Add("a.*.c", "a.b.c")
	f.Add("*", "ping")
	f.Fuzz(func(t *testing.T, pattern, topic string) {
		if Check(pattern) != nil || !IsTopic(topic) {
			return
		}
		if got, want := Matches(pattern, topic), plainlyMatches(pattern, topic); got != want {
			t.Errorf("pattern %q, topic %q: got %t, want %t", pattern, topic, got, want)
		}
	})
}

func plainlyMatches(pattern, topic string) bool {
	patterns, segments := strings.Split(pattern, "."), strings.Split(topic, ".")
	if patterns[len(patterns)-1] == "*" {
		if len(segments) < len(patterns) {
			return false
		}
		segments = segments[:len(patterns)]
	}
	if len(patterns) != len(segments) {
		return false
	}
	for i := range patterns {
		if patterns[i] != "*" && patterns[i] != segments[i] {
			return false
		}
	}
	return true
}

// allOf returns everything of 1 to most segments, each of which is one of these.
func allOf(segments []string, most int) []string {
	all := slices.Clone(segments)
	for last := all; most > 1; most-- {
		var longer []string
		for _, head := range last {
			for _, segment := range segments {
				longer = append(longer, head+"."+segment)
			}
		}
		all, last = append(all, longer...), longer
	}
	return all
}

// TestCoversAsManyTopicsAsThereAre compares Covers with what each topic says, one by
// one. No two patterns may cover together what none of them covers alone, or else a
// route behind both would have to be refused, too.
func TestCoversAsManyTopicsAsThereAre(t *testing.T) {
	patterns := allOf([]string{"a", "b", "*"}, 3)
	topics := allOf([]string{"a", "b", "c"}, 5)
	fitting := make(map[string][]bool)
	for _, pattern := range patterns {
		for _, topic := range topics {
			fitting[pattern] = append(fitting[pattern], Matches(pattern, topic))
		}
	}
	covered := func(pattern string, by ...string) bool {
		for i := range topics {
			if fitting[pattern][i] && !slices.ContainsFunc(by, func(cover string) bool { return fitting[cover][i] }) {
				return false
			}
		}
		return true
	}
	for _, pattern := range patterns {
		for i, one := range patterns {
			if got, want := Covers(one, pattern), covered(pattern, one); got != want {
				t.Errorf("Covers(%s, %s) is %t, want %t", one, pattern, got, want)
			}
			for _, two := range patterns[:i] {
				if covered(pattern, one, two) && !Covers(one, pattern) && !Covers(two, pattern) {
					t.Errorf("%s is covered by %s and %s together", pattern, one, two)
				}
			}
		}
	}
}
