package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSenderSendsSignedNotifications(t *testing.T) {
	bodies := make(chan []byte, 3)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("X-Hub-Signature") == "" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		bodies <- body
	}))
	defer server.Close()
	before := time.Now()
	s := attack(context.Background(), sending{Address: server.Listener.Addr().String(), Path: "/", Connections: 2, Rate: 1000, Count: 3})
	if s.OK != 3 || len(s.Others) > 0 || s.P50 <= 0 || s.P99 < s.P50 {
		t.Errorf("sent %+v, want 3 that were answered with 200, and their times", s)
	}
	for range 3 {
		body := <-bodies
		var envelope struct{ ID string }
		if err := json.Unmarshal(body, &envelope); err != nil || len(body) != bodySize {
			t.Fatalf("a body of %d bytes (%v), want JSON of %d", len(body), err, bodySize)
		}
		if at, ok := dueAt(envelope.ID); !ok || at.Before(before) || at.After(time.Now()) {
			t.Errorf("%q was due at %s, %v", envelope.ID, at, ok)
		}
	}
}

func TestSenderTellsWhatElseCame(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer server.Close()
	s := attack(context.Background(), sending{Address: server.Listener.Addr().String(), Path: "/", Connections: 2, Count: 3})
	if s.OK != 0 || s.Others["503"] != 3 || s.err() == nil {
		t.Errorf("sent %+v, want 3 that were answered with 503", s)
	}
}

func TestIDOfAnother(t *testing.T) {
	for _, id := range []string{"", "notif_", "notif_12", "notif_x_1", "12_1"} {
		if _, ok := dueAt(id); ok {
			t.Errorf("%q tells when it was due", id)
		}
	}
}

func deliver(s *server, id string) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
	if id != "" {
		r.Header.Set("X-Intercom-Notification-Id", id)
	}
	s.accept(httptest.NewRecorder(), r)
}

// count returns what the server has taken.
func count(s *server) (t taken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return taken{Deliveries: s.deliveries, Notifications: len(s.ids), P50: s.lag.Quantile(0.50)}
}

func TestBackendCounts(t *testing.T) {
	s := &server{}
	s.start()
	id := newID(time.Now().Add(-time.Second), 1)
	deliver(s, id)
	deliver(s, id)
	deliver(s, "") // from the bare reverse_proxy
	got := count(s)
	if got.Deliveries != 3 || got.Notifications != 1 {
		t.Errorf("%d deliveries of %d notifications, want 3 of 1", got.Deliveries, got.Notifications)
	}
	if got.P50 < time.Second {
		t.Errorf("it came after %s, want at least a second", got.P50)
	}
}

func TestBackendHangsWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		s.start()
		s.pause()
		go deliver(s, newID(time.Now(), 1))
		synctest.Wait()
		if n := count(s).Deliveries; n != 0 {
			t.Errorf("%d deliveries while it is paused, want none", n)
		}
		s.resume()
		synctest.Wait()
		if n := count(s).Deliveries; n != 1 {
			t.Errorf("%d deliveries after it went on, want 1", n)
		}
	})
}

func TestTableHasMediansAndRatios(t *testing.T) {
	b := newBench(options{gateways: []string{"new/caddy", "old/caddy"}}, sqlite)
	for build, values := range [][]float64{{200, 400, 300}, {100, 100, 100}} {
		for _, value := range values {
			(&rig{bench: b, build: build}).add("something", perSecond, value)
		}
	}
	var table strings.Builder
	b.print(&table)
	for _, want := range []string{"| build 1 (new/caddy) | build 2 (old/caddy) | 1 to 2 |", "| something | 300/s (200 to 400) | 100/s (100 to 100) | 3.00 (2.00 to 4.00) |"} {
		if !strings.Contains(strings.ReplaceAll(table.String(), "| sqlite ", ""), want) {
			t.Errorf("the table lacks %q:\n%s", want, &table)
		}
	}
}
