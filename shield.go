package intercomwebhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// shield takes a backend's answer instead of Intercom. It keeps the status and the first
// maxAnswer bytes of the body, and drops the rest. Intercom gets none of it, because a
// body could still break off after its 200. It cannot be unwrapped or hijacked, so a
// backend cannot switch protocols.
type shield struct {
	header http.Header
	status int // final status, 0 until there is one
	answer []byte
}

// maxAnswer is how much of an answer's body is kept for people to read, in bytes.
const maxAnswer = 1 << 10

func newShield() *shield { return &shield{header: make(http.Header)} }

func (s *shield) Header() http.Header { return s.header }

// WriteHeader keeps the first final status. After an interim status (1xx) another one
// follows, except after 101 (switching protocols), which is final.
func (s *shield) WriteHeader(status int) {
	if s.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		s.status = status
	}
}

func (s *shield) Write(p []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	s.answer = append(s.answer, p[:min(len(p), maxAnswer-len(s.answer))]...)
	return len(p), nil
}

// Flush does nothing. Handlers that stream need it.
func (s *shield) Flush() {}

// The errors of a delivery. Their texts go to logs and into the queue. Errors of handlers
// and of net/http do not, because they may quote the answer or the notification.
var (
	errStatus      = errors.New("backend answered") // followed by a status that is not 2xx
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

// panicError is the panic of a handler or a matcher. value is the type of the panic's value
// or, for an error of the Go runtime, its text. Other texts may quote the notification.
type panicError struct {
	value string
	stack []byte
}

func (*panicError) Error() string { return "a handler of the route panicked" }

// catchPanic must be deferred. It turns a panic into an error.
func catchPanic(err *error) {
	switch p := recover().(type) {
	case nil:
	case runtime.Error:
		*err = &panicError{value: p.Error(), stack: debug.Stack()}
	default:
		if p == http.ErrAbortHandler { //nolint:errorlint // a panic's value, compared as net/http does
			// reverse_proxy panics with this value if an answer broke off, and the
			// abort directive if there is to be no answer.
			*err = errCutShort
			return
		}
		*err = &panicError{value: fmt.Sprintf("%T", p), stack: debug.Stack()}
	}
}

// unhandledVar is the variable that Caddy sets, too, when no handler has answered.
const unhandledVar = "unhandled"

// unhandled is the handler after the last one of a route.
var unhandled caddyhttp.Handler = caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
	caddyhttp.SetVar(r.Context(), unhandledVar, true)
	return nil
})

// run runs the handlers of a route, and returns what came of it. Err is set unless the
// whole answer is a good one.
func (s *shield) run(handler caddyhttp.Handler, r *http.Request) Delivery {
	err := serve(handler, s, r)
	d := Delivery{
		Upstream:   upstream(r),
		Status:     s.status,
		Answer:     s.answer,
		RetryAfter: parseRetryAfter(s.header.Get("Retry-After"), time.Now()),
	}
	if _, panicked := errors.AsType[*panicError](err); panicked {
		d.Err = err
		return d
	}
	if gone := r.Context().Err(); gone != nil && (err != nil || !intercom.Accepts(s.status)) {
		// Whatever the handlers report is a consequence of this.
		d.Status, d.Answer, d.Err = 0, nil, gone
		if errors.Is(gone, context.DeadlineExceeded) {
			d.Err = errTimeout
		}
		return d
	}
	fellThrough, _ := caddyhttp.GetVar(r.Context(), unhandledVar).(bool)
	switch {
	case err == errCutShort: //nolint:errorlint // returned by serve itself
		d.Err = err
	case err != nil:
		d.Err = safeError(err)
	case s.status == 0 && fellThrough:
		d.Err = fmt.Errorf("%w: no handler of the route answered", ErrUnrouted)
	case s.status == 0:
		d.Err = errNoAnswer
	default:
		d.Err = statusError(s.status)
	}
	return d
}

// upstream returns the address of the backend that reverse_proxy chose last, empty if it
// chose none. An address may come from a placeholder, and goes to logs: one that cannot be an
// address, because it has a space for example, is omitted.
func upstream(r *http.Request) string {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	address, _ := repl.GetString("http.reverse_proxy.upstream.hostport")
	if !plainAddress.MatchString(address) {
		return ""
	}
	return address
}

var plainAddress = regexp.MustCompile(`^[\w.:/@%+\[\]-]{1,255}$`)

// serve runs a handler. If it panics, serve returns errCutShort for http.ErrAbortHandler,
// and a panicError for any other value.
func serve(handler caddyhttp.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer catchPanic(&err)
	return handler.ServeHTTP(w, r)
}

// safeError returns an error that is safe to log, for one that a handler returned.
func safeError(err error) error {
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
		// The text may quote the notification, so this names the place in the code instead.
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

// dialFailures are endings of the texts of dial errors, which reverse_proxy does not let
// unwrap. The rest of the text is not safe to log: it may come from a placeholder.
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

// statusError returns the error that a whole answer with this status is; nil for 2xx.
func statusError(status int) error {
	if intercom.Accepts(status) {
		return nil
	}
	return fmt.Errorf("%w %d", errStatus, status)
}

// shieldedStatus returns the status that Intercom gets for a delivery. It never gets the
// backend's own: on 410 it would end the subscription, and on 429 throttle it. A redirect
// and a client error are failed deliveries, too.
func shieldedStatus(d Delivery) int {
	switch {
	case d.Err == nil:
		return http.StatusOK
	case errors.Is(d.Err, errTimeout):
		return http.StatusGatewayTimeout
	case errors.Is(d.Err, errStatus) && (d.Status == http.StatusTooManyRequests || d.Status == http.StatusServiceUnavailable):
		return http.StatusServiceUnavailable
	default:
		return http.StatusBadGateway
	}
}

// parseRetryAfter reads the value of a Retry-After header: seconds, or a date. It returns 0
// for a malformed value, and for a date in the past.
// Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
func parseRetryAfter(value string, now time.Time) time.Duration {
	const most = 365 * 24 * time.Hour // so that the product does not overflow
	if seconds, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, most)
	}
	if date, err := http.ParseTime(value); err == nil {
		return min(max(0, date.Sub(now)), most)
	}
	return 0
}

// answer is the answer that Intercom gets. Only the first call that gives one counts.
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

// giveAtDeadline answers with the status when the deadline has passed, even if the handlers or
// the queue do not obey it, because Intercom waits only 5 s. (With HTTP/2 and 3, the stream
// still ends only when they return.) The caller must call the returned function before
// ServeHTTP returns.
func (a *answer) giveAtDeadline(deadline time.Time, status, protoMajor int) (release func()) {
	clock := time.AfterFunc(time.Until(deadline), func() {
		a.once.Do(func() {
			if protoMajor == 1 { // the connection cannot be reused until they return
				a.w.Header()["Connection"] = []string{"close"}
			}
			a.write(status)
			_ = http.NewResponseController(a.w).Flush()
		})
	})
	return func() {
		clock.Stop()
		a.once.Do(func() {}) // waits for an answer in progress, and prevents a later one
	}
}

func (a *answer) write(status int) {
	a.status, a.at = status, time.Now()
	a.w.Header()["Content-Length"] = []string{"0"}
	a.w.WriteHeader(status)
}
