package intercomwebhook

import (
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/stream"
)

// The kinds of verified requests, as in {http.intercom_webhook.kind}.
const (
	kindNotification = "notification"
	kindFin          = "fin"
	kindAppRequest   = "app_request"
)

const (
	placeholderPrefix = "http.intercom_webhook."
	logField          = "intercom_webhook"
	headerPrefix      = "X-Intercom-"

	// tagVar is the variable that holds the tag of the request, for matchers.
	tagVar = "intercom_webhook.tag"
)

// tag has what this module knows about a request. Other handlers can read it as
// placeholders, backends as headers, and it is in the access log. It is empty until the
// request is verified.
type tag struct {
	kind   string
	reason string // why the request was refused, empty if it was not
	envelope.Envelope

	attempt string          // number of the delivery attempt of a queue; empty without a queue
	stale   bool            // a newer one about the same object has been delivered
	result  result          // for the access log, once the route has run
	request *stream.Request // for those who listen; nil if nobody wants it

	content []byte        // the body, for placeholders
	fields  fields.Values // of the body, for conditions

	headerValues [4]string // saves an allocation for each header
}

// hopHeaders are headers about the connection to Intercom. They are removed: with
// Connection, a sender could make reverse_proxy drop any header, including a tag or the
// signature. Upgrade and Incremental ask for features that no notification needs.
var hopHeaders = []string{"Connection", "Upgrade", "Incremental"}

// newTag attaches an empty tag to the request. It removes the headers with which a sender
// could forge a tag, or keep a tag from the backend.
func newTag(r *http.Request) *tag {
	for _, name := range hopHeaders {
		delete(r.Header, name)
	}
	for name := range r.Header {
		if spoofsTag(name) {
			delete(r.Header, name)
		}
	}
	t := new(tag)
	caddyhttp.SetVar(r.Context(), tagVar, t)
	r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(t.placeholder)
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Add(zap.Object(logField, t))
	}
	return t
}

// spoofsTag reports whether a backend could confuse the header with one of ours. CGI and
// similar interfaces read _ and . in a name as -. By default Caddy drops headers with
// such names, but it can be configured to keep them.
func spoofsTag(name string) bool {
	if len(name) < len(headerPrefix) {
		return false
	}
	for i, want := range []byte(headerPrefix) {
		got := name[i]
		if got == '_' || got == '.' {
			got = '-'
		}
		if got|0x20 != want|0x20 { // the bit that differs between upper and lower case
			return false
		}
	}
	return true
}

// setNotification makes the tag that of a notification, and sets the headers of the
// request.
func (t *tag) setNotification(header http.Header, e envelope.Envelope) {
	t.kind, t.Envelope = kindNotification, e
	if e.Fin {
		t.kind = kindFin
	}
	t.setHeaders(header)
}

// isNotification reports whether the request is a verified notification. A Fin Agent API event
// is one.
func (t *tag) isNotification() bool { return t.kind == kindNotification || t.kind == kindFin }

// setHeaders sets the headers that tell a backend the topic, so that it can dispatch the
// notification without parsing the body.
func (t *tag) setHeaders(header http.Header) {
	t.headerValues = [...]string{t.Topic, t.AppID, t.ID, t.attempt}
	header["X-Intercom-Topic"] = t.headerValues[0:1:1]
	if t.AppID != "" {
		header["X-Intercom-App-Id"] = t.headerValues[1:2:2]
	}
	if t.ID != "" {
		header["X-Intercom-Notification-Id"] = t.headerValues[2:3:3]
	}
	if t.attempt != "" {
		header["X-Intercom-Attempt"] = t.headerValues[3:4:4]
	}
	if t.stale {
		header["X-Intercom-Stale"] = []string{"true"}
	}
}

// placeholder returns the value of a placeholder. It is a caddy.ReplacerFunc.
func (t *tag) placeholder(key string) (any, bool) {
	name, ours := strings.CutPrefix(key, placeholderPrefix)
	if !ours {
		return nil, false
	}
	switch name {
	case "kind":
		return t.kind, true
	case "topic":
		return t.Topic, true
	case "app_id":
		return t.AppID, true
	case "id":
		return t.ID, true
	case "created_at":
		return t.number(t.CreatedAt), true
	case "delivery_attempts":
		return t.number(t.DeliveryAttempts), true
	case "reason":
		return t.reason, true
	case "stale":
		if t.stale {
			return "true", true
		}
		return "", true
	}
	if path, ok := strings.CutPrefix(name, "field."); ok {
		return fieldOf(t.content, path)
	}
	return nil, false
}

// fieldOf returns the text of a field of a body for a placeholder. It is empty if there is none, or
// if nobody can say which one counts.
func fieldOf(body []byte, path string) (text string, valid bool) {
	if fields.CheckPath(path) != nil {
		return "", false
	}
	var plan fields.Plan
	number := plan.Want(path)
	values, err := plan.Read(body)
	if err != nil {
		return "", true
	}
	return values.Text(number), true
}

// number returns a number of the envelope, or an empty string if there is no envelope.
func (t *tag) number(n int64) any {
	if !t.isNotification() {
		return ""
	}
	return n
}

// MarshalLogObject writes the tag to a log.
func (t *tag) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	logging.AddString(enc, "kind", t.kind)
	logging.AddString(enc, "reason", t.reason)
	logging.AddString(enc, "topic", t.Topic)
	logging.AddString(enc, "app_id", t.AppID)
	logging.AddString(enc, "id", t.ID)
	if t.isNotification() {
		enc.AddInt64("created_at", t.CreatedAt)
		enc.AddInt64("delivery_attempts", t.DeliveryAttempts)
	}
	return t.result.MarshalLogObject(enc)
}

// result is what came of running a route.
type result struct {
	lane     string // empty if no route fits
	label    string // of the lane in metrics and logs
	duration time.Duration
	shield.Outcome
}

// MarshalLogObject writes the result to the logs.
func (r result) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	logging.AddString(enc, "lane", r.label)
	if r.Status != 0 {
		enc.AddInt("backend_status", r.Status)
	}
	return nil
}

// Interface guard
var _ zapcore.ObjectMarshaler = (*tag)(nil)
