package shield

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// prepared makes a request look as it does inside of Caddy.
func prepared(r *http.Request) *http.Request {
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, &caddyhttp.Server{})
}

func TestStatus(t *testing.T) {
	for backend, want := range map[int]int{
		200: 200, 201: 200, 202: 200, 204: 200, 299: 200,
		101: 502, 300: 502, 301: 502, 304: 502, 400: 502, 401: 502, 404: 502, 410: 502, 499: 502, 500: 502, 502: 502, 504: 502, 600: 502,
		429: 503, 503: 503,
	} {
		if got := Status(backend, statusError(backend)); got != want {
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
		"200, and then nothing": {ErrCutShort, 502},
	} {
		if got := Status(200, tc.err); got != tc.want {
			t.Errorf("%s: Intercom is told %d instead of %d", name, got, tc.want)
		}
	}
}

func TestRun(t *testing.T) {
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
			err:    ErrStatus,
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
			err:    ErrStatus,
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
			err:    ErrStatus,
		},
		"nothing at all": {
			handle: func(http.ResponseWriter) error { return nil },
			err:    errNoAnswer,
		},
		"an error": {
			handle: func(http.ResponseWriter) error { return errors.New("private words") },
			err:    errHandler,
		},
		"an answer that breaks off": {
			handle: func(w http.ResponseWriter) error { w.WriteHeader(200); panic(http.ErrAbortHandler) },
			status: 200,
			err:    ErrCutShort,
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
		"a panic behind an answer": {
			handle: func(w http.ResponseWriter) error { w.WriteHeader(200); panic("private words") },
			status: 200,
			err:    new(PanicError),
		},
		"a panic when time was up": {
			ctx:    late,
			handle: func(http.ResponseWriter) error { panic("private words") },
			err:    new(PanicError),
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
			r = prepared(r)
			got := Run(caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				return tc.handle(w)
			}), r)
			status, err := got.Status, got.Err
			if _, panics := tc.err.(*PanicError); panics { //nolint:errorlint // stands for any
				if !isA[*PanicError](err) || status != tc.status {
					t.Errorf("got %d, %v; want %d and a panic", status, err, tc.status)
				}
			} else if status != tc.status || !errors.Is(err, tc.err) {
				t.Errorf("got %d, %v; want %d, %v", status, err, tc.status, tc.err)
			}
		})
	}
}

func TestPanicsAreErrorsWithTheirStack(t *testing.T) {
	var none *http.Request
	for name, tc := range map[string]struct {
		handle func()
		value  string
	}{
		"a text":          {func() { panic("private words") }, "string"},
		"an error":        {func() { panic(errors.New("private words")) }, "*errors.errorString"},
		"a runtime error": {func() { _ = none.Host }, "runtime error: invalid memory address or nil pointer dereference"},
		"not comparable":  {func() { panic([]string{"private words"}) }, "[]string"},
		"nil":             {func() { panic(nil) }, "panic called with nil argument"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Run(caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
				tc.handle()
				return nil
			}), prepared(httptest.NewRequest(http.MethodPost, "/", nil)))
			status, err := got.Status, got.Err
			panicked, ok := errors.AsType[*PanicError](err)
			if !ok {
				t.Fatalf("got %d, %v; want a panic", status, err)
			}
			if panicked.Value != tc.value || !strings.Contains(string(panicked.Stack), "shield_test.go") {
				t.Errorf("got %q with the stack\n%s", panicked.Value, panicked.Stack)
			}
			if strings.Contains(err.Error()+panicked.Value+string(panicked.Stack), "private words") {
				t.Error("the panic's value is told")
			}
		})
	}
}

// Errors of handlers, of reverse_proxy and of net/http may quote the notification, or
// what the backend made of it. What is told instead says what to look for.
func TestFailuresQuoteNobody(t *testing.T) {
	proxied := func(text string) error {
		return caddyhttp.HandlerError{Err: errors.New(text), StatusCode: 502, Trace: "reverseproxy.statusError (reverseproxy.go:1)"}
	}
	wrapped := func(err error) error { return caddyhttp.Error(502, fmt.Errorf("private words: %w", err)) }
	dial := func(text string) error { return caddyhttp.Error(502, reverseproxy.NewDialError(errors.New(text))) }
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"a handler's":             {errors.New("private words"), "a handler of the route failed"},
		"a handler's with status": {caddyhttp.HandlerError{Err: errors.New("private words"), StatusCode: 404, Trace: "fileserver.notFound (a.go:1)"}, "a handler of the route failed: status 404 from fileserver.notFound (a.go:1)"},
		"a handler's with a file": {caddyhttp.HandlerError{Err: &os.PathError{Op: "open", Path: "/private words", Err: syscall.EACCES}, StatusCode: 403, Trace: "fileserver.ServeHTTP (a.go:1)"}, "a handler of the route failed: status 403 from fileserver.ServeHTTP (a.go:1)"},
		"malformed header":        {proxied(`malformed MIME header: "private words"`), "backend's answer is not valid HTTP"},
		"transfer encoding":       {proxied(`net/http: HTTP/1.x transport connection broken: unsupported transfer encoding: "private words"`), "backend's answer is not valid HTTP"},
		"anything else of it":     {proxied("private words"), "backend gave no valid answer"},
		"no upstream":             {proxied("no upstreams available"), "no upstream is available"},
		"refused":                 {dial("dial tcp private words:1: connect: connection refused"), "backend could not be reached: connection refused"},
		"no such host":            {dial("dial tcp: lookup private words on 127.0.0.53:53: no such host"), "backend could not be reached: no such host"},
		"dialing, unknown":        {dial("private words"), "backend could not be reached"},
		"reset":                   {wrapped(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}), "connection to the backend failed: connection reset by peer"},
		"hung up":                 {wrapped(io.EOF), "backend hung up before it answered"},
		"hung up midway":          {wrapped(io.ErrUnexpectedEOF), "backend hung up before it answered"},
		"slower than its limit":   {wrapped(os.ErrDeadlineExceeded), "backend is slower than a time limit of the route's own"},
		"certificate":             {wrapped(&tls.CertificateVerificationError{Err: errors.New("private words")}), "TLS handshake with the backend failed: its certificate is not valid for a server"},
		"TLS, unknown":            {proxied("tls: private words"), "TLS handshake with the backend failed"},
		"alert of the backend":    {proxied("remote error: tls: private words"), "TLS handshake with the backend failed"},
		"TLS where none is meant": {proxied(`net/http: HTTP/1.x transport connection broken: malformed HTTP response "\x15\x03\x01private words"`), "backend's answer is TLS: write https:// before the upstream"},
		"body that is gone":       {proxied("net/http: HTTP/1.x transport connection broken: http: ContentLength=9 with Body length 0"), "body could not be sent whole: a handler of the route has read or changed it"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := safeError(tc.err).Error(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestTheAnswerIsKeptAsText(t *testing.T) {
	compress := func(into func(io.Writer) io.WriteCloser, text string) string {
		var to bytes.Buffer
		w := into(&to)
		_, _ = io.WriteString(w, text)
		_ = w.Close()
		return to.String()
	}
	zipped := func(text string) string {
		return compress(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, text)
	}
	deflated := compress(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }, "no such user")
	var varied strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&varied, "%d,", i*i)
	}
	for name, tc := range map[string]struct{ encoding, body, want string }{
		"as it is":                     {"", "no such user", "no such user"},
		"identity":                     {"identity", "no such user", "no such user"},
		"longer than what is kept":     {"", strings.Repeat("x", 5000), strings.Repeat("x", maxAnswer)},
		"cut within a character":       {"", "x" + strings.Repeat("ü", maxAnswer), "x" + strings.Repeat("ü", maxAnswer/2-1)},
		"gzip":                         {"gzip", zipped("no such user"), "no such user"},
		"gzip, longer":                 {"GZIP", zipped(varied.String()), varied.String()[:maxAnswer]},
		"gzip, longer when it is text": {"x-gzip", zipped(strings.Repeat("y", 5000)), strings.Repeat("y", maxAnswer)},
		"deflate":                      {"deflate", deflated, "no such user"},
		"gzip that is none":            {"gzip", "no such user", "(compressed, and damaged)"},
		"br":                           {"br", "\x0b\x05", "(compressed with br)"},
		"zstd":                         {"zstd", "\x28\xb5\x2f\xfd", "(compressed with zstd)"},
		"twice":                        {"gzip, br", "\x0b\x05", "(in an encoding that is not known)"},
		"what the backend invents":     {"private words", "\x0b\x05", "(in an encoding that is not known)"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Run(caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				w.Header().Set("Content-Encoding", tc.encoding)
				w.WriteHeader(http.StatusNotFound)
				_, err := io.WriteString(w, tc.body)
				return err
			}), prepared(httptest.NewRequest(http.MethodPost, "/", nil))).Answer
			if string(got) != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
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
		a := NewAnswer(w)
		release := a.GiveAtDeadline(time.Now().Add(time.Microsecond), http.StatusGatewayTimeout, 1)
		status, at := a.Give(http.StatusOK)
		release()
		if w.writes != 1 || w.status != status || at.IsZero() || w.header.Get("Content-Length") != "0" {
			t.Fatalf("wrote %d times, last %d, reported %d", w.writes, w.status, status)
		}
	}
}

func TestAnswerIsGivenWhenDue(t *testing.T) {
	for protoMajor, connection := range map[int]string{1: "close", 2: ""} {
		w := &countingWriter{header: make(http.Header), written: make(chan struct{})}
		a := NewAnswer(w)
		release := a.GiveAtDeadline(time.Now(), http.StatusGatewayTimeout, protoMajor)
		<-w.written
		if status, _ := a.Give(http.StatusOK); status != http.StatusGatewayTimeout || w.header.Get("Connection") != connection {
			t.Errorf("HTTP/%d: answered %d with %v", protoMajor, status, w.header)
		}
		release()
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const most = 365 * 24 * time.Hour
	for value, want := range map[string]time.Duration{
		"7": 7 * time.Second, " 7 ": 7 * time.Second, "0": 0, "007": 7 * time.Second,
		"99999999999": most, "99999999999999999999999999": most, "31536001": most,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second, "Thu, 01 Jan 2026 03:04:15 GMT": 0, "Fri, 02 Jan 2226 03:04:15 GMT": most,
		"": 0, "-1": 0, "+1": 0, "1.5": 0, "7 s": 0, "soon": 0,
	} {
		if got := parseRetryAfter(value, now); got != want {
			t.Errorf("%q: got %s, want %s", value, got, want)
		}
	}
}
