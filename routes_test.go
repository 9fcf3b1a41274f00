package intercomwebhook

import "testing"

func TestDefaultLane(t *testing.T) {
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
	} {
		got := defaultLane(pattern)
		if got != want {
			t.Errorf("%s: got %s, want %s", pattern, got, want)
		}
		if err := checkLane(got); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}

func TestCheckLane(t *testing.T) {
	for _, name := range []string{"", "Support", "a b", "-a", "a-", "a--b", "a.b", "*", "größe",
		"a123456789a123456789a123456789a123456789a123456789a123456789a1234"} {
		if checkLane(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	for _, name := range []string{"support", "support-eu_1", "1"} {
		if err := checkLane(name); err != nil {
			t.Error(err)
		}
	}
}
