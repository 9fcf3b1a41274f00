package intercomwebhook

import (
	"context"
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
	ready func(context.Context) error
}

func (q *readyQueue) Ready(ctx context.Context) error { return q.ready(ctx) }

func TestReady(t *testing.T) {
	var failure error
	queue := &readyQueue{ready: func(context.Context) error { return failure }}
	core, logs := observer.New(zap.InfoLevel)
	h := &Ready{readiness: &readiness{queues: []Queue{queue, queue}}, logger: zap.New(core)}
	for _, step := range []struct {
		err    error
		status int
		text   string
		logged string
	}{
		{nil, 200, "ready\n", ""},
		{errors.New("disk is full"), 503, "not ready\n", "not ready: a notification could not be stored now"},
		{errors.New("disk is full"), 503, "not ready\n", ""},
		{nil, 200, "ready\n", "ready again"},
	} {
		failure = step.err
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

func TestReadinessIsAnsweredInTime(t *testing.T) {
	hanging := &readyQueue{ready: func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}}
	a := &readiness{queues: []Queue{hanging}}
	if err := a.check(t.Context()); !errors.Is(err, errNotReadySoon) {
		t.Errorf("error %v", err)
	}
}
