package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

const (
	// A stream keeps this much for a reader that is slow, and drops what comes beyond it.
	maxLines = 1000
	maxBytes = 8 << 20

	// endTimeout is how long a slow reader may take for what is being written when the
	// stream ends. Caddy waits 10 s for the requests of its former admin endpoint.
	endTimeout = time.Second
)

// Stream has what one reader has not read yet.
type Stream struct {
	topics     []string // patterns; nil for all
	workspaces []string // nil for all
	requests   bool

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
	s := &Stream{topics: query["topic"], workspaces: query["workspace"], wake: make(chan struct{}, 1)}
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

// Serve writes a line of JSON for each event, until the client hangs up or the context ends.
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
	for {
		if err := writer.Flush(); err != nil {
			return nil //nolint:nilerr // the client has hung up
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		for first, ok := s.next(); ok && ctx.Err() == nil; first, ok = s.next() {
			if err := encoder.Encode(first.line()); err != nil {
				return nil //nolint:nilerr // the client has hung up
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
