package queue

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

// laneTarget is a handler with one route, whose copies have lanes of their own. Each lane
// answers as it is told.
type laneTarget struct {
	*fakeTarget
	answers map[string]func() intercomwebhook.Delivery

	mu  sync.Mutex
	got []string // lanes and bodies
}

func (l *laneTarget) Route(_ *http.Request, body []byte, _ int, to string) (lane string, deliver func() intercomwebhook.Delivery) {
	lane = l.lanes[0]
	if to != "" {
		lane = to
	}
	if !slices.Contains(l.lanes, lane) {
		return "", func() intercomwebhook.Delivery { return intercomwebhook.Delivery{Err: intercomwebhook.ErrUnrouted} }
	}
	return lane, func() intercomwebhook.Delivery {
		l.mu.Lock()
		l.got = append(l.got, lane+" "+string(body))
		l.mu.Unlock()
		if answer := l.answers[lane]; answer != nil {
			return answer()
		}
		return intercomwebhook.Delivery{}
	}
}

func (q *testQueue) putWithCopies(id string, copies ...string) (duplicate bool) {
	q.Helper()
	r := httptest.NewRequest(http.MethodPost, "/intercom", nil)
	duplicate, err := q.Store(r, intercomwebhook.Notification{Topic: "a.b", Kind: "other", AppID: "tulip4", ID: id, Lane: "support", Copies: copies, Body: []byte(id)})
	if err != nil {
		q.Fatalf("storing %s: %v", id, err)
	}
	return duplicate
}

func TestCopiesGoToTheirOwnLanes(t *testing.T) {
	target := &laneTarget{fakeTarget: &fakeTarget{lanes: []string{"support", "copy-one", "copy-two"}}}
	q := openTestQueue(t, newPath(t), Options{Name: "intercom"}, target)
	defer q.close()
	if q.putWithCopies("a", "copy-one", "copy-two") || !q.putWithCopies("a", "copy-one", "copy-two") || q.putWithCopies("b") {
		t.Error("a new one was taken for a duplicate, or a duplicate for a new one")
	}
	q.eventually("support completed", 2)
	q.eventually("copy-one completed", 1)
	q.eventually("copy-two completed", 1)
	target.mu.Lock()
	defer target.mu.Unlock()
	slices.Sort(target.got)
	if want := []string{"copy-one a", "copy-two a", "support a", "support b"}; !slices.Equal(target.got, want) {
		t.Errorf("delivered %q, want %q", target.got, want)
	}
}

func TestACopyFailsAlone(t *testing.T) {
	target := &laneTarget{
		fakeTarget: &fakeTarget{lanes: []string{"support", "copy-one"}},
		answers: map[string]func() intercomwebhook.Delivery{"copy-one": func() intercomwebhook.Delivery {
			return intercomwebhook.Delivery{Err: errors.New("backend answered 500"), Status: 500}
		}},
	}
	q := openTestQueue(t, newPath(t), Options{Name: "intercom", MaxAttempts: 1}, target)
	defer q.close()
	q.putWithCopies("a", "copy-one")
	q.eventually("support completed", 1)
	q.eventually("copy-one discarded", 1)
}

func TestACopyWithoutItsLaneIsADeadLetter(t *testing.T) {
	target := &laneTarget{fakeTarget: &fakeTarget{lanes: []string{"support", "copy-one"}}}
	hung := make(chan struct{})
	target.answers = map[string]func() intercomwebhook.Delivery{"copy-one": func() intercomwebhook.Delivery {
		<-hung
		return intercomwebhook.Delivery{Err: errors.New("hung")}
	}}
	q := openTestQueue(t, newPath(t), Options{Name: "intercom"}, target)
	defer q.close()
	q.putWithCopies("a", "copy-one")
	q.eventually("copy-one running", 1)
	without := newTestAttachment(q.dispatcher(), Options{Name: "intercom"}, &laneTarget{fakeTarget: &fakeTarget{lanes: []string{"support"}}})
	q.dispatcher().attach(attachments{"intercom": without})
	close(hung)
	q.eventually("copy-one cancelled", 1)
	q.eventually("support completed", 1)
}
