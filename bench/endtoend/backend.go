package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

const backendRole = "backend"

// backend is the process that notifications are delivered to.
type backend struct {
	*child
	Address, Control string
}

// taken is what a backend has taken since it was told to start anew.
type taken struct {
	Deliveries, Notifications int
	P50, P99                  time.Duration // from when they were due to be sent to the delivery
	OthersP50, OthersP99      time.Duration // the same, of other workspaces
	Reached                   time.Time     // the number that was waited for
}

func startBackend(ctx context.Context) (*backend, error) {
	c, err := startChild(ctx, backendRole, struct{}{})
	if err != nil {
		return nil, err
	}
	b := &backend{child: c}
	if err := c.answer(b); err != nil {
		c.end()
		return nil, err
	}
	return b, nil
}

// tell gives the backend an order: /reset, /pause, /resume, /count or /quiet.
func (b *backend) tell(ctx context.Context, path string) (t taken, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+b.Control+path, nil)
	if err != nil {
		return t, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return t, err
	}
	defer response.Body.Close()
	return t, json.NewDecoder(response.Body).Decode(&t)
}

// wait waits until the backend has taken so many notifications.
func (b *backend) wait(ctx context.Context, notifications int) (taken, error) {
	t, err := b.tell(ctx, "/wait?notifications="+strconv.Itoa(notifications))
	if err == nil && t.Reached.IsZero() {
		err = fmt.Errorf("only %d of %d notifications were delivered, and no more within %s", t.Notifications, notifications, longestGap)
	}
	return t, err
}

// runBackend takes deliveries until its standard input ends.
func runBackend() error {
	ctx, err := order(&struct{}{})
	if err != nil {
		return err
	}
	s := &server{}
	s.start()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/reset", s.tells(func(*http.Request, *taken) { s.start() }))
	mux.HandleFunc("/pause", s.tells(func(*http.Request, *taken) { s.pause() }))
	mux.HandleFunc("/resume", s.tells(func(*http.Request, *taken) { s.resume() }))
	mux.HandleFunc("/count", s.tells(func(*http.Request, *taken) {}))
	mux.HandleFunc("/quiet", s.tells(func(r *http.Request, _ *taken) { s.waitUntilQuiet(r.Context()) }))
	mux.HandleFunc("/wait", s.tells(s.wait))
	ended := make(chan error, 2)
	go func() { ended <- http.Serve(listener, http.HandlerFunc(s.accept)) }()
	go func() { ended <- http.Serve(control, mux) }()
	if err := reply(backend{Address: listener.Addr().String(), Control: control.Addr().String()}); err != nil {
		return err
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// server counts what it takes.
type server struct {
	mu         sync.Mutex
	paused     chan struct{} // closed when it goes on; nil if it is not paused
	deliveries int
	last       time.Time // when the last delivery came
	ids        map[string]struct{}
	times      []time.Time // when each notification came for the first time
	lag        vegeta.LatencyMetrics
	othersLag  vegeta.LatencyMetrics
}

func (s *server) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliveries, s.ids, s.times, s.last = 0, make(map[string]struct{}), nil, time.Now()
	s.lag, s.othersLag = vegeta.LatencyMetrics{}, vegeta.LatencyMetrics{}
}

func (s *server) pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = make(chan struct{})
}

func (s *server) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.paused)
	s.paused = nil
}

// accept takes a delivery. While it is paused, deliveries hang.
func (s *server) accept(_ http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	s.mu.Lock()
	paused := s.paused
	s.mu.Unlock()
	if paused != nil {
		select {
		case <-paused:
		case <-r.Context().Done():
			return
		}
	}
	s.count(r.Header.Get("X-Intercom-Notification-Id"), r.Header.Get("X-Intercom-App-Id"))
}

// count counts a delivery. There is no id if it comes from the bare reverse_proxy.
func (s *server) count(id, workspace string) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliveries, s.last = s.deliveries+1, now
	if _, again := s.ids[id]; again || id == "" {
		return
	}
	s.ids[id] = struct{}{}
	s.times = append(s.times, now)
	if at, ok := dueAt(id); ok {
		s.lag.Add(now.Sub(at))
		if workspace != usualWorkspace {
			s.othersLag.Add(now.Sub(at))
		}
	}
}

// tells lets f do its part of the answer, and answers.
func (s *server) tells(f func(*http.Request, *taken)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var t taken
		f(r, &t)
		s.mu.Lock()
		t.Deliveries, t.Notifications = s.deliveries, len(s.ids)
		t.P50, t.P99 = s.lag.Quantile(0.50), s.lag.Quantile(0.99)
		t.OthersP50, t.OthersP99 = s.othersLag.Quantile(0.50), s.othersLag.Quantile(0.99)
		s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(t) // who asked may be gone
	}
}

// longestGap is how long is waited for the next delivery that should come.
const longestGap = time.Minute

func (s *server) wait(r *http.Request, t *taken) {
	n, err := strconv.Atoi(r.URL.Query().Get("notifications"))
	if err != nil || n < 1 {
		return
	}
	last := time.Now()
	for time.Since(last) < longestGap && r.Context().Err() == nil {
		time.Sleep(time.Millisecond)
		s.mu.Lock()
		if len(s.times) >= n {
			t.Reached = s.times[n-1]
			s.mu.Unlock()
			return
		}
		if len(s.times) > 0 && s.times[len(s.times)-1].After(last) {
			last = s.times[len(s.times)-1]
		}
		s.mu.Unlock()
	}
}

// quietAfterKill is longer than it takes until what a killed gateway held is delivered again.
const quietAfterKill = 75 * time.Second

// waitUntilQuiet waits until no delivery has come for a while.
func (s *server) waitUntilQuiet(ctx context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		left := quietAfterKill - time.Since(s.last)
		s.mu.Unlock()
		if left <= 0 {
			return
		}
		time.Sleep(min(left, time.Second))
	}
}
