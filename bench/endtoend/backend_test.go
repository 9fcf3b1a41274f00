package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func deliver(s *server, id string) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
	if id != "" {
		r.Header.Set("X-Intercom-Notification-Id", id)
	}
	s.take(httptest.NewRecorder(), r)
}

// count returns what the server has taken.
func count(s *server) taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	return taken{Deliveries: s.deliveries, Notifications: len(s.ids), P50: s.lag.Percentile(50)}
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
