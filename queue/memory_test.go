package queue

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

const mebibyte = 1 << 20

// fill reserves jobs of a size for a lane until it may have no more, and returns its bytes.
func (m *memory) fill(queue string, size int) int {
	for m.reserve(queue, size) {
	}
	return m.byLane[queue]
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
	m.add("support", -mebibyte)
	if m.reserve("support", mebibyte) {
		t.Error("a lane that had most took what it gave back before the others did")
	}
	if !m.reserve("billing", mebibyte) {
		t.Error("another lane did not get what became free")
	}
}

func TestEachLaneMayHaveOneJob(t *testing.T) {
	m := newMemory()
	const lanes, largest = 50, 4 * mebibyte
	for i := range lanes {
		lane := fmt.Sprint("lane", i)
		m.fill(lane, largest)
		if m.byLane[lane] == 0 {
			t.Fatalf("%s may have no job", lane)
		}
	}
	if most := heldMemory + lanes*largest; m.total > most {
		t.Errorf("%d bytes are held, want %d at most", m.total, most)
	}
}

func TestClaimsAtTheSameTimeShareTheMemory(t *testing.T) {
	h := newHeldJobs()
	const lanes = 50
	claims := make([]jobdb.Claim, lanes)
	promised := 0
	for i := range claims {
		claims[i].Queue = fmt.Sprint("lane", i)
		if !h.reserveClaim(&claims[i]) {
			t.Fatalf("%s may claim nothing", claims[i].Queue)
		}
		promised += claims[i].MaxBytes
	}
	if promised > heldMemory+lanes {
		t.Errorf("all claims may have %d bytes, want %d at most", promised, heldMemory+lanes)
	}
	h.settleClaim(claims[0], []*heldJob{{id: 1, queue: "lane0", size: 100}})
	for _, claim := range claims[1:] {
		h.settleClaim(claim, nil)
	}
	if h.memory.total != 100 || len(h.pending) != 0 {
		t.Errorf("%d bytes are held and %d claims wait, want the 100 of the one job and none", h.memory.total, len(h.pending))
	}
}

// byBody is a handler that routes a notification to the lane that its body begins with.
type byBody struct {
	*fakeTarget
	hang chan struct{} // support answers when it is closed
}

func (b byBody) Route(_ *http.Request, body []byte, _ int, _ string) (lane string, deliver func() intercomwebhook.Delivery) {
	lane, _, _ = strings.Cut(string(body), " ")
	return lane, func() intercomwebhook.Delivery {
		if lane == "support" {
			<-b.hang
		}
		return intercomwebhook.Delivery{}
	}
}

func TestABackendThatHangsWithLargeBodiesStopsNoOtherLane(t *testing.T) {
	target := byBody{&fakeTarget{lanes: []string{"support", "sales"}}, make(chan struct{})}
	q := openTestQueue(t, newPath(t), Options{}, target)
	defer q.close()
	answer := sync.OnceFunc(func() { close(target.hang) })
	defer answer()
	putLarge := func(lane string, n int) {
		for i := range n {
			body := []byte(lane + " " + strings.Repeat("x", 4*mebibyte))
			r := httptest.NewRequest(http.MethodPost, "/intercom", nil)
			if _, err := q.Store(r, intercomwebhook.Notification{Topic: "a.b", Kind: "other", ID: fmt.Sprint(lane, i), Lane: lane, Body: body}); err != nil {
				t.Fatal(err)
			}
		}
	}
	putLarge("support", 18) // more than all lanes may hold together
	putLarge("sales", 3)
	q.eventually("sales completed", 3)
	answer()
	q.eventually("support completed", 18)
}
