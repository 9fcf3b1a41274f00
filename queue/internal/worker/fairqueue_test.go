package worker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// add adds deliveries of these workspaces, numbered from first.
func addTo(q *fairQueue, first int64, workspaces string) {
	for i, workspace := range strings.Split(workspaces, ",") {
		q.add(&delivery{id: first + int64(i), note: &db.Notification{Workspace: workspace}})
	}
}

// popN returns the next deliveries, as in "a1 b3".
func popN(q *fairQueue, n int) string {
	var popped []string
	for range n {
		d := q.pop()
		popped = append(popped, fmt.Sprint(d.note.Workspace, d.id))
	}
	return strings.Join(popped, " ")
}

func TestWorkspacesTakeTurns(t *testing.T) {
	for _, c := range []struct{ name, deliveries, want string }{
		{"one workspace keeps its order", "a,a,a", "a1 a2 a3"},
		{"two alternate", "a,a,a,b,b", "a1 b4 a2 b5 a3"},
		{"a late one does not wait for a burst", "a,a,a,a,a,b", "a1 b6 a2 a3 a4 a5"},
		{"three with different numbers", "a,b,b,c,c,c", "a1 b2 c4 b3 c5 c6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var q fairQueue
			addTo(&q, 1, c.deliveries)
			if got := popN(&q, q.waiting); got != c.want {
				t.Errorf("the order is %s, want %s", got, c.want)
			}
			if q.waiting != 0 || len(q.byWorkspace) != 0 || len(q.next) != 0 {
				t.Errorf("%+v is left", q)
			}
		})
	}
}

func TestTurnsGoOnWithWhatComesLater(t *testing.T) {
	var q fairQueue
	addTo(&q, 1, "a,a,a")
	got := popN(&q, 1)
	addTo(&q, 4, "b,b,a,c")
	if got += " " + popN(&q, 6); got != "a1 a2 b4 c7 a3 b5 a6" {
		t.Errorf("the order is %s", got)
	}
}
