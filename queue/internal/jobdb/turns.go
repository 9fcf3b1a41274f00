package jobdb

import (
	"cmp"
	"maps"
	"slices"
	"sync"
)

// turns remembers by queue which workspace had the last turn, so that the turns go on with
// the next claim.
type turns struct {
	mu   sync.Mutex
	last map[string]string
}

func (t *turns) after(queue string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last[queue]
}

func (t *turns) taken(queue, workspace string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil {
		t.last = make(map[string]string)
	}
	t.last[queue] = workspace
}

// share returns how many jobs each workspace may have, so that all together have the limit.
func share(limit, workspaces int) int { return (limit + workspaces - 1) / workspaces }

// takeTurns puts candidates of the same priority, which are in the order of their
// workspaces' own, into the order in which workspaces take turns. The first turn is that of
// the workspace behind after.
func takeTurns(candidates []candidate, after string) []candidate {
	waiting := make(map[string][]candidate)
	for _, c := range candidates {
		waiting[c.workspace] = append(waiting[c.workspace], c)
	}
	if len(waiting) < 2 {
		return candidates
	}
	workspaces := slices.SortedFunc(maps.Keys(waiting), func(a, b string) int {
		if (a > after) != (b > after) {
			return -cmp.Compare(a, b) // those behind it come first
		}
		return cmp.Compare(a, b)
	})
	ordered := make([]candidate, 0, len(candidates))
	for round := 0; len(ordered) < len(candidates); round++ {
		for _, workspace := range workspaces {
			if jobs := waiting[workspace]; round < len(jobs) {
				ordered = append(ordered, jobs[round])
			}
		}
	}
	return ordered
}
