package module_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/module"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// orderBackend takes what is about an object one after the other, and reports what is not so.
type orderBackend struct {
	*testing.T
	mu      sync.Mutex
	running map[string]bool
	newest  map[string]int64
	stale   int
	fails   int // so many attempts fail
}

type orderBody struct {
	Data struct {
		Item struct {
			Type string `json:"type"`
			ID   string `json:"id"`
			Part string `json:"part"`
		} `json:"item"`
	} `json:"data"`
	CreatedAt int64 `json:"created_at"`
}

func (b *orderBackend) handler(object func(orderBody) string) intercomwebhook.Endpoint {
	e := intercomwebhook.Endpoint{ConfigHash: "hash", Lanes: []intercomwebhook.Lane{{Name: "support"}}}
	e.Route = func(_ *http.Request, body []byte, attempt intercomwebhook.Attempt, _ string) (string, func() intercomwebhook.Delivery) {
		return "support", func() intercomwebhook.Delivery {
			var got orderBody
			if err := json.Unmarshal(body, &got); err != nil {
				b.Error(err)
			}
			key := object(got)
			b.mu.Lock()
			if b.running[key] {
				b.Errorf("two of %s at once", key)
			}
			b.running[key] = true
			b.mu.Unlock()
			time.Sleep(time.Millisecond)
			b.mu.Lock()
			defer b.mu.Unlock()
			b.running[key] = false
			if b.fails > 0 {
				b.fails--
				return intercomwebhook.Delivery{Err: errors.New("backend answered 503"), Status: 503}
			}
			late := got.CreatedAt < b.newest[key]
			if late && !attempt.Stale {
				b.Errorf("%d of %s came after %d", got.CreatedAt, key, b.newest[key])
			}
			if attempt.Stale {
				b.stale++
			}
			b.newest[key] = max(b.newest[key], got.CreatedAt)
			return intercomwebhook.Delivery{Status: 200}
		}
	}
	return e
}

func TestAnOrderedLane(t *testing.T) {
	const count = 300
	for name, c := range map[string]struct {
		options worker.LaneOptions
		object  func(orderBody) string
	}{
		"by its object": {worker.LaneOptions{Ordered: true, Hold: 50 * time.Millisecond}, func(b orderBody) string { return b.Data.Item.Type + b.Data.Item.ID }},
		"by a field":    {worker.LaneOptions{Ordered: true, OrderBy: "data.item.part"}, func(b orderBody) string { return b.Data.Item.Part }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &orderBackend{T: t, running: make(map[string]bool), newest: make(map[string]int64), fails: 3}
			ordered := options
			c.options.Workers, c.options.DeliveryTimeout, c.options.MaxAge = 8, ordered.DeliveryTimeout, ordered.MaxAge
			ordered.Lanes = map[string]worker.LaneOptions{"support": c.options}
			q := start(t, nil, module.NewQueue(file(t), "intercom", ordered, b.handler(c.object)))
			var storing sync.WaitGroup
			order := rand.Perm(count)
			for part := range 4 {
				storing.Go(func() {
					for _, at := range order[part*count/4 : (part+1)*count/4] {
						body := fmt.Sprintf(`{"data":{"item":{"type":"conversation","id":"%d","part":"%d"}},"created_at":%d}`, at%10, at%7, 1764500000+at)
						n := intercomwebhook.Notification{Topic: "conversation.user.replied", Workspace: "tulip4", ID: fmt.Sprint(at), Lane: "support", Body: []byte(body)}
						if _, err := q.queues[0].Store(httptest.NewRequest(http.MethodPost, "/", nil), n); err != nil {
							t.Error(err)
						}
					}
				})
			}
			storing.Wait()
			q.eventually("support delivered", count)
			b.mu.Lock()
			defer b.mu.Unlock()
			t.Logf("%d were stale", b.stale)
		})
	}
}

// What was stored for an ordered lane is delivered, too, when the lane is not ordered any more.
func TestALaneThatIsNotOrderedAnyMore(t *testing.T) {
	b, at, ordered := &backends{}, file(t), options
	ordered.Ordered, ordered.Hold = true, time.Second
	before := start(t, nil, module.NewQueue(at, "intercom", ordered, b.handler("support")))
	for i := range 3 {
		body := `{"data":{"item":{"type":"conversation","id":"123"}}}`
		n := intercomwebhook.Notification{Topic: "conversation.user.replied", ID: fmt.Sprint("notif_", i), Lane: "support", Body: []byte(body)}
		if _, err := before.queues[0].Store(httptest.NewRequest(http.MethodPost, "/", nil), n); err != nil {
			t.Fatal(err)
		}
	}
	before.Stop()
	start(t, nil, module.NewQueue(at, "intercom", options, b.handler("support"))).eventually("support delivered", 3)
}

func TestWhatIsHeldBackIsShown(t *testing.T) {
	b := &backends{down: map[string]bool{"support": true}}
	ordered := options
	ordered.MaxAttempts = 0
	ordered.Ordered = true
	q := start(t, nil, module.NewQueue(file(t), "intercom", ordered, b.handler("support")))
	for i := range 3 {
		body := fmt.Sprintf(`{"data":{"item":{"type":"conversation","id":"123"}},"created_at":%d}`, 1764500000+i)
		n := intercomwebhook.Notification{Topic: "conversation.user.replied", ID: fmt.Sprint("notif_", i), Lane: "support", Body: []byte(body)}
		if _, err := q.queues[0].Store(httptest.NewRequest(http.MethodPost, "/", nil), n); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		held, _ := q.get("/lanes").lines[0]["held_back"].(map[string]any)
		if held["objects"] == 1.0 && held["by"] == "notif_0" && len(b.bodies()) > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("held back: %v", held)
		}
	}
	q.want(q.post("/deliveries/drop?notification=notif_0&state=retrying,waiting"), 1, 1, 0)
	b.set("support", false)
	q.eventually("support delivered", 2)
}
