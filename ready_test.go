package intercomwebhook

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// readyQueue is a Queue that is as ready as its test says.
type readyQueue struct {
	Queue
	ready func() error
}

func (q *readyQueue) Ready() error { return q.ready() }

func TestReady(t *testing.T) {
	var failure error
	queue := &readyQueue{ready: func() error { return failure }}
	core, logs := observer.New(zap.InfoLevel)
	a := &handlersApp{handlers: []appHandler{{ready: queue.Ready}, {}, {ready: queue.Ready}}}
	h := &Ready{check: a.ready, logger: zap.New(core)}
	for i, step := range []struct {
		err    error
		status int
		text   string
		logged string
	}{
		{nil, 503, "not ready\n", "not ready: a notification could not be stored now"}, // it is not started
		{nil, 200, "ready\n", "ready again"},
		{errors.New("disk is full"), 503, "not ready\n", "not ready: a notification could not be stored now"},
		{errors.New("disk is full"), 503, "not ready\n", ""},
		{nil, 200, "ready\n", "ready again"},
	} {
		failure = step.err
		if i == 1 {
			if err := a.Start(); err != nil {
				t.Fatal(err)
			}
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/ready", nil)
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
		if err := h.ServeHTTP(w, r, nil); err != nil {
			t.Fatal(err)
		}
		if w.Code != step.status || w.Body.String() != step.text || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("got %d %q", w.Code, w.Body)
		}
		var logged string
		for _, entry := range logs.TakeAll() {
			logged += entry.Message
		}
		if logged != step.logged {
			t.Errorf("logged %q, want %q", logged, step.logged)
		}
	}
}
