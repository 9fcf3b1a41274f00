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
			if q.len() != 0 || len(q.workspaces) != 0 || len(q.next) != 0 {
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

func TestABurstLeavesPlacesForOtherWorkspaces(t *testing.T) {
	const room = 100
	var q fairQueue
	fill := func(workspace string) (n int) {
		for ; q.reserve(workspace, room); n++ {
		}
		return n
	}
	if n := fill("burst"); n != room {
		t.Errorf("the burst has %d places, want the room of %d", n, room)
	}
	if n := fill("second"); n != room/2 {
		t.Errorf("the second has %d places, want half of the room", n)
	}
	for n := range 50 {
		if workspace := fmt.Sprint("small", n); !q.reserve(workspace, room) {
			t.Errorf("%s has no place", workspace)
		}
	}
	if q.len() != 2*room {
		t.Errorf("%d places are taken, want %d", q.len(), 2*room)
	}
	if q.reserve("another", room) {
		t.Error("the places are not bounded")
	}
}

func TestHandOverLeavesRoomForClaims(t *testing.T) {
	const room = 100
	var q fairQueue
	for n := range 80 {
		q.reserve(fmt.Sprint(n), room)
	}
	if got := q.claimed(room); got != room/2 {
		t.Errorf("%d of %d places are taken for a claim, want half", got, room)
	}
	for n := range 80 {
		q.unreserve(fmt.Sprint(n))
		q.add(&delivery{fromMemory: true, note: &db.Notification{Workspace: fmt.Sprint(n)}})
	}
	addTo(&q, 1, "a,b,c")
	if got := q.claimed(room); got != room/2+3 {
		t.Errorf("%d of %d places are taken for a claim, want half and those of the last claim", got, room)
	}
	q.popAll()
	if got := q.claimed(room); got != 0 || q.handedOver != 0 {
		t.Errorf("%d places are taken of nothing", got)
	}
}
