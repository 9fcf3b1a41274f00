package queue

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// notification is a notification as it is stored, in the arguments of a job.
type notification struct {
	Topic      string    `json:"topic"`
	Endpoint   string    `json:"endpoint"`
	AppID      string    `json:"app_id"`
	ID         string    `json:"id"`
	To         string    `json:"to,omitempty"` // the lane to deliver to, whatever the topic; empty: that of the route that fits
	ReceivedAt time.Time `json:"received_at"`
	Request    request   `json:"request"`
	Body       octets    `json:"body"`

	Kind string `json:"-"` // of the job: the topic if it is a known one, or else "other"
}

// request is a request without its body.
type request struct {
	Method     string              `json:"method"`
	URI        octets              `json:"uri"`
	Proto      string              `json:"proto"`
	HTTPS      bool                `json:"https,omitempty"`
	Host       octets              `json:"host"`
	RemoteAddr string              `json:"remote_addr"`
	LocalAddr  address             `json:"local_addr,omitzero"`
	Header     map[string][]octets `json:"header"`

	// The method and the URI before Caddy rewrote them, if it did.
	OriginalMethod string `json:"original_method,omitempty"`
	OriginalURI    octets `json:"original_uri,omitempty"`
}

// address is the address of one end of a connection: the two strings of a net.Addr. It is
// empty in requests that an older version has stored.
type address struct {
	Kind string `json:"network,omitempty"`
	Text string `json:"address,omitempty"`
}

// Network implements net.Addr.
func (a address) Network() string { return a.Kind }

// String implements net.Addr.
func (a address) String() string { return a.Text }

// newNotification returns the notification to store for a request.
func newNotification(r *http.Request, endpoint string, n intercomwebhook.Notification) *notification {
	note := &notification{
		Kind:       n.Kind,
		Topic:      n.Topic,
		Endpoint:   endpoint,
		AppID:      n.AppID,
		ID:         n.ID,
		ReceivedAt: time.Now().UTC(),
		Request: request{
			Method:     r.Method,
			URI:        octets(r.URL.RequestURI()),
			Proto:      r.Proto,
			HTTPS:      r.TLS != nil,
			Host:       octets(r.Host),
			RemoteAddr: r.RemoteAddr,
			Header:     make(map[string][]octets, len(r.Header)),
		},
		Body: octets(n.Body),
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		note.Request.LocalAddr = address{local.Network(), local.String()}
	}
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if ok && (original.Method != r.Method || original.RequestURI != string(note.Request.URI)) {
		note.Request.OriginalMethod, note.Request.OriginalURI = original.Method, octets(original.RequestURI)
	}
	for name, values := range r.Header {
		for _, value := range values {
			note.Request.Header[name] = append(note.Request.Header[name], octets(value))
		}
	}
	return note
}

// job returns a job for the notification. The lane is that of the first route that fits;
// empty if none does.
func (n *notification) job(lane string, options *Options) *jobdb.NewJob {
	job := n.keylessJob(cmp.Or(lane, unroutedLane), options)
	if n.ID != "" { // without an id, it cannot be recognized as a duplicate
		key := sha256.Sum256([]byte(strings.Join([]string{options.Name, n.AppID, n.ID}, "\x00")))
		job.UniqueKey = key[:]
	}
	return job
}

// copyFor returns a copy of the notification that is to go to the lane, and its job. The
// copy shares the body and the header with the notification.
func (n *notification) copyFor(lane string, options *Options) (*notification, *jobdb.NewJob) {
	copied := *n
	copied.To = lane
	return &copied, copied.keylessJob(lane, options)
}

// keylessJob returns a job that is a duplicate of none.
func (n *notification) keylessJob(lane string, options *Options) *jobdb.NewJob {
	job := &jobdb.NewJob{
		Queue:       riverQueue(options.Name, lane),
		Kind:        n.Kind,
		Args:        n.encode(),
		MaxAttempts: options.MaxAttempts,
	}
	for _, tag := range []string{n.AppID, n.ID} {
		if tag != "" {
			job.Tags = append(job.Tags, tag)
		}
	}
	return job
}

// header returns the headers as net/http has them.
func (r request) header() http.Header {
	header := make(http.Header, len(r.Header))
	for name, values := range r.Header {
		for _, value := range values {
			header[name] = append(header[name], string(value))
		}
	}
	return header
}

// errStoredURI does not wrap the error of url.ParseRequestURI, which has the URI in it.
var errStoredURI = errors.New("stored request: the URI is not valid")

// request returns the request as it was received, but without its body. Its context is ctx
// with the values that a server would have added.
func (n *notification) request(ctx context.Context) (*http.Request, error) {
	stored := n.Request
	target, err := url.ParseRequestURI(string(stored.URI))
	if err != nil {
		return nil, errStoredURI
	}
	r := &http.Request{
		Method:     stored.Method,
		URL:        target,
		RequestURI: string(stored.URI),
		Proto:      stored.Proto,
		Host:       string(stored.Host),
		RemoteAddr: stored.RemoteAddr,
		Header:     stored.header(),
		Body:       http.NoBody,
	}
	r.ProtoMajor, r.ProtoMinor, _ = http.ParseHTTPVersion(stored.Proto)
	if stored.HTTPS {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true}
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
