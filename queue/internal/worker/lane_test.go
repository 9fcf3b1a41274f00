package worker

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// A second Caddy on the same database gets its part of a lane's rate once the first one knows of it.
func TestTheRateOfALaneHoldsOverAllInstances(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const perSecond = 10
		var mu sync.Mutex
		began := make(map[string][]time.Time) // by instance
		endpoint := func(instance string) *Endpoint {
			options := testOptions
			options.Lanes = map[string]LaneOptions{"support": options.LaneOptions}
			slow := options.Lanes["support"]
			slow.Rate = perSecond
			options.Lanes["support"] = slow
			handler := &fakeHandler{lane: "support", answer: func(*http.Request, int) intercomwebhook.Delivery {
				mu.Lock()
				defer mu.Unlock()
				began[instance] = append(began[instance], time.Now())
				return intercomwebhook.Delivery{}
			}}
			return handler.endpoint("intercom", options, "support")
		}
		first := newFakeDB()
		second := first.open("host-2")
		one := openWorker(t, first, endpoint("one"))
		defer one.close()
		for i := range 600 {
			one.put("support", fmt.Sprint(i))
		}
		time.Sleep(10 * time.Second)
		others := func(database *fakeDB) {
			first.mu.Lock()
			defer first.mu.Unlock()
			database.peers = db.Peers{Others: []db.Presence{{Lanes: []db.Lane{named("support")}}}, Now: time.Now()}
		}
		others(second)
		two := openWorker(t, second, endpoint("two"))
		defer two.close()
		time.Sleep(lateAfter - heartbeatInterval - time.Second) // the first one learns with its next heartbeat that there is another one
		others(first)
		one.eventually("support delivered", 600)

		all := slices.SortedFunc(slices.Values(slices.Concat(began["one"], began["two"])), time.Time.Compare)
		for i := range all[perSecond:] {
			if took := all[i+perSecond].Sub(all[i]); took < 990*time.Millisecond {
				t.Fatalf("%d attempts began within %s: %v", perSecond+1, took, all[i:i+perSecond+1])
			}
		}
		if took := all[599].Sub(all[0]); took > 70*time.Second {
			t.Errorf("600 took %s, want about a minute", took)
		}
		if n := len(began["two"]); n < 100 || n > 300 {
			t.Errorf("the second one made %d of 600", n)
		}
	})
}
