package intercomwebhook

import (
	"strings"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

func TestMatchPattern(t *testing.T) {
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
		if got := matchPattern(tc.pattern, tc.topic); got != tc.want {
			t.Errorf("pattern %s, topic %s: got %t", tc.pattern, tc.topic, got)
		}
	}
}

func TestCheckPattern(t *testing.T) {
	for _, pattern := range []string{"*", "ping", "conversation.*", "*.created", "a.*.b", "conversation_part.redacted", "v2.x", "Conversation.*", "conversation-x.*", "-", "A_B-c.D"} {
		if err := checkPattern(pattern); err != nil {
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
		if err := checkPattern(pattern); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: error %v does not say %q", pattern, err, part)
		}
	}
}

// FuzzMatchPattern holds matchPattern against the rule written out plainly: split
// both, and compare segment by segment.
func FuzzMatchPattern(f *testing.F) {
	f.Add("conversation.*", "conversation.user.replied")
	f.Add("*.created", "user.created")
	f.Add("a.*.c", "a.b.c")
	f.Add("*", "ping")
	f.Fuzz(func(t *testing.T, pattern, topic string) {
		if checkPattern(pattern) != nil || !validTopic(topic) {
			return
		}
		if got, want := matchPattern(pattern, topic), plainlyMatches(pattern, topic); got != want {
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

func TestNearest(t *testing.T) {
	for pattern, want := range map[string]string{
		"conversations.*":           "conversation.*",
		"conversation.user.replyed": "conversation.user.replied",
		"contacts.*.created":        "contact.*.created",
		"pong":                      "ping",
		"ticket_created":            "ticket.created",
	} {
		if got := nearestPattern(pattern); got != want {
			t.Errorf("pattern %s: got %s, want %s", pattern, got, want)
		}
	}
	if got := intercom.NearestTopics("user.creatd", 2); len(got) != 2 || got[0] != "user.created" {
		t.Errorf("topics nearest to user.creatd: %v", got)
	}
}
