// Package body reads the body of a request into memory, and puts it back.
package body

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// MaxSize is the largest body that can be accepted, in bytes.
const MaxSize = 64 << 20

// CheckMaxSize refuses a limit that is out of range.
func CheckMaxSize(bytes int64) error {
	if bytes < 1 || bytes > MaxSize {
		return fmt.Errorf("max_size must be from 1 byte to %dMiB, not %d bytes: a body is in memory as a whole, and all bodies together may have %d MiB",
			MaxSize>>20, bytes, capacity>>20)
	}
	return nil
}

// unreserved is the most memory that a body gets before its bytes are there, in bytes. A
// connection needs as much anyway, and nearly all notifications are smaller.
const unreserved = 16 << 10

var past = time.Unix(1, 0) // as a deadline, it makes reads fail at once

// Read reads the whole body, up to maxSize bytes, until the deadline. The caller must release
// the memory. The text of an error quotes nothing of the request. For a body that is larger
// than a limit, it is an *http.MaxBytesError.
func Read(w http.ResponseWriter, r *http.Request, maxSize int64, deadline time.Time) ([]byte, *Reservation, error) {
	// The ResponseWriters of HTTP/1, 2 and 3 have deadlines. For others, only Caddy's own
	// timeouts apply.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(deadline)
	limited := http.MaxBytesReader(w, r.Body, maxSize)
	reserved := &Reservation{control: control, deadline: deadline}
	fits := maxSize + 1 // with room to read the EOF
	if r.ContentLength >= 0 {
		fits = min(fits, r.ContentLength+1)
	}
	content, err := reserved.read(r.Context(), limited, fits)
	if stopped := reserved.arrived(); err != nil {
		reserved.Release()
		if stopped {
			err = ErrNoMemory
		}
		return nil, nil, err
	}
	_ = control.SetReadDeadline(time.Time{})
	_ = limited.Close()
	return content, reserved, nil
}

// read reads a body that fits into so many bytes.
func (r *Reservation) read(ctx context.Context, body io.Reader, fits int64) ([]byte, error) {
	content := make([]byte, 0, min(unreserved, fits))
	var err error
	for moved := 0; err == nil; {
		if len(content) == cap(content) {
			size := 2 * int64(cap(content))
			if int64(cap(content)) < fits && fits <= size+1 {
				size = fits
			}
			if !r.grow(ctx, size) {
				return nil, ErrNoMemory
			}
			content = append(make([]byte, 0, size), content...)
		}
		var n int
		n, err = body.Read(content[len(content):cap(content)])
		content = content[:len(content)+n]
		if len(content)-moved >= piece {
			moved = len(content)
			r.move()
		}
	}
	switch {
	case !errors.Is(err, io.EOF):
		return nil, failure(err)
	case !r.grow(ctx, int64(cap(content)+overhead)):
		return nil, ErrNoMemory
	default:
		return content, nil
	}
}

// failure returns the error for a body that could not be read. It does not wrap the error
// itself, because its text may quote the request, such as a malformed trailer.
func failure(err error) error {
	timeout, ok := errors.AsType[net.Error](err)
	tooLarge, isTooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case isTooLarge:
		return tooLarge
	case ok && timeout.Timeout():
		return errors.New("body was not complete in time")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("body was cut short")
	default:
		return errors.New("body could not be read")
	}
}

const discardTime = time.Second

// Discard reads what still comes of a body, for up to discardTime, but not beyond the deadline, and
// drops it. Many senders read an answer only after they have sent the whole body; without this,
// they would find the connection reset. If more is left then, it does what Abandon does.
func Discard(w http.ResponseWriter, r *http.Request, deadline time.Time) {
	if latest := time.Now().Add(discardTime); deadline.IsZero() || latest.Before(deadline) {
		deadline = latest
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(deadline)
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		Abandon(w, r)
		return
	}
	_ = control.SetReadDeadline(time.Time{})
}

// Abandon makes net/http close an HTTP/1 connection together with the answer, if the
// request announced a body that was not read. Otherwise, net/http would read the body,
// before the answer and after it, for as long as the sender wants.
func Abandon(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.ContentLength == 0 {
		return
	}
	CloseConnection(w, r)
	_ = http.NewResponseController(w).SetReadDeadline(past)
	// After a body over its limit, net/http closes the socket a little later than its side of
	// the connection, so that the kernel does not reset it before the sender has the answer.
	overLimit := http.MaxBytesReader(innermost(w), io.NopCloser(strings.NewReader("x")), 0)
	_, _ = overLimit.Read(make([]byte, 1))
}

// innermost returns the ResponseWriter that is net/http's own.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}

// CloseConnection makes net/http close an HTTP/1 connection after the answer, so that a
// refused sender does not keep it open.
func CloseConnection(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header()["Connection"] = []string{"close"}
	}
}

// restoredVar is the variable that holds the body that Restore has put into the request.
const restoredVar = "intercom_webhook.body"

// Restore puts the body back into the request, so that later handlers can read it, and
// so that net/http can read it again when it repeats the request on a new connection. The
// caller must not change the bytes later: a transport may still read them after its
// handler has returned.
func Restore(r *http.Request, content []byte) {
	first := newReplay(content)
	first.restores = r
	r.Body = first
	r.GetBody = func() (io.ReadCloser, error) { return newReplay(content), nil }
	caddyhttp.SetVar(r.Context(), restoredVar, first)
	if r.ContentLength != int64(len(content)) {
		r.ContentLength = int64(len(content))
		r.Header["Content-Length"] = []string{strconv.Itoa(len(content))}
	}
	// The length is known now. Trailers would make net/http send the body in chunks again.
	r.TransferEncoding = nil
	r.Trailer = nil
}

// Again gives a clone of the restored request a whole body of its own, whatever other handlers,
// or earlier tries of this one, have read or are still reading. A body that a handler has put
// in its place stays.
func Again(clone *http.Request) {
	first, ok := caddyhttp.GetVar(clone.Context(), restoredVar).(*replay)
	if ok && clone.ContentLength == int64(len(first.content)) && (first.restores.Body == first || first.read.Load()) {
		clone.Body = newReplay(first.content)
	}
}

// replay is a body in memory. Close does nothing, so that the next handler can still read
// a body that one has closed.
type replay struct {
	content  []byte
	reader   bytes.Reader
	read     atomic.Bool   // something of it
	restores *http.Request // of the body that Restore has put into it
}

func newReplay(content []byte) *replay {
	b := &replay{content: content}
	b.reader.Reset(content)
	return b
}

// Read returns io.EOF together with the last bytes, so that a transport which has sent them
// need not read once more while the request ends.
func (b *replay) Read(p []byte) (n int, err error) {
	b.read.Store(true)
	n, err = b.reader.Read(p)
	if b.reader.Len() == 0 {
		err = io.EOF
	}
	return n, err
}

func (*replay) Close() error { return nil }
