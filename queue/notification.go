package queue

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

// notification is a notification as it is stored, in the arguments of a job.
type notification struct {
	Topic      string    `json:"topic"`
	Endpoint   string    `json:"endpoint"`
	AppID      string    `json:"app_id"`
	ID         string    `json:"id"`
	ReceivedAt time.Time `json:"received_at"`
	Request    request   `json:"request"`
	Body       octets    `json:"body"`

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
	LocalAddr  address             `json:"local_addr,omitzero"`
	Header     map[string][]octets `json:"header"`

	// The method and the URI before Caddy rewrote them, if it did.
	OriginalMethod string `json:"original_method,omitempty"`
	OriginalURI    octets `json:"original_uri,omitempty"`
}

// address is one of a connection, as its net.Addr names it. Requests that were stored by
// a version that kept no address have an empty one.
type address struct {
	Kind string `json:"network,omitempty"`
	Text string `json:"address,omitempty"`
}

// Network implements net.Addr.
func (a address) Network() string { return a.Kind }

// String implements net.Addr.
func (a address) String() string { return a.Text }

// Kind names the kind of job, for River.
func (notification) Kind() string { return "intercom_notification" }

// everyState has the bits of all states that River knows: a notification is a duplicate
// for as long as the row of the first one is there.
const everyState = 1<<8 - 1

// job makes a job of a request. River would do that itself, but in the one goroutine
// that stores, and encode the body twice.
func job(r *http.Request, options *Options, n intercomwebhook.Notification) (*riverdriver.JobInsertFastParams, error) {
	args, err := json.Marshal(pack(r, options.Name, n))
	if err != nil {
		return nil, err
	}
	j := &riverdriver.JobInsertFastParams{
		EncodedArgs: args,
		Kind:        notification{}.Kind(),
		MaxAttempts: options.MaxAttempts,
		Metadata:    []byte("{}"),
		Priority:    river.PriorityDefault,
		Queue:       riverQueue(options.Name, cmp.Or(n.Lane, unroutedLane)),
		State:       rivertype.JobStateAvailable,
		Tags:        []string{},
	}
	if n.ID != "" { // or else it is a duplicate of no other
		key := sha256.Sum256([]byte(strings.Join([]string{options.Name, n.AppID, n.ID}, "\x00")))
		j.UniqueKey, j.UniqueStates = key[:], everyState
	}
	return j, nil
}

// pack makes a notification of a request.
func pack(r *http.Request, endpoint string, n intercomwebhook.Notification) *notification {
	packed := &notification{
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
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		packed.Request.LocalAddr = address{local.Network(), local.String()}
	}
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if ok && (original.Method != r.Method || original.RequestURI != packed.Request.URI) {
		packed.Request.OriginalMethod, packed.Request.OriginalURI = original.Method, octets(original.RequestURI)
	}
	for name, values := range r.Header {
		for _, value := range values {
			packed.Request.Header[name] = append(packed.Request.Header[name], octets(value))
		}
	}
	return packed
}

// errStoredURI does not wrap the error of url.ParseRequestURI, which quotes the URI.
var errStoredURI = errors.New("stored request: the URI is not valid")

// unpack rebuilds the request as it was stored, but for its body. Its context is ctx,
// with what a server would have put there.
func (n *notification) unpack(ctx context.Context) (*http.Request, error) {
	stored := n.Request
	target, err := url.ParseRequestURI(stored.URI)
	if err != nil {
		return nil, errStoredURI
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
	// Caddy's placeholders panic without a local address.
	ctx = context.WithValue(ctx, http.LocalAddrContextKey, net.Addr(stored.LocalAddr))
	if stored.OriginalURI != "" {
		original := http.Request{Method: stored.OriginalMethod, RequestURI: string(stored.OriginalURI), RemoteAddr: stored.RemoteAddr}
		if original.URL, err = url.ParseRequestURI(original.RequestURI); err != nil {
			return nil, errStoredURI
		}
		ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, original)
	}
	return r.WithContext(ctx), nil
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
