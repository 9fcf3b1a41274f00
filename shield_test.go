package intercomwebhook

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestShieldedStatus(t *testing.T) {
	for backend, want := range map[int]int{
		200: 200, 201: 200, 202: 200, 204: 200, 299: 200,
		101: 502, 300: 502, 301: 502, 304: 502, 400: 502, 401: 502, 404: 502, 410: 502, 499: 502, 500: 502, 502: 502, 504: 502, 600: 502,
		429: 503, 503: 503,
	} {
		if got := shieldedStatus(backend, nil); got != want {
			t.Errorf("backend answered %d: Intercom is told %d instead of %d", backend, got, want)
		}
	}
	for name, tc := range map[string]struct {
		err  error
		want int
	}{
		"no answer":             {errNoAnswer, 502},
		"connection refused":    {caddyhttp.Error(502, errors.New("connection refused")), 502},
		"no upstream is up":     {caddyhttp.Error(503, errors.New("no upstreams available")), 502},
		"upstream timed out":    {caddyhttp.Error(504, context.DeadlineExceeded), 502},
		"our own time is up":    {errTimeout, 504},
		"Intercom has gone":     {context.Canceled, 502},
		"200, and then nothing": {errCutShort, 502},
	} {
		if got := shieldedStatus(200, tc.err); got != tc.want {
			t.Errorf("%s: Intercom is told %d instead of %d", name, got, tc.want)
		}
	}
}

func TestShieldRun(t *testing.T) {
	failure := errors.New("failure")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()

	for name, tc := range map[string]struct {
		ctx    context.Context // default: the test's
		handle func(w http.ResponseWriter) error
		status int
		err    error
	}{
		"a status": {
			handle: func(w http.ResponseWriter) error { w.WriteHeader(410); return nil },
			status: 410,
		},
		"a body without a status": {
			handle: func(w http.ResponseWriter) error { _, err := w.Write([]byte("body")); return err },
			status: 200,
		},
		"interim answers before the final one": {
			handle: func(w http.ResponseWriter) error {
				w.WriteHeader(100)
				w.WriteHeader(103)
				w.WriteHeader(204)
				return nil
			},
			status: 204,
		},
		"two final answers": {
			handle: func(w http.ResponseWriter) error { w.WriteHeader(500); w.WriteHeader(200); return nil },
			status: 500,
		},
		"an upgrade": {
			handle: func(w http.ResponseWriter) error {
				w.WriteHeader(101)
				if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
					return errors.New("hijacked")
				}
				w.WriteHeader(200)
				return nil
			},
			status: 101,
		},
		"nothing at all": {
			handle: func(http.ResponseWriter) error { return nil },
			err:    errNoAnswer,
		},
		"an error": {
			handle: func(http.ResponseWriter) error { return failure },
			err:    failure,
		},
		"an answer that breaks off": {
			handle: func(w http.ResponseWriter) error { w.WriteHeader(200); panic(http.ErrAbortHandler) },
			status: 200,
			err:    errCutShort,
		},
		"an error because Intercom has gone": {
			ctx:    gone,
			handle: func(w http.ResponseWriter) error { w.WriteHeader(499); return nil },
			err:    context.Canceled,
		},
		"an error because time was up": {
			ctx:    late,
			handle: func(w http.ResponseWriter) error { w.WriteHeader(200); panic(http.ErrAbortHandler) },
			err:    errTimeout,
		},
		"an answer that is not HTTP": {
			handle: func(http.ResponseWriter) error {
				return caddyhttp.Error(502, errors.New(`malformed HTTP status code "{\"type\":"`))
			},
			err: errMalformed,
		},
		"success although Intercom has gone": {
			ctx:    gone,
			handle: func(w http.ResponseWriter) error { w.WriteHeader(200); return nil },
			status: 200,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			if tc.ctx != nil {
				r = r.WithContext(tc.ctx)
			}
			status, err := newShield().run(caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				return tc.handle(w)
			}), r)
			if status != tc.status || !errors.Is(err, tc.err) {
				t.Errorf("got %d, %v; want %d, %v", status, err, tc.status, tc.err)
			}
		})
	}
}

func TestOtherPanicsAreNotHidden(t *testing.T) {
	defer func() {
		if p := recover(); p != "bug" {
			t.Errorf("recovered %v", p)
		}
	}()
	_, _ = newShield().run(caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		panic("bug")
	}), httptest.NewRequest(http.MethodPost, "/", nil))
}

// countingWriter would race with a second writer.
type countingWriter struct {
	header http.Header
	status int
	writes int

	written chan struct{} // closed when something is
}

func (w *countingWriter) Header() http.Header         { return w.header }
func (w *countingWriter) Write(p []byte) (int, error) { return len(p), nil }

func (w *countingWriter) WriteHeader(status int) {
	w.status = status
	w.writes++
	if w.written != nil {
		close(w.written)
	}
}

func TestIntercomGetsOneAnswer(t *testing.T) {
	for range 100 {
		w := &countingWriter{header: make(http.Header)}
		a := &answer{w: w}
		release := a.giveWhenDue(time.Now().Add(time.Microsecond), 1)
		status, at := a.give(http.StatusOK)
		release()
		if w.writes != 1 || w.status != status || at.IsZero() || w.header.Get("Content-Length") != "0" {
			t.Fatalf("wrote %d times, last %d, reported %d", w.writes, w.status, status)
		}
	}
}

func TestAnswerIsGivenWhenDue(t *testing.T) {
	for protoMajor, connection := range map[int]string{1: "close", 2: ""} {
		w := &countingWriter{header: make(http.Header), written: make(chan struct{})}
		a := &answer{w: w}
		release := a.giveWhenDue(time.Now(), protoMajor)
		<-w.written
		if status, _ := a.give(http.StatusOK); status != http.StatusGatewayTimeout || w.header.Get("Connection") != connection {
			t.Errorf("HTTP/%d: answered %d with %v", protoMajor, status, w.header)
		}
		release()
	}
}
