// Package stream tells readers of each verified notification, live.
package stream

import (
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
)

// maxStreams is how many streams of a broadcaster may be open at the same time.
const maxStreams = 16

var errTooManyStreams = errors.New("too many streams of notifications are open: end another one first")

// Broadcaster tells its streams of each verified notification, and what came of it. It never
// waits for a stream. Without streams, it costs an atomic load or two.
type Broadcaster struct {
	open         atomic.Int32 // streams
	wantRequests atomic.Int32 // streams with requests

	mu      sync.RWMutex
	streams []*Stream
}

// Event is a notification, and what came of it.
type Event struct {
	adminapi.Event
	Request *Request // in place of that of adminapi.Event
}

// Request is a request as it came, without the headers that a tag replaces.
type Request struct {
	adminapi.Request
	body []byte // shared with those who handle the request, none of whom change it
}

// line returns the JSON value of the event. The body is text if it is valid UTF-8, because
// JSON can have no other text, and base64 otherwise.
func (e *Event) line() adminapi.Event {
	line := e.Event
	if e.Request != nil {
		request := e.Request.Request
		if utf8.Valid(e.Request.body) {
			request.Body = new(string(e.Request.body))
		} else {
			request.BodyBase64 = e.Request.body
		}
		line.Request = &request
	}
	return line
}

// size returns about how many bytes of memory the event needs.
func (e *Event) size() int {
	size := 512
	if e.Request != nil {
		size += len(e.Request.body)
		for name, values := range e.Request.Header {
			for _, value := range values {
				size += len(name) + len(value) + 64
			}
		}
	}
	return size
}

// Capture returns the request of a notification for Publish, or nil if no stream wants it. It
// must be called before anybody can change the request.
func (b *Broadcaster) Capture(r *http.Request, e envelope.Envelope, body []byte, received time.Time) *Request {
	if b.wantRequests.Load() == 0 {
		return nil
	}
	b.mu.RLock()
	wanted := slices.ContainsFunc(b.streams, func(s *Stream) bool { return s.requests && s.fits(e.Topic, e.AppID) })
	b.mu.RUnlock()
	if !wanted {
		return nil
	}
	clientIP, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return &Request{
		Request: adminapi.Request{
			Method:     r.Method,
			URI:        r.URL.RequestURI(),
			Proto:      r.Proto,
			Host:       r.Host,
			RemoteAddr: r.RemoteAddr,
			ClientIP:   clientIP,
			ReceivedAt: received.UTC(),
			Header:     r.Header.Clone(),
		},
		body: body,
	}
}

// Listened reports whether there is a stream. Without one, Publish need not be called.
func (b *Broadcaster) Listened() bool { return b.open.Load() > 0 }

// Publish tells all streams that want to know. The caller must not change the event any
// more.
func (b *Broadcaster) Publish(e *Event) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, stream := range b.streams {
		// One that wants requests gets only what arrived after it was opened.
		if stream.fits(e.Topic, e.Workspace) && (e.Request != nil || !stream.requests) {
			stream.offer(e)
		}
	}
}

// Subscribe opens a stream. The caller must call Unsubscribe.
func (b *Broadcaster) Subscribe(s *Stream) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.streams) >= maxStreams {
		return errTooManyStreams
	}
	b.streams = append(b.streams, s)
	b.count(s, 1)
	return nil
}

// Unsubscribe closes a stream.
func (b *Broadcaster) Unsubscribe(s *Stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.streams = slices.DeleteFunc(b.streams, func(other *Stream) bool { return other == s })
	b.count(s, -1)
}

func (b *Broadcaster) count(s *Stream, by int32) {
	b.open.Add(by)
	if s.requests {
		b.wantRequests.Add(by)
	}
}
