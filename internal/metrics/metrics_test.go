package metrics

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestALaneIsThereAsLongAsAConfigHasIt(t *testing.T) {
	l := &laneCounter{count: make(map[Lane]int), info: Lanes.info}
	t.Cleanup(l.info.Reset)
	l.Add(Lane{Label: "a"}) // the config before a reload
	l.Add(Lane{Label: "a"}) // the one after it
	l.Add(Lane{Label: "b", Kind: "copy"})
	for _, step := range []struct {
		remove Lane
		left   int
	}{{Lane{}, 2}, {Lane{Label: "a"}, 2}, {Lane{Label: "b", Kind: "copy"}, 1}, {Lane{Label: "a"}, 0}} {
		if step.remove != (Lane{}) {
			l.Remove(step.remove)
		}
		if got := testutil.CollectAndCount(l.Collector()); got != step.left {
			t.Errorf("%d lanes are left after %+v", got, step)
		}
	}
}
