package queue

import (
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

func TestJobsThatAnotherConfigDelivers(t *testing.T) {
	d := new(dispatcher)
	a := newTestAttachment(d, Options{Name: "intercom"}, &fakeTarget{lanes: []string{"support"}})
	d.attachments = []attachments{{"intercom": a}}
	own := a.configHash()
	other := jobdb.Presence{Configs: map[string]string{"intercom": "another"}, Queues: []string{"billing"}}
	same := jobdb.Presence{Configs: map[string]string{"intercom": own}, Queues: []string{"billing"}}
	for _, c := range []struct {
		name            string
		queue, lane, to string
		other           jobdb.Presence
		left            bool
	}{
		{"one for the lane that it is routed to", "billing", "billing", "", other, false},
		{"one that fits no route here", "support", "", "", other, true},
		{"one that fits no route here, nor there", "support", "", "", same, false},
		{"one that is routed to another lane here", "billing", "support", "", other, true},
		{"one of a lane that the other has not", "old", "support", "", other, false},
		{"one that fitted no route when it was stored", unroutedLane, "support", "", other, false},
		{"one that is to go to a lane that the other has", "billing", "", "billing", other, true},
		{"one that is to go to a lane that nobody has", "staging", "", "staging", other, false},
		{"one that is to go to a lane that is here", "support", "support", "support", other, false},
	} {
		d.fleet.Others = []jobdb.Presence{c.other}
		if left := d.belongsToAnotherConfig(c.queue, c.lane, c.to); left != c.left {
			t.Errorf("%s: left to the other is %t, want %t", c.name, left, c.left)
		}
	}
}
