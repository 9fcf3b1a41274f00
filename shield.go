package intercomwebhook

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// shield takes a backend's answer in Intercom's stead. It keeps the status and
// lets all else go: Intercom has no use for it, and a body could still break off
// after its 200. It cannot be unwrapped or hijacked, so no upgrade gets past it.
type shield struct {
	header http.Header
	status int // final status, 0 until there is one
}

func newShield() *shield { return &shield{header: make(http.Header)} }

func (s *shield) Header() http.Header { return s.header }

// WriteHeader keeps the first final status. Interim ones (1xx) announce another
// answer; switching protocols (101) does not, it takes its place.
func (s *shield) WriteHeader(status int) {
	if s.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		s.status = status
	}
}

func (s *shield) Write(p []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	return len(p), nil
}

// Flush is there for handlers that stream, and does nothing.
func (s *shield) Flush() {}

var (
	errUnrouted  = errors.New("no route for this topic")
	errUnhandled = errors.New("no handler of the route answered")
	errTimeout   = errors.New("backend did not answer in time")
	errNoAnswer  = errors.New("backend gave no valid answer")
	errMalformed = errors.New("backend's answer is not HTTP")
	errCutShort  = errors.New("backend's answer was cut short")
)

// unhandledVar is the variable that Caddy itself sets when no handler has answered.
const unhandledVar = "unhandled"

// unhandled ends the handlers of a route.
var unhandled caddyhttp.Handler = caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
	caddyhttp.SetVar(r.Context(), unhandledVar, true)
	return nil
})

// run lets a handler answer a notification, and returns the status it answered
// with, or an error if that never became a whole answer.
func (s *shield) run(handler caddyhttp.Handler, r *http.Request) (int, error) {
	err := s.serve(handler, r)
	if gone := r.Context().Err(); gone != nil && (err != nil || !success(s.status)) {
		// all else is a consequence of this
		if errors.Is(gone, context.DeadlineExceeded) {
			return 0, errTimeout
		}
		return 0, gone
	}
	if err == nil && s.status == 0 {
		err = errNoAnswer
		if fellThrough, _ := caddyhttp.GetVar(r.Context(), unhandledVar).(bool); fellThrough {
			err = errUnhandled
		}
	}
	if err != nil && strings.Contains(err.Error(), "malformed") {
		err = errMalformed // net/http quotes the answer, which may quote the notification
	}
	return s.status, err
}

func (s *shield) serve(handler caddyhttp.Handler, r *http.Request) (err error) {
	defer func() {
		// With this panic reverse_proxy reports that an answer broke off midway,
		// and the abort directive that there shall be none.
		if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // a panic's value, compared as net/http does
			err = errCutShort
		} else if p != nil {
			panic(p)
		}
	}()
	return handler.ServeHTTP(s, r)
}

func success(status int) bool { return status >= 200 && status <= 299 }

// shieldedStatus is what Intercom is told of a backend's answer: 410 would end the
// subscription, 429 throttle it, and a redirect or a client error is as much a
// failed delivery as a server error.
func shieldedStatus(status int, err error) int {
	switch {
	case errors.Is(err, errTimeout):
		return http.StatusGatewayTimeout
	case err != nil:
		return http.StatusBadGateway
	case success(status):
		return http.StatusOK
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusBadGateway
	}
}

// answer is the one answer that Intercom gets, from whoever gives it first.
type answer struct {
	w      http.ResponseWriter
	once   sync.Once
	status int
	at     time.Time
}

// give answers with an empty body. It returns the status that Intercom got, and when.
func (a *answer) give(status int) (int, time.Time) {
	a.once.Do(func() { a.write(status) })
	return a.status, a.at
}

// giveWhenDue answers 504 as soon as the deadline has passed, even if the handlers
// do not heed it: Intercom waits for 5 s and no longer. (HTTP/2 and 3 then still end
// the stream when the handlers return.) The returned function must be called before
// the ResponseWriter's own handler returns.
func (a *answer) giveWhenDue(deadline time.Time, protoMajor int) (release func()) {
	clock := time.AfterFunc(time.Until(deadline), func() {
		a.once.Do(func() {
			if protoMajor == 1 { // the connection stays busy until the handlers return
				a.w.Header()["Connection"] = []string{"close"}
			}
			a.write(http.StatusGatewayTimeout)
			_ = http.NewResponseController(a.w).Flush()
		})
	})
	return func() {
		clock.Stop()
		a.once.Do(func() {}) // waits for an answer being given, and prevents a later one
	}
}

func (a *answer) write(status int) {
	a.status, a.at = status, time.Now()
	a.w.Header()["Content-Length"] = []string{"0"}
	a.w.WriteHeader(status)
}
