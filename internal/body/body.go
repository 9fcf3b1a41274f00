// Package body reads the body of a request into memory, and puts it back.
package body

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	// preallocated is the most memory that is allocated because of a Content-Length alone,
	// in bytes. The largest known notification has 17 KB.
	preallocated = 64 << 10

	// memory bounds the large bodies of all requests together, in bytes. A body that is larger
	// than maxReserved counts as one of this size.
	memory      = 112 << 20
	maxReserved = 48 << 20

	// memoryTimeout is how long a large body waits for memory.
	memoryTimeout = 2 * time.Second
)

var free = semaphore.NewWeighted(memory)

var (
	// ErrNoMemory is the error for a large body when others need all memory for bodies.
	ErrNoMemory = errors.New("too many bytes of large bodies are being handled at once")
)

// reserve waits until there is memory for more of a body, which it keeps until the request
// ends. It reports whether there is.
func reserve(ctx context.Context, size int64) bool {
	waiting, cancel := context.WithTimeout(ctx, memoryTimeout)
	defer cancel()
	if err := free.Acquire(waiting, size); err != nil {
		return false
	}
	context.AfterFunc(ctx, func() { free.Release(size) })
	return true
}

// Read reads the whole body, up to maxSize bytes, until the deadline. The text of an error
// quotes nothing of the request. For a body that is larger than a limit, it is an
// *http.MaxBytesError.
func Read(w http.ResponseWriter, r *http.Request, maxSize int64, deadline time.Time) ([]byte, error) {
	// The ResponseWriters of HTTP/1, 2 and 3 have deadlines. For others, only Caddy's own
	// timeouts apply.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(deadline)

	limited := http.MaxBytesReader(w, r.Body, maxSize)
	// ReadFrom needs free space at the end, or it grows the buffer to read the EOF.
	size := bytes.MinRead + max(0, min(r.ContentLength, preallocated))
	buf := bytes.NewBuffer(make([]byte, 0, size))
	_, err := io.CopyN(buf, limited, preallocated)
	// Memory for a large one is reserved as it arrives, not as it is announced.
	reserved := int64(0)
	for step := int64(preallocated); err == nil; step *= 2 {
		more := min(step, maxReserved-reserved)
		if !reserve(r.Context(), more) {
			return nil, ErrNoMemory
		}
		reserved += more
		buf.Grow(int(step) + bytes.MinRead)
		_, err = io.CopyN(buf, limited, step)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, failure(err)
	}
	_ = control.SetReadDeadline(time.Time{})
	_ = limited.Close()
	return buf.Bytes(), nil
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

// Abandon makes net/http close an HTTP/1 connection together with the answer, if the
// request announced a body that was not read. Otherwise, net/http would read the body,
// before the answer and after it, for as long as the sender wants.
func Abandon(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.ContentLength == 0 {
		return
	}
	CloseConnection(w, r)
	_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // in the past: reads fail immediately
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
	r.Body = first
	r.GetBody = func() (io.ReadCloser, error) { return newReplay(content), nil }
	caddyhttp.SetVar(r.Context(), restoredVar, &restored{r, first})
	if r.ContentLength != int64(len(content)) {
		r.ContentLength = int64(len(content))
		r.Header["Content-Length"] = []string{strconv.Itoa(len(content))}
	}
	// The length is known now. Trailers would make net/http send the body in chunks again.
	r.TransferEncoding = nil
	r.Trailer = nil
}

// restored is what Restore has done.
type restored struct {
	request *http.Request
	body    *replay
}

// Again gives a clone of the restored request a whole body of its own, whatever other handlers,
// or earlier tries of this one, have read or are still reading. A body that a handler has put
// in its place stays.
func Again(clone *http.Request) {
	was, ok := caddyhttp.GetVar(clone.Context(), restoredVar).(*restored)
	if !ok || clone.ContentLength != int64(len(was.body.content)) {
		return
	}
	if was.request.Body == was.body || was.body.read.Load() {
		clone.Body = newReplay(was.body.content)
	}
}

// replay is a body in memory. Close does nothing, so that the next handler can still read
// a body that one has closed.
type replay struct {
	content []byte
	reader  bytes.Reader
	read    atomic.Bool // something of it
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
