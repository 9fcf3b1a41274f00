package intercomwebhook

import (
	"slices"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// TestCoverageIsThatOfTheNotifications compares covers with what each notification
// says, one by one. No three coverages may cover together what none of them covers alone, or
// else a route behind them would have to be refused, too.
func TestCoverageIsThatOfTheNotifications(t *testing.T) {
	patterns := []string{"a", "b", "*", "a.a", "a.b", "a.*", "*.a", "*.b", "*.*"}
	topics := []string{"a", "b", "c", "a.a", "a.b", "a.c", "b.a", "b.b", "b.c", "c.a", "c.b", "c.c", "a.a.a", "c.c.c"}
	senders := []string{"x", "y", "z", ""} // z is named by none, and a ping may name none
	all := coverages(patterns, []string{"", "x", "y"})
	fitting := make(map[coverage][]bool)
	for _, s := range all {
		for _, topic := range topics {
			for _, sender := range senders {
				fitting[s] = append(fitting[s], topicpattern.Matches(s.topics, topic) && (s.workspace == "" || s.workspace == sender))
			}
		}
	}
	covered := func(s coverage, by ...coverage) bool {
		for i, fits := range fitting[s] {
			if fits && !slices.ContainsFunc(by, func(cover coverage) bool { return fitting[cover][i] }) {
				return false
			}
		}
		return true
	}
	for _, s := range all {
		var others []coverage // that do not cover it
		for _, one := range all {
			got := one.covers(s)
			if want := covered(s, one); got != want {
				t.Errorf("that %v covers %v is %t, want %t", one, s, got, want)
			}
			if !got {
				others = append(others, one)
			}
		}
		for i, one := range others {
			for j, two := range others[:i] {
				for _, three := range others[:j] {
					if covered(s, one, two, three) {
						t.Errorf("%v is covered by %v, %v and %v together", s, one, two, three)
					}
				}
			}
		}
	}
}
