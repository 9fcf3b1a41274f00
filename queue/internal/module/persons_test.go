package module_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/module"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// databases makes a new database of each engine, by name.
var databases = map[string]func(*testing.T) worker.Database{"sqlite": file}

const manyLetters = 2000

// manyDeliveries starts a config in whose lane support so many deliveries are in a state. Those that are
// retrying are due.
func manyDeliveries(t *testing.T, at worker.Database, many int, state db.State, paused bool) (running, *backends) {
	t.Helper()
	b := &backends{down: map[string]bool{}}
	q := start(t, nil, module.NewQueue(at, "intercom", options, b.handler("support", "billing")))
	if paused {
		q.last(q.post("/lanes/support/pause"))
	}
	stored := time.Now().Add(-time.Minute)
	var batch []db.Details
	for n := range many {
		id := fmt.Sprint("notif_", n)
		d := db.Delivery{Lane: "support", State: state, StoredAt: stored, AgeFrom: stored, Attempts: 1, Error: "backend answered 502"}
		if state == db.Dead {
			d.Reason, d.FinishedAt = db.Attempts, stored
		} else {
			d.DueAt = stored
		}
		batch = append(batch, db.Details{
			Notification: db.Notification{
				Endpoint: "intercom", Topic: "a.b", NotificationID: id, ReceivedAt: stored, Body: []byte(id),
				Request: db.Request{Method: "POST", URI: "/", Proto: "HTTP/1.1"},
			},
			Deliveries: []db.DeliveryDetails{{Delivery: d}},
		})
		if len(batch) == 100 {
			if n, err := q.queues[0].DB(t).(db.Mover).Import(t.Context(), batch); err != nil || n != len(batch) {
				t.Fatalf("imported %d: %v", n, err)
			}
			batch = nil
		}
	}
	return q, b
}

// together makes several requests at the same time, and returns how many deliveries each of them says it has changed.
func (q running) together(paths ...string) (done []int) {
	q.Helper()
	done = make([]int, len(paths))
	var asking sync.WaitGroup
	for n, path := range paths {
		asking.Go(func() {
			a := q.post(path)
			if len(a.lines) == 0 || a.lines[len(a.lines)-1]["error"] != nil {
				q.Errorf("%s: %d %v", path, a.status, a.lines)
				return
			}
			done[n] = int(a.lines[len(a.lines)-1]["done"].(float64))
		})
	}
	asking.Wait()
	return done
}

// deliveredOnce returns how many notifications the backend got, none of them twice.
func (q running) deliveredOnce(b *backends) int {
	q.Helper()
	seen := make(map[string]bool)
	twice := 0
	for _, body := range b.bodies() {
		if seen[body] {
			twice++
		}
		seen[body] = true
	}
	if twice > 0 {
		q.Errorf("%d deliveries were made twice", twice)
	}
	return len(seen)
}

func TestPersonsWhoChangeTheSameDeliveries(t *testing.T) {
	for engine, open := range databases {
		t.Run(engine+"/two retry the same dead letters", func(t *testing.T) {
			q, b := manyDeliveries(t, open(t), manyLetters, db.Dead, false)
			done := q.together("/deliveries/retry?state=dead", "/deliveries/retry?state=dead")
			q.eventually("support delivered", manyLetters)
			if n := q.deliveredOnce(b); n != manyLetters || done[0]+done[1] != manyLetters {
				t.Errorf("the backend got %d, and they were told %v", n, done)
			}
		})
		t.Run(engine+"/one retries and one drops the same dead letters", func(t *testing.T) {
			q, b := manyDeliveries(t, open(t), manyLetters, db.Dead, false)
			done := q.together("/deliveries/retry?state=dead", "/deliveries/drop?state=dead")
			q.eventually("support delivered", done[0])
			if n := q.deliveredOnce(b); n != done[0] || done[0]+done[1] != manyLetters || len(q.states()) > 1 {
				t.Errorf("the backend got %d, they were told %v, and there are %v", n, done, q.states())
			}
		})
		t.Run(engine+"/two retry what is being delivered", func(t *testing.T) {
			q, b := manyDeliveries(t, open(t), manyLetters, db.Retrying, true)
			q.last(q.post("/lanes/support/resume"))
			q.together("/deliveries/retry?state=retrying", "/deliveries/retry?state=waiting,retrying")
			q.eventually("support delivered", manyLetters)
			if n := q.deliveredOnce(b); n != manyLetters {
				t.Errorf("the backend got %d", n)
			}
		})
		t.Run(engine+"/two send the same dead letters to another lane, and one does so again", func(t *testing.T) {
			q, b := manyDeliveries(t, open(t), manyLetters, db.Dead, false)
			const path = "/deliveries/retry?state=dead&to=billing"
			done := q.together(path, path)
			q.eventually("billing delivered", manyLetters)
			again := q.together("/deliveries/retry?state=dead&lane=support&to=billing")
			time.Sleep(10 * time.Millisecond)
			if n := q.deliveredOnce(b); n != manyLetters || done[0]+done[1] != manyLetters || again[0] != 0 {
				t.Errorf("the backend got %d, they were told %v, and then %v", n, done, again)
			}
			if got := q.get("/deliveries?lane=support&limit=1"); len(got.lines) == 0 || got.lines[0]["reason"] != "cancelled" || got.lines[0]["error"] != "sent to billing" {
				t.Errorf("the old ones are %v", got.lines)
			}
		})
	}
}

// scrubbed counts how often the files of a database were scrubbed.
type scrubbed struct {
	db.DB
	db.Inspector
	db.Mover
	eraser db.Eraser
	times  *atomic.Int64
}

func (s scrubbed) Scrub(ctx context.Context, whole bool) (string, error) {
	s.times.Add(1)
	return s.eraser.Scrub(ctx, whole)
}

// The file was scrubbed once for each of the ids, and only 510 of 5,000 were erased in ten minutes.
func TestManyIDsAreErasedWithOneScrub(t *testing.T) {
	const many = 5000
	at := file(t)
	open := at.Open
	var times atomic.Int64
	at.Open = func(ctx context.Context, log *zap.Logger) (db.DB, error) {
		opened, err := open(ctx, log)
		if err != nil {
			return nil, err
		}
		return scrubbed{opened, opened.(db.Inspector), opened.(db.Mover), opened.(db.Eraser), &times}, nil
	}
	q, _ := manyDeliveries(t, at, many+100, db.Dead, false)
	form := make(url.Values)
	for n := range many {
		form.Add("notification", fmt.Sprint("notif_", n))
	}
	q.want(q.ask(http.MethodPost, "/deliveries/erase", form.Encode()), many, many, 0)
	if n := times.Load(); n != 1 {
		t.Errorf("scrubbed %d times", n)
	}
	if left := q.states(); len(left) != 1 || left["support dead"] != 100 {
		t.Errorf("left are %v", left)
	}
}

// A retry gives a dead letter its attempts again: with max_attempts 2, one more failure made it dead at once.
func TestARetryGivesTheWholeScheduleAgain(t *testing.T) {
	b := &backends{down: map[string]bool{"support": true}}
	twice := options
	twice.MaxAttempts = 2
	q := start(t, nil, module.NewQueue(file(t), "intercom", twice, b.handler("support")))
	for round := 1; round <= 2; round++ {
		if round == 1 {
			q.store("a.b", "support", "notif_1")
		} else {
			q.want(q.post("/deliveries/retry?state=dead"), 1, 1, 0)
		}
		q.eventually("support dead", 1)
		if n := len(b.bodies()); n != 2*round {
			t.Errorf("%d attempts after round %d, want %d", n, round, 2*round)
		}
	}
	found := q.last(q.get("/notifications/notif_1"))
	if history, _ := found["history"].([]any); len(history) != 4 || found["attempts"] != 2.0 {
		t.Errorf("it is %v", found)
	}
}
