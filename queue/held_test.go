package queue

import (
	"maps"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

func TestAJobThatIsClaimedAgainIsCountedOnce(t *testing.T) {
	h := newHeldJobs()
	first, again := &heldJob{id: 1, token: 1, size: 100}, &heldJob{id: 1, token: 2, size: 100}
	h.settleClaim(jobdb.Claim{}, []*heldJob{first})
	h.settleClaim(jobdb.Claim{}, []*heldJob{again}) // before it is known that the release of the first claim is written
	h.remove([]finishedJob{{job: first}})
	if h.memory.total != 100 {
		t.Errorf("%d bytes are held with the second claim, want 100", h.memory.total)
	}
	h.remove([]finishedJob{{job: again}})
	if h.memory.total != 0 {
		t.Errorf("%d bytes are held in the end, want 0", h.memory.total)
	}
}

func TestOnlyWhatAnotherInstanceHasTakenOverIsForgotten(t *testing.T) {
	asked := time.Now()
	h := newHeldJobs()
	begun := &heldJob{id: 3, token: 3, claimed: asked.Add(-time.Second)}
	begun.begin(func(error) {})
	h.settleClaim(jobdb.Claim{}, []*heldJob{
		{id: 1, token: 1, claimed: asked.Add(-time.Second)},
		{id: 2, token: 2, claimed: asked.Add(-time.Second)},
		begun,
		{id: 4, token: 4, claimed: asked.Add(time.Millisecond)}, // while the database answered
	})
	gone := h.dropLost([]jobdb.Running{{ID: 1, Token: 1}}, asked)
	if want := map[int64]bool{2: true}; !maps.Equal(gone, want) {
		t.Errorf("forgot %v, want %v", gone, want)
	}
}
