package queue

import (
	"fmt"
	"strings"
	"testing"
)

// heldOf makes jobs out of the names of their workspaces, numbered from first.
func heldOf(first int64, workspaces string) (jobs []*heldJob) {
	for i, workspace := range strings.Split(workspaces, ",") {
		jobs = append(jobs, &heldJob{id: first + int64(i), workspace: workspace})
	}
	return jobs
}

// takeN returns the next jobs, as in "a1 b3".
func takeN(t *turns, n int) string {
	var taken []string
	for range n {
		job := t.take()
		taken = append(taken, fmt.Sprint(job.workspace, job.id))
	}
	return strings.Join(taken, " ")
}

func TestWorkspacesTakeTurns(t *testing.T) {
	for _, c := range []struct{ name, jobs, want string }{
		{"one workspace keeps its order", "a,a,a", "a1 a2 a3"},
		{"two alternate", "a,a,a,b,b", "a1 b4 a2 b5 a3"},
		{"a late one does not wait for a burst", "a,a,a,a,a,b", "a1 b6 a2 a3 a4 a5"},
		{"three with different numbers", "a,b,b,c,c,c", "a1 b2 c4 b3 c5 c6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ready turns
			jobs := heldOf(1, c.jobs)
			ready.add(jobs)
			if got := takeN(&ready, len(jobs)); got != c.want {
				t.Errorf("the order is %s, want %s", got, c.want)
			}
			if ready.held() != 0 || len(ready.workspaces) != 0 || len(ready.next) != 0 {
				t.Errorf("%+v is left", ready)
			}
		})
	}
}

func TestTurnsGoOnWithWhatComesLater(t *testing.T) {
	var ready turns
	ready.add(heldOf(1, "a,a,a"))
	got := takeN(&ready, 1)
	ready.add(heldOf(4, "b,b,a,c"))
	if got += " " + takeN(&ready, 6); got != "a1 a2 b4 c7 a3 b5 a6" {
		t.Errorf("the order is %s", got)
	}
}

func TestTurnsForgetJobsThatAreGone(t *testing.T) {
	var ready turns
	ready.add(heldOf(1, "a,a,b,c,a"))
	ready.reserve("d")
	ready.remove(map[int64]bool{1: true, 4: true})
	if got := takeN(&ready, ready.jobs); got != "b3 a2 a5" {
		t.Errorf("the order is %s", got)
	}
	if ready.held() != 1 || len(ready.workspaces) != 1 {
		t.Errorf("%+v is left, want the reserved place", ready)
	}
	ready.unreserve("d")
	if ready.held() != 0 || len(ready.workspaces) != 0 {
		t.Errorf("%+v is left", ready)
	}
}

func TestABurstLeavesPlacesForOtherWorkspaces(t *testing.T) {
	const room = 100
	var ready turns
	fill := func(workspace string) (n int) {
		for ; ready.mayReserve(workspace, room); n++ {
			ready.reserve(workspace)
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
		if workspace := fmt.Sprint("small", n); ready.mayReserve(workspace, room) {
			ready.reserve(workspace)
		} else {
			t.Errorf("%s has no place", workspace)
		}
	}
	if ready.held() != 2*room {
		t.Errorf("%d places are taken, want %d", ready.held(), 2*room)
	}
	if ready.mayReserve("another", room) {
		t.Error("the places are not bounded")
	}
}

func TestHandOverLeavesRoomForClaims(t *testing.T) {
	const room = 100
	var ready turns
	for n := range 80 {
		ready.reserve(fmt.Sprint(n))
	}
	if got := ready.claimed(room); got != room/2 {
		t.Errorf("%d of %d places are taken for a claim, want half", got, room)
	}
	for n := range 80 {
		ready.unreserve(fmt.Sprint(n))
		ready.add([]*heldJob{{workspace: fmt.Sprint(n), note: &notification{}}})
	}
	ready.add(heldOf(1, "a,b,c"))
	if got := ready.claimed(room); got != room/2+3 {
		t.Errorf("%d of %d places are taken for a claim, want half and those of the last claim", got, room)
	}
	ready.takeAll()
	if got := ready.claimed(room); got != 0 || ready.stored != 0 {
		t.Errorf("%d places are taken of nothing", got)
	}
}
