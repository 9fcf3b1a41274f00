package queue

import "testing"

func TestAJobThatIsClaimedAgainIsCountedOnce(t *testing.T) {
	h := newHeldJobs()
	first, again := &heldJob{id: 1, token: 1, size: 100}, &heldJob{id: 1, token: 2, size: 100}
	h.addUnreserved(first)
	h.addUnreserved(again) // before it is known that the release of the first claim is written
	h.remove([]finishedJob{{job: first}})
	if h.bytes != 100 {
		t.Errorf("%d bytes are held with the second claim, want 100", h.bytes)
	}
	h.remove([]finishedJob{{job: again}})
	if h.bytes != 0 {
		t.Errorf("%d bytes are held in the end, want 0", h.bytes)
	}
}
