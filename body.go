package intercomwebhook

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
)

// preallocatedBody is the most memory that is allocated because of a Content-Length alone,
// in bytes. The largest known notification has 17 KB.
const preallocatedBody = 64 << 10

const (
	// maxBodyMemory bounds, in bytes, the bodies that are under way in all endpoints, but
	// for those that are no larger than preallocatedBody.
	maxBodyMemory     = 48 << 20
	bodyMemoryTimeout = 2 * time.Second
)

var bodyMemory = semaphore.NewWeighted(maxBodyMemory)

// reserveBodyMemory waits until there is memory for a body, which it keeps until the
// request ends. It reports whether there is.
func reserveBodyMemory(ctx context.Context, size int64) bool {
	size = min(size, maxBodyMemory)
	waiting, cancel := context.WithTimeout(ctx, bodyMemoryTimeout)
	defer cancel()
	if err := bodyMemory.Acquire(waiting, size); err != nil {
		return false
	}
	context.AfterFunc(ctx, func() { bodyMemory.Release(size) })
	return true
}

// readBody reads the whole body, up to maxSize bytes.
func (v *verifier) readBody(w http.ResponseWriter, r *http.Request, deadline time.Time) ([]byte, *refusal) {
	// The ResponseWriters of HTTP/1, 2 and 3 have deadlines. For others, only Caddy's own
	// timeouts apply.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(deadline)

	limited := http.MaxBytesReader(w, r.Body, v.maxSize)
	// ReadFrom needs free space at the end, or it grows the buffer to read the EOF.
	size := bytes.MinRead + max(0, min(r.ContentLength, preallocatedBody))
	buf := bytes.NewBuffer(make([]byte, 0, size))
	_, err := io.CopyN(buf, limited, preallocatedBody)
	if err == nil { // it is a large one
		length := r.ContentLength
		if length < 0 {
			length = v.maxSize
		}
		if !reserveBodyMemory(r.Context(), length) {
			return nil, newRefusal(http.StatusServiceUnavailable, reasonMemory, "too many bytes of large bodies are being handled at once")
		}
		// at once, as ReadFrom doubles the buffer time and again
		buf.Grow(int(max(0, r.ContentLength-preallocatedBody)) + bytes.MinRead)
		_, err = buf.ReadFrom(limited)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return nil, v.tooLarge()
		}
		return nil, newRefusal(http.StatusBadRequest, reasonBody, "%s", bodyFailure(err))
	}
	_ = control.SetReadDeadline(time.Time{})
	_ = limited.Close()
	return buf.Bytes(), nil
}

// bodyFailure describes why a body could not be read. The text of the error itself is not
// used, because it may quote the request, such as a malformed trailer.
func bodyFailure(err error) string {
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case ok && timeout.Timeout():
		return "body was not complete in time"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "body was cut short"
	default:
		return "body could not be read"
	}
}

// abandonBody makes net/http close an HTTP/1 connection together with the answer, if the
// request announced a body that was not read. Otherwise, net/http would read the body,
// before the answer and after it, for as long as the sender wants.
func abandonBody(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.ContentLength == 0 {
		return
	}
	closeConnection(w, r)
	_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // in the past: reads fail immediately
	// After a body over its limit, net/http ends its side of the connection immediately,
	// and closes the socket a little later. If it closed the socket immediately, the kernel
	// could reset the connection because of unread data, and the sender would not get the
	// answer.
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

// restoreBody puts the body back into the request, so that later handlers can read it, and
// so that net/http can read it again when it repeats the request on a new connection. The
// caller must not change the bytes later: a transport may still read them after its
// handler has returned.
func restoreBody(r *http.Request, body []byte) {
	r.Body = newReplay(body)
	r.GetBody = func() (io.ReadCloser, error) { return newReplay(body), nil }
	if r.ContentLength != int64(len(body)) {
		r.ContentLength = int64(len(body))
		r.Header["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	// The length is known now. Trailers would make net/http send the body in chunks again.
	r.TransferEncoding = nil
	r.Trailer = nil
}

// replay is a body in memory. Close does nothing, so that the next handler can still read
// a body that one has closed.
type replay struct{ bytes.Reader }

func newReplay(body []byte) *replay {
	r := new(replay)
	r.Reset(body)
	return r
}

func (*replay) Close() error { return nil }
