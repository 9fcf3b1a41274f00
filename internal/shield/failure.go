package shield

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// ErrUnanswered is the error for a route none of whose handlers answered. Another run of them
// would come to the same.
var ErrUnanswered = errors.New("no handler of the route answered")

// The errors of a delivery. Their texts go to logs and into the queue. Errors of handlers
// and of net/http do not, because they may quote the answer or the notification.
var (
	ErrStatus      = errors.New("backend answered") // followed by a status that is not 2xx
	errTimeout     = errors.New("backend did not answer in time")
	errNoAnswer    = errors.New("backend gave no valid answer")
	errMalformed   = errors.New("backend's answer is not valid HTTP")
	errSpeaksTLS   = errors.New("backend's answer is TLS: write https:// before the upstream")
	errBody        = errors.New("body could not be sent whole: a handler of the route has read or changed it")
	ErrCutShort    = errors.New("backend's answer was cut short")
	errHungUp      = errors.New("backend hung up before it answered")
	errNoUpstream  = errors.New("no upstream is available")
	errUnreachable = errors.New("backend could not be reached")
	errTooSlow     = errors.New("backend is slower than a time limit of the route's own")
	errTLS         = errors.New("TLS handshake with the backend failed")
	errConnection  = errors.New("connection to the backend failed")
	errHandler     = errors.New("a handler of the route failed")
)

// PanicError is the panic of a handler or a matcher. Value is the type of the panic's value
// or, for an error of the Go runtime, its text. Other texts may quote the notification.
type PanicError struct {
	Value string
	Stack []byte
}

func (*PanicError) Error() string { return "a handler of the route panicked" }

// CatchPanic must be deferred. It turns a panic into an error.
func CatchPanic(err *error) {
	switch p := recover().(type) {
	case nil:
	case runtime.Error:
		*err = &PanicError{Value: p.Error(), Stack: debug.Stack()}
	default:
		if p == http.ErrAbortHandler { //nolint:errorlint // a panic's value, compared as net/http does
			// reverse_proxy panics with this value if an answer broke off, and the
			// abort directive if there is to be no answer.
			*err = ErrCutShort
			return
		}
		*err = &PanicError{Value: fmt.Sprintf("%T", p), Stack: debug.Stack()}
	}
}

// safeError returns an error that is safe to log, for one that a handler returned.
func safeError(err error) error {
	network, _ := errors.AsType[net.Error](err)
	operation, _ := errors.AsType[*net.OpError](err)
	errno, hasErrno := errors.AsType[syscall.Errno](err)
	switch {
	case isA[reverseproxy.DialError](err):
		return dialFailure(err)
	case isA[*tls.CertificateVerificationError](err):
		return fmt.Errorf("%w: %s", errTLS, certificateFault(err))
	case isA[tls.RecordHeaderError](err):
		return fmt.Errorf("%w: the backend does not speak TLS on this port", errTLS)
	case operation != nil && operation.Op == "remote error" && alertText.MatchString(operation.Err.Error()):
		return fmt.Errorf("%w: the backend refused it with the alert %q", errTLS, operation.Err.Error())
	case strings.Contains(err.Error(), "TLS handshake timeout"):
		return fmt.Errorf("%w: the backend did not complete it in time", errTLS)
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
	case strings.HasPrefix(text, "tls: "), strings.HasPrefix(text, "remote error: "):
		return errTLS
	case strings.Contains(text, "with Body length"):
		return errBody
	case strings.Contains(text, `malformed HTTP response "\x15\x03`): // the record of an alert
		return errSpeaksTLS
	case strings.Contains(text, "malformed"), strings.Contains(text, "transport connection broken"):
		return errMalformed
	default:
		return errNoAnswer
	}
}

// alertText is the form of what crypto/tls says of an alert that it got.
var alertText = regexp.MustCompile(`^tls: [a-z0-9 '()-]+$`)

// certificateFault says why the backend's certificate is not accepted. The texts of crypto/x509
// quote it, so they are not used.
func certificateFault(err error) string {
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	expired := isInvalid && invalid.Reason == x509.Expired
	switch {
	case expired && time.Now().Before(invalid.Cert.NotBefore):
		return "its certificate is not valid before " + invalid.Cert.NotBefore.UTC().Format(time.RFC3339)
	case expired:
		return "its certificate has expired at " + invalid.Cert.NotAfter.UTC().Format(time.RFC3339)
	case isA[x509.HostnameError](err):
		return "its certificate is for another name; if that is meant, set tls_server_name"
	case isA[x509.UnknownAuthorityError](err):
		return "its certificate is from an authority that is not trusted here; if that is meant, set tls_trust_pool"
	default:
		return "its certificate is not valid for a server"
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
