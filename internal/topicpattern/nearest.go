package topicpattern

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// Unknown says that no known topic fits a valid pattern, and which are near. It returns an
// empty string if one fits.
func Unknown(pattern string) string {
	if fitsKnownTopic(pattern) {
		return ""
	}
	text := fmt.Sprintf("topic %q is not known", pattern)
	if strings.Contains(pattern, "*") {
		text = fmt.Sprintf("topic pattern %q fits no known topic", pattern)
	}
	switch near := nearest(pattern); len(near) {
	case 0:
		return text
	case 1:
		return text + ": the nearest is " + near[0]
	default:
		return text + ": the nearest are " + strings.Join(near, ", ")
	}
}

func knownTopics() []string { return slices.Concat(intercom.Topics(), intercom.FinTopics()) }

func fitsKnownTopic(pattern string) bool {
	return slices.ContainsFunc(knownTopics(), func(topic string) bool { return Matches(pattern, topic) })
}

// maxNearest is the most topics that are named as near. More than these tell nothing.
const maxNearest = 4

// nearest returns the patterns that fit a known topic and are nearest to the given one, which
// fits none; none if none is near. They have a * where the given one has it.
//
// Near are those that share more than half of its words with it. Of these, those that share
// its last word are nearer than others, because it says what happened; and then those with
// the fewest other words. Spelling alone would confuse `closed` with `deleted`.
func nearest(pattern string) (near []string) {
	if below := pattern + ".*"; fitsKnownTopic(below) {
		return []string{below}
	}
	given := words(pattern)
	stars := strings.Count(pattern, "*")
	least := 0
	for _, candidate := range candidates(pattern) {
		its := words(candidate)
		same := shared(given, its)
		if 2*(same-equal*stars) <= equal*(len(given)-stars) {
			continue
		}
		distance := equal*(len(given)+len(its)) - 2*same
		if likeness(given[len(given)-1], its[len(its)-1]) == 0 {
			distance += equal * 100
		}
		if near == nil || distance < least {
			near, least = nil, distance
		}
		if distance == least {
			near = append(near, candidate)
		}
	}
	if len(near) > maxNearest {
		return nil
	}
	return near
}

// candidates returns the known topics with a * where the pattern has it, sorted, each once. A
// * at the end stands for any end of a topic.
func candidates(pattern string) (all []string) {
	segments := strings.Split(pattern, ".")
	open := segments[len(segments)-1] == "*"
	for _, topic := range knownTopics() {
		candidate := strings.Split(topic, ".")
		for i := range min(len(candidate), len(segments)-1) {
			if segments[i] == "*" {
				candidate[i] = "*"
			}
		}
		for end := len(candidate) - 1; open && end > 0; end-- {
			all = append(all, strings.Join(candidate[:end], ".")+".*")
		}
		if !open {
			all = append(all, strings.Join(candidate, "."))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func words(pattern string) []string {
	return strings.FieldsFunc(pattern, func(c rune) bool { return c == '.' || c == '_' || c == '-' })
}

// equal is the likeness of equal words.
const equal = 4

// shared adds the likeness of the words that two patterns share, in this order.
func shared(a, b []string) int {
	// longest common subsequence: best[j] is that of the words of a so far and of b[:j]
	best := make([]int, len(b)+1)
	for _, word := range a {
		diagonal := 0
		for j, other := range b {
			above := best[j+1]
			best[j+1] = max(above, best[j], diagonal+likeness(word, other))
			diagonal = above
		}
	}
	return best[len(b)]
}

// likeness tells how like two words are: equal, less if one is mistyped or another form of
// the other, or 0.
func likeness(a, b string) int {
	longer, shorter, prefix := max(len(a), len(b)), min(len(a), len(b)), 0
	for prefix < shorter && a[prefix] == b[prefix] {
		prefix++
	}
	mistakes := 0 // so many are allowed
	switch {
	case shorter >= 6:
		mistakes = 2
	case shorter >= 3:
		mistakes = 1
	}
	switch {
	case a == b:
		return equal
	case prefix >= 3 && 2*prefix >= longer, levenshtein.ComputeDistance(a, b) <= mistakes:
		return equal - 1
	default:
		return 0
	}
}
