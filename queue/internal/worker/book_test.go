package worker

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const mebibyte = 1 << 20

func named(lane string) db.Lane { return db.Lane{Endpoint: "intercom", Name: lane} }

func laneNamed(name string) *lane {
	return &lane{Lane: named(name), leftToOthers: make(map[int64]bool)}
}

// fill reserves deliveries of a size for a lane until it may have no more, and returns its
// bytes.
func (b *book) fill(l *lane, size int) int {
	for b.reserve(l, size) {
	}
	return l.bytes
}

func TestALaneLeavesMemoryForTheOthers(t *testing.T) {
	b := newBook()
	support, sales, billing := laneNamed("support"), laneNamed("sales"), laneNamed("billing")
	for _, c := range []struct {
		lane *lane
		want int
	}{{support, 32 * mebibyte}, {sales, 16 * mebibyte}, {billing, 8 * mebibyte}} {
		if got := b.fill(c.lane, mebibyte); got != c.want {
			t.Errorf("%s has %d bytes, want %d", c.lane.Name, got, c.want)
		}
	}
	b.unreserve(support, mebibyte)
	if b.reserve(support, mebibyte) {
		t.Error("a lane that had most took what it gave back before the others did")
	}
	if !b.reserve(billing, mebibyte) {
		t.Error("another lane did not get what became free")
	}
}

func TestEachLaneMayHaveOneDelivery(t *testing.T) {
	b := newBook()
	const lanes, largest = 50, 4 * mebibyte
	for i := range lanes {
		if l := laneNamed(fmt.Sprint("lane", i)); b.fill(l, largest) == 0 {
			t.Fatalf("%s may have no delivery", l.Name)
		}
	}
	if most := laneMemory + lanes*largest; b.bytes > most {
		t.Errorf("%d bytes are held, want %d at most", b.bytes, most)
	}
}

func TestClaimsAtTheSameTimeShareTheMemory(t *testing.T) {
	b := newBook()
	const lanes = 50
	for i := range lanes {
		l := laneNamed(fmt.Sprint("lane", i))
		if b.fill(l, claimMemory) == 0 {
			t.Fatalf("%s may claim nothing", l.Name)
		}
	}
	if b.bytes > laneMemory+lanes*claimMemory {
		t.Errorf("all claims may have %d bytes, want %d at most", b.bytes, laneMemory+lanes*claimMemory)
	}
}

func TestADeliveryThatIsClaimedAgainIsCountedOnce(t *testing.T) {
	b, l := newBook(), laneNamed("support")
	note := &db.Notification{Body: make([]byte, 100)}
	first, again := &delivery{id: 1, token: 1, lane: l, note: note}, &delivery{id: 1, token: 2, lane: l, note: note}
	for _, d := range []*delivery{first, again} { // again before it is known that the release of the first is written
		b.reserve(l, 100)
		b.claimed(d.token, []*delivery{d})
	}
	b.remove([]*delivery{first})
	if b.bytes != 100 {
		t.Errorf("%d bytes are held with the second claim, want 100", b.bytes)
	}
	b.remove([]*delivery{again})
	if b.bytes != 0 || l.bytes != 0 {
		t.Errorf("%d bytes are held in the end, want 0", b.bytes)
	}
}

func TestTheBookAndTheDatabaseAreReconciled(t *testing.T) {
	asked := time.Now()
	b := newBook()
	pending := b.newToken()
	held := func(id int64, token db.Token, claimed time.Time) *delivery {
		d := &delivery{id: id, token: token, lane: new(lane), claimed: claimed, note: new(db.Notification)}
		b.claimed(token, []*delivery{d})
		return d
	}
	before := asked.Add(-time.Second)
	still, gone, taken := held(1, 1, before), held(2, 2, before), held(3, 3, before)
	running := held(4, 4, before)
	running.begin()
	later := held(5, 5, asked.Add(time.Millisecond)) // while the database answered
	lost := b.reconcile([]db.Held{{ID: 1, Token: 1}, {ID: 3, Token: 33}, {ID: 6, Token: 6}, {ID: 7, Token: pending}}, asked)
	if len(lost) != 2 || lost[0].ID != 3 || lost[0].Token != 33 || lost[1].ID != 6 || lost[0].State != db.Waiting {
		t.Errorf("lost %+v, want 3 with the other token, and 6", lost)
	}
	for _, c := range []struct {
		name   string
		d      *delivery
		begins bool
	}{
		{"one that is held", still, true}, {"one whose row is gone", gone, false}, {"one that has another claim", taken, false},
		{"one that runs", running, false}, {"one that was claimed later", later, true},
	} {
		if begins := c.d.begin(); begins != c.begins {
			t.Errorf("%s may begin: %t, want %t", c.name, begins, c.begins)
		}
	}
	if b.deliveries[4] != running || b.deliveries[2] != nil || b.deliveries[3] != nil {
		t.Errorf("the book has %v", b.deliveries)
	}
}
