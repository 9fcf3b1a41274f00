package worker

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const mebibyte = 1 << 20

func named(lane string) db.Lane { return db.Lane{Endpoint: "intercom", Name: lane} }

// fill reserves deliveries of a size for a lane until it may have no more, and returns its
// bytes.
func (m *memory) fill(lane string, size int) int {
	for m.reserve(named(lane), size) {
	}
	return m.byLane[named(lane)]
}

func TestALaneLeavesMemoryForTheOthers(t *testing.T) {
	m := newMemory()
	for _, c := range []struct {
		lane string
		want int
	}{{"support", 32 * mebibyte}, {"sales", 16 * mebibyte}, {"billing", 8 * mebibyte}} {
		if got := m.fill(c.lane, mebibyte); got != c.want {
			t.Errorf("%s has %d bytes, want %d", c.lane, got, c.want)
		}
	}
	m.add(named("support"), -mebibyte)
	if m.reserve(named("support"), mebibyte) {
		t.Error("a lane that had most took what it gave back before the others did")
	}
	if !m.reserve(named("billing"), mebibyte) {
		t.Error("another lane did not get what became free")
	}
}

func TestEachLaneMayHaveOneDelivery(t *testing.T) {
	m := newMemory()
	const lanes, largest = 50, 4 * mebibyte
	for i := range lanes {
		lane := fmt.Sprint("lane", i)
		if m.fill(lane, largest) == 0 {
			t.Fatalf("%s may have no delivery", lane)
		}
	}
	if most := laneMemory + lanes*largest; m.lanes > most {
		t.Errorf("%d bytes are held, want %d at most", m.lanes, most)
	}
	if granted := m.acquire(maxInsert); granted != nil {
		t.Error("lanes that hold all that they may leave nothing to storing")
	}
}

func TestClaimsAtTheSameTimeShareTheMemory(t *testing.T) {
	b := newBook()
	const lanes = 50
	claims := make([]db.Claim, lanes)
	promised := 0
	for i := range claims {
		claims[i].Lane = named(fmt.Sprint("lane", i))
		if !b.reserveClaim(&claims[i]) {
			t.Fatalf("%s may claim nothing", claims[i].Lane)
		}
		promised += claims[i].MaxBytes
	}
	if promised > laneMemory+lanes {
		t.Errorf("all claims may have %d bytes, want %d at most", promised, laneMemory+lanes)
	}
	b.claimed(claims[0], []*delivery{{id: 1, lane: named("lane0"), note: &db.Notification{Body: make([]byte, 100)}}})
	for _, claim := range claims[1:] {
		b.claimed(claim, nil)
	}
	if b.memory.lanes != 100 || len(b.pending) != 0 {
		t.Errorf("%d bytes are held and %d claims wait, want the 100 of the one delivery and none", b.memory.lanes, len(b.pending))
	}
}

func TestStoringWaitsForMemoryInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook()
		for range totalMemory / mebibyte {
			if err := b.acquire(t.Context(), mebibyte); err != nil {
				t.Fatal(err)
			}
		}
		if b.full() {
			t.Error("full although nobody waits")
		}
		errs := make(chan error, 3)
		for _, size := range []int{2 * mebibyte, mebibyte, mebibyte} {
			go func() { errs <- b.acquire(t.Context(), size) }()
			synctest.Wait()
		}
		if !b.full() {
			t.Error("not full although some wait")
		}
		b.release(mebibyte) // too little for the first one, so the others wait behind it
		synctest.Wait()
		if len(errs) != 0 {
			t.Error("one went ahead of the first")
		}
		b.release(2 * mebibyte)
		synctest.Wait()
		if len(errs) != 2 {
			t.Errorf("%d of 3 have memory, want the first two", len(errs))
		}
		time.Sleep(memoryTimeout + time.Second)
		var refused int
		for range 3 {
			if err := <-errs; errors.Is(err, errNoMemory) {
				refused++
			}
		}
		if refused != 1 || b.full() || b.memory.storing != totalMemory {
			t.Errorf("%d were refused, and %d bytes are taken, want 1 and %d", refused, b.memory.storing, totalMemory)
		}
	})
}

func TestADeliveryThatIsClaimedAgainIsCountedOnce(t *testing.T) {
	b := newBook()
	note := &db.Notification{Body: make([]byte, 100)}
	first, again := &delivery{id: 1, token: 1, note: note}, &delivery{id: 1, token: 2, note: note}
	b.claimed(db.Claim{}, []*delivery{first})
	b.claimed(db.Claim{}, []*delivery{again}) // before it is known that the release of the first claim is written
	b.remove([]*delivery{first})
	if b.memory.lanes != 100 {
		t.Errorf("%d bytes are held with the second claim, want 100", b.memory.lanes)
	}
	b.remove([]*delivery{again})
	if b.memory.lanes != 0 {
		t.Errorf("%d bytes are held in the end, want 0", b.memory.lanes)
	}
}

func TestTheBookAndTheDatabaseAreReconciled(t *testing.T) {
	asked := time.Now()
	b := newBook()
	pending := b.newToken()
	held := func(id int64, token db.Token, claimed time.Time) *delivery {
		d := &delivery{id: id, token: token, claimed: claimed, note: new(db.Notification)}
		b.put(d)
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
