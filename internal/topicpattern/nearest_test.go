package topicpattern

import (
	"slices"
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	for pattern, want := range map[string]string{
		// names that public code uses
		"conversation.closed":   "conversation.admin.closed",
		"conversation.opened":   "conversation.admin.opened",
		"conversation.snoozed":  "conversation.admin.snoozed",
		"conversation.replied":  "conversation.admin.replied conversation.operator.replied conversation.user.replied",
		"conversation.created":  "conversation.user.created",
		"conversation.rated":    "conversation.rating.added",
		"conversation.assigned": "conversation.admin.assigned",
		"lead.created":          "contact.lead.created",
		"user.updated":          "contact.user.updated user.email.updated",
		"contact.user.deleted":  "contact.deleted contact.user.tag.deleted user.deleted",
		"ticket.state.changed":  "ticket.state.updated",

		// mistyped, or another form of a word
		"conversation.user.replyed": "conversation.user.replied",
		"ticket_created":            "ticket.created",
		"tickets.created":           "ticket.created",
		"user.creatd":               "user.created",
		"pong":                      "ping",
		"fin.replied":               "fin.fin_replied",

		// without its end
		"conversation":       "conversation.*",
		"conversation.admin": "conversation.admin.*",

		// patterns
		"conversations.*":    "conversation.*",
		"contacts.*.created": "contact.*.created",
		"lead.*":             "contact.lead.*",
		"*.user.replyed":     "*.user.replied",

		// nothing is near
		"conversation.foo": "", "foo.created": "", "foo": "", "foo.bar.*": "", "*.foo": "", "created": "", "a.b.c.d.e.f.g.h": "",
	} {
		if got := strings.Join(nearest(pattern), " "); got != want {
			t.Errorf("pattern %s: got %s, want %s", pattern, got, want)
		}
	}
}

// What is near fits a known topic, and every topic is near to what lacks one of its letters.
func TestWhatIsNearIsKnown(t *testing.T) {
	for _, topic := range knownTopics() {
		if why := Unknown(topic); why != "" {
			t.Error(why)
		}
		mistyped := topic[:len(topic)-2] + topic[len(topic)-1:]
		near := nearest(mistyped)
		if !slices.Contains(near, topic) && !strings.HasSuffix(topic, ".sms") { // of ss, one word of two letters is left
			t.Errorf("near to %s are %v", mistyped, near)
		}
		for _, one := range near {
			if !fitsKnownTopic(one) {
				t.Errorf("%s is near to %s, but is not known", one, mistyped)
			}
		}
	}
}

func TestUnknown(t *testing.T) {
	for pattern, want := range map[string]string{
		"conversation.*":      "",
		"fin.fin_replied":     "",
		"fin.*":               "",
		"conversation.closed": `topic "conversation.closed" is not known: the nearest is conversation.admin.closed`,
		"user.updated":        `topic "user.updated" is not known: the nearest are contact.user.updated, user.email.updated`,
		"foo.*":               `topic pattern "foo.*" fits no known topic`,
	} {
		if got := Unknown(pattern); got != want {
			t.Errorf("pattern %s: got %s, want %s", pattern, got, want)
		}
	}
}
