package intercomwebhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
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

// Why there was no whole answer. These texts go to logs and into the queue. Errors of
// handlers and of net/http do not: they may quote the answer or the notification.
var (
	errUnrouted    = errors.New("no route for this topic")
	errUnhandled   = errors.New("no handler of the route answered")
	errTimeout     = errors.New("backend did not answer in time")
	errNoAnswer    = errors.New("backend gave no valid answer")
	errMalformed   = errors.New("backend's answer is not valid HTTP")
	errCutShort    = errors.New("backend's answer was cut short")
	errHungUp      = errors.New("backend hung up before it answered")
	errNoUpstream  = errors.New("no upstream is available")
	errUnreachable = errors.New("backend could not be reached")
	errTooSlow     = errors.New("backend is slower than a time limit of the route's own")
	errTLS         = errors.New("TLS handshake with the backend failed")
	errConnection  = errors.New("connection to the backend failed")
	errHandler     = errors.New("a handler of the route failed")
)

// panicError is a panic of a handler or a matcher. The panic's value is not kept, as it
// may quote the notification; only its type and, if it is one of the runtime's errors,
// its text.
type panicError struct {
	value string
	stack []byte
}

func (*panicError) Error() string { return "a handler of the route panicked" }

// catchPanic, when it is deferred, turns a panic into an error.
func catchPanic(err *error) {
	switch p := recover().(type) {
	case nil:
	case runtime.Error:
		*err = &panicError{value: p.Error(), stack: debug.Stack()}
	default:
		if p == http.ErrAbortHandler { //nolint:errorlint // a panic's value, compared as net/http does
			// With this panic reverse_proxy reports that an answer broke off midway,
			// and the abort directive that there shall be none.
			*err = errCutShort
			return
		}
		*err = &panicError{value: fmt.Sprintf("%T", p), stack: debug.Stack()}
	}
}

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
	err := serve(handler, s, r)
	if _, panicked := errors.AsType[*panicError](err); panicked {
		return s.status, err
	}
	if gone := r.Context().Err(); gone != nil && (err != nil || !intercom.Accepts(s.status)) {
		// all else is a consequence of this
		if errors.Is(gone, context.DeadlineExceeded) {
			return 0, errTimeout
		}
		return 0, gone
	}
	if err != nil && err != errCutShort { //nolint:errorlint // serve's own
		err = failure(err)
	}
	if err == nil && s.status == 0 {
		err = errNoAnswer
		if fellThrough, _ := caddyhttp.GetVar(r.Context(), unhandledVar).(bool); fellThrough {
			err = errUnhandled
		}
	}
	return s.status, err
}

// serve runs a handler, and returns a panic of it as an error: errCutShort if it is
// http.ErrAbortHandler, else a panicError.
func serve(handler caddyhttp.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer catchPanic(&err)
	return handler.ServeHTTP(w, r)
}

// failure returns the error to tell instead of one that a handler returned.
func failure(err error) error {
	network, _ := errors.AsType[net.Error](err)
	operation, _ := errors.AsType[*net.OpError](err)
	errno, hasErrno := errors.AsType[syscall.Errno](err)
	switch {
	case isA[reverseproxy.DialError](err):
		return dialFailure(err)
	case isA[*tls.CertificateVerificationError](err), isA[tls.RecordHeaderError](err),
		operation != nil && operation.Op == "remote error": // an alert
		return errTLS
	case network != nil && network.Timeout():
		return errTooSlow
	case operation != nil && hasErrno:
		return fmt.Errorf("%w: %w", errConnection, errno)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errHungUp
	}
	handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err)
	switch {
	case !ok:
		return errHandler
	case !strings.HasPrefix(handlerErr.Trace, "reverseproxy."), handlerErr.Err == nil:
		// where it was made, as its text may not be told
		return fmt.Errorf("%w: status %d from %s", errHandler, handlerErr.StatusCode, handlerErr.Trace)
	}
	text := handlerErr.Err.Error()
	switch {
	case text == "no upstreams available":
		return errNoUpstream
	case strings.Contains(text, "malformed"), strings.Contains(text, "transport connection broken"):
		return errMalformed
	default:
		return errNoAnswer
	}
}

// dialFailures are the endings of texts of dial errors, which reverse_proxy does not
// let unwrap. What is in front of them may come from a placeholder.
var dialFailures = []string{
	syscall.ECONNREFUSED.Error(), syscall.ECONNRESET.Error(), syscall.EHOSTUNREACH.Error(), syscall.ENETUNREACH.Error(),
	syscall.EADDRNOTAVAIL.Error(), syscall.EACCES.Error(), syscall.ENOENT.Error(), syscall.EMFILE.Error(),
	"i/o timeout", "no such host", "server misbehaving",
}

func dialFailure(err error) error {
	text := err.Error()
	for _, ending := range dialFailures {
		if strings.HasSuffix(text, ": "+ending) {
			return fmt.Errorf("%w: %s", errUnreachable, ending)
		}
	}
	return errUnreachable
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// shieldedStatus is what Intercom is told of a backend's answer: 410 would end the
// subscription, 429 throttle it, and a redirect or a client error is as much a
// failed delivery as a server error.
func shieldedStatus(status int, err error) int {
	switch {
	case errors.Is(err, errTimeout):
		return http.StatusGatewayTimeout
	case err != nil:
		return http.StatusBadGateway
	case intercom.Accepts(status):
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
