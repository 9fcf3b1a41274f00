// Package stream tells readers of each verified notification, live.
package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

const (
	maxStreams = 16 // that may be open at the same time

	// A stream keeps this much for a reader that is slow, and drops what comes beyond it.
	maxLines = 1000
	maxBytes = 8 << 20

	// aliveInterval is how often a stream gives a sign of life, so that its reader notices when
	// the connection is broken and nothing says so, as with a tunnel.
	aliveInterval = 15 * time.Second

	// endTimeout is how long a slow reader may take for what is being written when the
	// stream ends. Caddy waits 10 s for the requests of its former admin endpoint.
	endTimeout = time.Second
)

var errTooManyStreams = errors.New("too many streams of notifications are open: end another one first")

// Broadcaster tells its streams of each verified notification, and what came of it. It never
// waits for a stream. Without streams, it costs an atomic load or two.
type Broadcaster struct {
	open    atomic.Int32 // streams
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

// line returns the JSON value of the event.
func (e *Event) line() adminapi.Event {
	line := e.Event
	if e.Request != nil {
		request := e.Request.Request
		request.SetBody(e.Request.body)
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
	if !b.Listened() {
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
			Method: r.Method, URI: r.URL.RequestURI(), Proto: r.Proto, Host: r.Host,
			RemoteAddr: r.RemoteAddr, ClientIP: clientIP, ReceivedAt: received.UTC(), Header: r.Header.Clone(),
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
	b.open.Add(1)
	return nil
}

// Unsubscribe closes a stream.
func (b *Broadcaster) Unsubscribe(s *Stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.streams = slices.DeleteFunc(b.streams, func(other *Stream) bool { return other == s })
	b.open.Add(-1)
}

// Stream has what one reader has not read yet.
type Stream struct {
	topics     []string // patterns; nil for all
	workspaces []string // nil for all
	requests   bool
	alive      time.Duration // aliveInterval

	wake chan struct{} // can be read from if next may have something

	mu      sync.Mutex
	waiting []entry
	bytes   int // of what waits
	dropped int // since the last entry
}

// entry is either an event, or how many were dropped in its place.
type entry struct {
	event   *Event
	dropped int
}

var parameters = []string{"topic", "workspace", "request"}

// New reads the filters of a stream. topic and workspace may be repeated.
func New(query url.Values) (*Stream, error) {
	for name := range query {
		if !slices.Contains(parameters, name) {
			return nil, fmt.Errorf("unknown parameter %q: a stream has %s", name, option.Choices(name, parameters))
		}
	}
	s := &Stream{topics: query["topic"], workspaces: query["workspace"], alive: aliveInterval, wake: make(chan struct{}, 1)}
	for _, pattern := range s.topics {
		if err := topicpattern.Check(pattern); err != nil {
			return nil, err
		}
	}
	if slices.Contains(s.workspaces, "") {
		return nil, errors.New("workspace is empty: give the id of a workspace, or leave it out")
	}
	if !query.Has("request") {
		return s, nil
	}
	var err error
	if s.requests, err = strconv.ParseBool(query.Get("request")); err != nil {
		return nil, fmt.Errorf("request %q is neither true nor false", query.Get("request"))
	}
	return s, nil
}

// fits reports whether the stream wants to know of a notification.
func (s *Stream) fits(topic, workspace string) bool {
	return (s.workspaces == nil || slices.Contains(s.workspaces, workspace)) &&
		(s.topics == nil || slices.ContainsFunc(s.topics, func(pattern string) bool { return topicpattern.Matches(pattern, topic) }))
}

// offer adds an event, or counts it as dropped if there is no room for it.
func (s *Stream) offer(e *Event) {
	if e.Request != nil && !s.requests {
		e = &Event{Event: e.Event} // or else the stream would keep the body in memory
	}
	size := e.size()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= maxLines || s.bytes+size > maxBytes {
		s.dropped++
	} else {
		s.addDropped()
		s.waiting = append(s.waiting, entry{event: e})
		s.bytes += size
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// addDropped makes an entry of what was dropped since the last one. It needs s.mu.
func (s *Stream) addDropped() {
	if s.dropped > 0 {
		s.waiting = append(s.waiting, entry{dropped: s.dropped})
		s.dropped = 0
	}
}

// next removes the next entry. It reports whether there is one.
func (s *Stream) next() (first entry, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		s.addDropped()
	}
	if len(s.waiting) == 0 {
		s.waiting = nil // so that the memory of a past flood is freed
		return entry{}, false
	}
	first = s.waiting[0]
	s.waiting[0] = entry{}
	s.waiting = s.waiting[1:]
	if first.event != nil {
		s.bytes -= first.event.size()
	}
	return first, true
}

// Serve writes a line of JSON for each event, until the client hangs up or the context ends. While
// there is none, it writes an empty line each aliveInterval.
func (s *Stream) Serve(ctx context.Context, w http.ResponseWriter) error {
	writer := http.NewResponseController(w)
	// Caddy's timeout for reading requests would end the request when it has passed.
	if err := writer.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("preparing the stream: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = writer.SetWriteDeadline(time.Now().Add(endTimeout)) })
	defer stop()

	w.Header()["Content-Type"] = []string{"application/x-ndjson"}
	w.Header()["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(http.StatusOK)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	alive := time.NewTicker(s.alive)
	defer alive.Stop()
	for {
		if err := writer.Flush(); err != nil {
			return nil // the client has hung up
		}
		select {
		case <-ctx.Done():
			return nil
		case <-alive.C:
			if _, err := io.WriteString(w, "\n"); err != nil {
				return nil // the client has hung up
			}
		case <-s.wake:
			alive.Reset(s.alive)
		}
		for first, ok := s.next(); ok && ctx.Err() == nil; first, ok = s.next() {
			if err := encoder.Encode(first.line()); err != nil {
				return nil // the client has hung up
			}
		}
	}
}

// line returns the JSON value that tells of the entry.
func (e entry) line() any {
	if e.event == nil {
		return adminapi.Dropped{Dropped: e.dropped}
	}
	return e.event.line()
}
