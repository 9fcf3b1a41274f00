package lanename

import (
	"strings"
	"testing"
)

func TestDefault(t *testing.T) {
	for pattern, want := range map[string]string{
		"*":                       "default",
		"ping":                    "ping",
		"conversation.*":          "conversation",
		"conversation.user.*":     "conversation-user",
		"content_stat.*":          "content_stat",
		"conversation.*.created":  "conversation-any-created",
		"*.created":               "any-created",
		"*.*":                     "any",
		"conversation.user.reply": "conversation-user-reply",
		"Conversation.userReply":  "conversation-userreply",
		"x-y.A-B.*":               "x-y-a-b",
		"a__b.c--d":               "a-b-c-d",
		"_a.-b.c_":                "a-b-c",
		"_":                       "route",
		"-.*":                     "route",

		strings.Repeat("a.", 40) + "b": strings.Repeat("a-", 31) + "a",
	} {
		got := Default("", []string{pattern})
		if got != want {
			t.Errorf("%s: got %s, want %s", pattern, got, want)
		}
		if err := Check(got); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}

func TestNumbered(t *testing.T) {
	for name, want := range map[string]string{
		"a":                             "a-2",
		strings.Repeat("a", maxLength):  strings.Repeat("a", maxLength-2) + "-2",
		strings.Repeat("a-", 31) + "ab": strings.Repeat("a-", 30) + "a-2",
	} {
		got := Numbered(name, 2)
		if got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
		if err := Check(got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, name := range []string{"", "Support", "a b", "-a", "a-", "a--b", "a.b", "*", "größe",
		"a123456789a123456789a123456789a123456789a123456789a123456789a1234"} {
		if Check(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	for _, name := range []string{"support", "support-eu_1", "1"} {
		if err := Check(name); err != nil {
			t.Error(err)
		}
	}
}
