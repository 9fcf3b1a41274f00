package queue

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

// notification is a notification as it is stored, in the arguments of a job. The
// fields that are tagged unique make it a duplicate of another.
type notification struct {
	Topic      string    `json:"topic"`
	Endpoint   string    `json:"endpoint" river:"unique"`
	AppID      string    `json:"app_id" river:"unique"`
	ID         string    `json:"id" river:"unique"`
	ReceivedAt time.Time `json:"received_at"`
	Request    request   `json:"request"`
	Body       octets    `json:"body"`

	encoded    []byte        // the JSON of all above
	retryAfter time.Duration // that the backend asked for, once an attempt has failed
}

// request is all of a request but for its body.
type request struct {
	Method     string              `json:"method"`
	URI        string              `json:"uri"`
	Proto      string              `json:"proto"`
	HTTPS      bool                `json:"https,omitempty"`
	Host       string              `json:"host"`
	RemoteAddr string              `json:"remote_addr"`
	Header     map[string][]octets `json:"header"`
}

// Kind names the kind of job, for River.
func (notification) Kind() string { return "intercom_notification" }

// MarshalJSON returns what pack has encoded, outside of the one goroutine that stores.
func (n notification) MarshalJSON() ([]byte, error) { return n.encoded, nil }

// pack makes a notification of a request.
func pack(r *http.Request, endpoint string, n intercomwebhook.Notification) (notification, error) {
	packed := notification{
		Topic:      n.Topic,
		Endpoint:   endpoint,
		AppID:      n.AppID,
		ID:         n.ID,
		ReceivedAt: time.Now().UTC(),
		Request: request{
			Method:     r.Method,
			URI:        r.URL.RequestURI(),
			Proto:      r.Proto,
			HTTPS:      r.TLS != nil,
			Host:       r.Host,
			RemoteAddr: r.RemoteAddr,
			Header:     make(map[string][]octets, len(r.Header)),
		},
		Body: octets(n.Body),
	}
	for name, values := range r.Header {
		for _, value := range values {
			packed.Request.Header[name] = append(packed.Request.Header[name], octets(value))
		}
	}
	type plain notification // without MarshalJSON
	var err error
	packed.encoded, err = json.Marshal(plain(packed))
	return packed, err
}

// unpack rebuilds the request, but for its body.
func (n *notification) unpack() (*http.Request, error) {
	stored := n.Request
	target, err := url.ParseRequestURI(stored.URI)
	if err != nil {
		return nil, fmt.Errorf("stored request: %w", err)
	}
	r := &http.Request{
		Method:     stored.Method,
		URL:        target,
		RequestURI: stored.URI,
		Proto:      stored.Proto,
		Host:       stored.Host,
		RemoteAddr: stored.RemoteAddr,
		Header:     make(http.Header, len(stored.Header)),
		Body:       http.NoBody,
	}
	r.ProtoMajor, r.ProtoMinor, _ = http.ParseHTTPVersion(stored.Proto)
	if stored.HTTPS {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	}
	for name, values := range stored.Header {
		for _, value := range values {
			r.Header[name] = append(r.Header[name], string(value))
		}
	}
	return r, nil
}

// insertOpts returns how River is to keep the notification. One without an id is no
// duplicate of any other.
func (n *notification) insertOpts(queue string, maxAttempts int) *river.InsertOpts {
	opts := &river.InsertOpts{Queue: queue, MaxAttempts: maxAttempts}
	if n.ID != "" {
		// by all states: for as long as the row is there
		opts.UniqueOpts = river.UniqueOpts{ByArgs: true, ByState: rivertype.JobStates()}
	}
	return opts
}

// octets are bytes that people can read in the database where they are text. They are
// a JSON string if they are valid UTF-8, and {"base64": "…"} otherwise. PostgreSQL
// keeps no NUL in a string, so that counts as otherwise, too.
type octets string

type base64Octets struct {
	Base64 []byte `json:"base64"`
}

// MarshalJSON implements json.Marshaler.
func (o octets) MarshalJSON() ([]byte, error) {
	if !utf8.ValidString(string(o)) || strings.IndexByte(string(o), 0) >= 0 {
		return json.Marshal(base64Octets{[]byte(o)})
	}
	return json.Marshal(string(o))
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *octets) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '{' {
		var encoded base64Octets
		if err := json.Unmarshal(data, &encoded); err != nil {
			return err
		}
		*o = octets(encoded.Base64)
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	*o = octets(text)
	return nil
}
