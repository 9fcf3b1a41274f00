package intercomwebhook

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

const (
	// maxStreams is how many streams may be open at the same time.
	maxStreams = 16

	// A stream keeps this much for a reader that is slow, and loses what comes beyond it.
	maxStreamLines = 1000
	maxStreamBytes = 8 << 20
)

var errTooManyStreams = errors.New("too many streams of notifications are open: end another one first")

// notifications tells of all notifications of this process. It outlives configs.
var notifications broadcaster

// broadcaster tells its streams of each verified notification, and what came of it. It never
// waits for a stream. Without streams, it costs an atomic load or two.
type broadcaster struct {
	open         atomic.Int32 // streams
	wantRequests atomic.Int32 // streams with requests

	mu      sync.RWMutex
	streams []*stream
}

// sighting is what a stream tells of a notification.
type sighting struct {
	At        time.Time    `json:"at"`
	Kind      string       `json:"kind"`
	Topic     string       `json:"topic"`
	Workspace string       `json:"workspace"`
	ID        string       `json:"id"`
	Outcome   string       `json:"outcome"` // as in notifications_total
	Lane      string       `json:"lane"`
	Status    int          `json:"status"`
	Seconds   float64      `json:"seconds"`
	Request   *seenRequest `json:"request,omitempty"`
}

// seenRequest is a request as it came, without the headers that newTag removes.
type seenRequest struct {
	Method     string      `json:"method"`
	URI        string      `json:"uri"`
	Proto      string      `json:"proto"`
	Host       string      `json:"host"`
	RemoteAddr string      `json:"remote_addr"`
	ClientIP   string      `json:"client_ip,omitempty"` // the address that it was judged by
	ReceivedAt time.Time   `json:"received_at"`
	Header     http.Header `json:"header"`

	body []byte // shared with those who handle the request, none of whom change it
}

// MarshalJSON implements json.Marshaler. The body is text if it is valid UTF-8, because JSON
// can have no other text, and base64 otherwise.
func (r *seenRequest) MarshalJSON() ([]byte, error) {
	type fields seenRequest
	encoded := struct {
		*fields
		Body       *string `json:"body,omitempty"`
		BodyBase64 []byte  `json:"body_base64,omitempty"`
	}{fields: (*fields)(r)}
	if utf8.Valid(r.body) {
		text := string(r.body)
		encoded.Body = &text
	} else {
		encoded.BodyBase64 = r.body
	}
	return json.Marshal(encoded)
}

// size returns about how many bytes of memory it needs.
func (s *sighting) size() int {
	size := 512
	if s.Request != nil {
		size += len(s.Request.body)
		for name, values := range s.Request.Header {
			for _, value := range values {
				size += len(name) + len(value) + 64
			}
		}
	}
	return size
}

// capture returns the request of a notification for publish, or nil if no stream wants it. It
// must be called before anybody can change the request.
func (b *broadcaster) capture(r *http.Request, e envelope, body []byte, received time.Time) *seenRequest {
	if b.wantRequests.Load() == 0 {
		return nil
	}
	b.mu.RLock()
	wanted := slices.ContainsFunc(b.streams, func(s *stream) bool { return s.requests && s.fits(e.topic, e.appID) })
	b.mu.RUnlock()
	if !wanted {
		return nil
	}
	clientIP, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return &seenRequest{
		Method:     r.Method,
		URI:        r.URL.RequestURI(),
		Proto:      r.Proto,
		Host:       r.Host,
		RemoteAddr: r.RemoteAddr,
		ClientIP:   clientIP,
		ReceivedAt: received.UTC(),
		Header:     r.Header.Clone(),
		body:       body,
	}
}

// listened reports whether there is a stream. Without one, publish need not be called.
func (b *broadcaster) listened() bool { return b.open.Load() > 0 }

// publish tells all streams that want to know. The caller must not change the sighting any
// more.
func (b *broadcaster) publish(s *sighting) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, stream := range b.streams {
		// One that wants requests gets only what arrived after it was opened.
		if stream.fits(s.Topic, s.Workspace) && (s.Request != nil || !stream.requests) {
			stream.offer(s)
		}
	}
}

// subscribe opens a stream. The caller must close it.
func (b *broadcaster) subscribe(s *stream) error {
	s.wake = make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.streams) >= maxStreams {
		return errTooManyStreams
	}
	b.streams = append(b.streams, s)
	b.count(s, 1)
	return nil
}

func (b *broadcaster) unsubscribe(s *stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.streams = slices.DeleteFunc(b.streams, func(other *stream) bool { return other == s })
	b.count(s, -1)
}

func (b *broadcaster) count(s *stream, by int32) {
	b.open.Add(by)
	if s.requests {
		b.wantRequests.Add(by)
	}
}

// stream has what one reader has not read yet.
type stream struct {
	topics     []string // patterns; nil for all
	workspaces []string // nil for all
	requests   bool

	wake chan struct{} // can be read from if next may have something

	mu      sync.Mutex
	waiting []streamEntry
	bytes   int // of what waits
	lost    int // since the last entry
}

// streamEntry is either a notification, or how many were lost in its place.
type streamEntry struct {
	sighting *sighting
	lost     int
}

// fits reports whether the stream wants to know of a notification.
func (s *stream) fits(topic, workspace string) bool {
	return (s.workspaces == nil || slices.Contains(s.workspaces, workspace)) &&
		(s.topics == nil || slices.ContainsFunc(s.topics, func(pattern string) bool { return topicpattern.Matches(pattern, topic) }))
}

// offer adds a notification, or counts it as lost if there is no room for it.
func (s *stream) offer(seen *sighting) {
	if seen.Request != nil && !s.requests {
		bare := *seen // or else the stream would keep the body in memory
		bare.Request = nil
		seen = &bare
	}
	size := seen.size()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= maxStreamLines || s.bytes+size > maxStreamBytes {
		s.lost++
	} else {
		s.flushLost()
		s.waiting = append(s.waiting, streamEntry{sighting: seen})
		s.bytes += size
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// flushLost makes an entry of what was lost since the last one. It needs s.mu.
func (s *stream) flushLost() {
	if s.lost > 0 {
		s.waiting = append(s.waiting, streamEntry{lost: s.lost})
		s.lost = 0
	}
}

// next removes the next entry. It reports whether there is one.
func (s *stream) next() (entry streamEntry, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		s.flushLost()
	}
	if len(s.waiting) == 0 {
		s.waiting = nil // so that the memory of a past flood is freed
		return streamEntry{}, false
	}
	entry = s.waiting[0]
	s.waiting[0] = streamEntry{}
	s.waiting = s.waiting[1:]
	if entry.sighting != nil {
		s.bytes -= entry.sighting.size()
	}
	return entry, true
}
