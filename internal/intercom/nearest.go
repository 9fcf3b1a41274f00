package intercom

import (
	"cmp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// NearestTopics returns the n known topics whose spelling is nearest to name.
func NearestTopics(name string, n int) []string {
	return Nearest(name, Topics(), n)
}

// Nearest returns the n candidates whose spelling is nearest to name, nearest first and
// each once. It changes the order of candidates.
func Nearest(name string, candidates []string, n int) []string {
	slices.SortFunc(candidates, func(a, b string) int {
		return cmp.Or(
			cmp.Compare(levenshtein.ComputeDistance(name, a), levenshtein.ComputeDistance(name, b)),
			strings.Compare(a, b))
	})
	candidates = slices.Compact(candidates)
	return candidates[:min(n, len(candidates))]
}
