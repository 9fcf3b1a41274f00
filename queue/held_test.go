package queue

import (
	"testing"

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
