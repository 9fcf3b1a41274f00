// Package shield stands between Intercom and the backends: it runs the handlers of a route,
// tells what came of it, and gives Intercom an answer of its own.
package shield

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

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

// New returns a ResponseWriter that keeps what it gets from Intercom.
func New() http.ResponseWriter { return newShield() }

func newShield() *shield { return &shield{header: make(http.Header)} }

// Outcome is what came of running the handlers of a route.
type Outcome struct {
	Upstream   string // the address that reverse_proxy chose; empty if it chose none
	Status     int    // the status of the backend's answer; 0 if there was none
	Answer     []byte // the beginning of an answer that is not a good one, for people to read
	RetryAfter time.Duration
	Err        error // nil if the backend answered 2xx; its text is safe to log
}

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

// text returns what is kept of the answer for people to read. Backends may compress answers,
// because they get the sender's Accept-Encoding.
func (s *shield) text() []byte {
	var content io.Reader = bytes.NewReader(s.answer)
	var err error
	switch encoding := strings.ToLower(s.header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		content, err = gzip.NewReader(content)
	case "deflate":
		content, err = zlib.NewReader(content)
	case "br", "zstd":
		return []byte("(compressed with " + encoding + ")")
	default:
		return []byte("(in an encoding that is not known)")
	}
	if err != nil {
		return []byte("(compressed, and damaged)")
	}
	text, _ := io.ReadAll(io.LimitReader(content, maxAnswer)) // ends with an error where the answer was cut off
	return wholeRunes(text)
}

// wholeRunes cuts off a character that is not whole, at the end of a text.
func wholeRunes(text []byte) []byte {
	for end := len(text); end > max(0, len(text)-utf8.UTFMax); end-- {
		if utf8.Valid(text[:end]) {
			return text[:end]
		}
	}
	return text
}

// Flush does nothing. Handlers that stream need it.
func (s *shield) Flush() {}

// unhandledVar is the variable that Caddy sets, too, when no handler has answered.
const unhandledVar = "unhandled"

// Unhandled is the handler after the last one of a route.
var Unhandled caddyhttp.Handler = caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
	caddyhttp.SetVar(r.Context(), unhandledVar, true)
	return nil
})

// Run runs the handlers of a route, and returns what came of it. Err is set unless the
// whole answer is a good one.
func Run(handler caddyhttp.Handler, r *http.Request) Outcome {
	s := newShield()
	err := Serve(handler, s, r)
	d := Outcome{
		Upstream:   upstream(r),
		Status:     s.status,
		RetryAfter: parseRetryAfter(s.header.Get("Retry-After"), time.Now()),
	}
	if failed := err != nil || !intercom.Accepts(s.status); failed && len(s.answer) > 0 {
		d.Answer = s.text()
	}
	if _, panicked := errors.AsType[*PanicError](err); panicked {
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
	case err == ErrCutShort: //nolint:errorlint // returned by Serve itself
		d.Err = err
	case err != nil:
		d.Err = safeError(err)
	case s.status == 0 && fellThrough:
		d.Err = ErrUnanswered
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
	if len(address) > 255 || strings.Trim(address, inAddresses) != "" {
		return ""
	}
	return address
}

const inAddresses = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/@%+[]-"

// Serve runs a handler. If it panics, Serve returns ErrCutShort for http.ErrAbortHandler,
// and a PanicError for any other value.
func Serve(handler caddyhttp.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer CatchPanic(&err)
	return handler.ServeHTTP(w, r)
}

// statusError returns the error that a whole answer with this status is; nil for 2xx.
func statusError(status int) error {
	if intercom.Accepts(status) {
		return nil
	}
	return fmt.Errorf("%w %d", ErrStatus, status)
}

// Status returns the status that Intercom gets for a delivery with this error, and this
// status of the backend. It never gets the backend's own: on 410 it would end the
// subscription, and on 429 throttle it. A redirect and a client error are failed deliveries,
// too.
func Status(backend int, err error) int {
	switch {
	case err == nil:
		return http.StatusOK
	case errors.Is(err, errTimeout):
		return http.StatusGatewayTimeout
	case errors.Is(err, ErrStatus) && (backend == http.StatusTooManyRequests || backend == http.StatusServiceUnavailable):
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
	value = strings.TrimSpace(value)
	if value == "" { // as nearly always
		return 0
	}
	if strings.Trim(value, "0123456789") == "" { // however many digits
		seconds, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return most
		}
		return min(time.Duration(seconds)*time.Second, most)
	}
	if date, err := http.ParseTime(value); err == nil {
		return min(max(0, date.Sub(now)), most)
	}
	return 0
}

// Answer is the answer that Intercom gets. Only the first call that gives one counts.
type Answer struct {
	w      http.ResponseWriter
	once   sync.Once
	status int
	at     time.Time
}

// NewAnswer returns an answer that is not given yet.
func NewAnswer(w http.ResponseWriter) *Answer { return &Answer{w: w} }

// Give answers with an empty body. It returns the status that Intercom got, and when.
func (a *Answer) Give(status int) (int, time.Time) {
	a.once.Do(func() { a.write(status) })
	return a.status, a.at
}

// GiveAtDeadline answers with the status when the deadline has passed, even if the handlers or
// the queue do not obey it, because Intercom waits only 5 s. (With HTTP/2 and 3, the stream
// still ends only when they return.) The caller must call the returned function before
// ServeHTTP returns.
func (a *Answer) GiveAtDeadline(deadline time.Time, status, protoMajor int) (release func()) {
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

func (a *Answer) write(status int) {
	a.status, a.at = status, time.Now()
	a.w.Header()["Content-Length"] = []string{"0"}
	a.w.WriteHeader(status)
}
