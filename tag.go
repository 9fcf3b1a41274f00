package intercomwebhook

import (
	"net/http"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// What a verified request can be, as in {http.intercom_webhook.kind}.
const (
	kindNotification = "notification"
	kindAppRequest   = "app_request"
)

const (
	placeholderPrefix = "http.intercom_webhook."
	logField          = "intercom_webhook"
	headerPrefix      = "X-Intercom-"

	// tagVar is the variable that holds the request's tag, for the matcher.
	tagVar = "intercom_webhook.tag"
)

// tag is what this module knows of a request. Handlers, matchers and the access
// log see it as placeholders and log fields, backends see it as headers. It is
// empty until the request is verified.
type tag struct {
	kind   string
	reason string // of the refusal, if it was refused
	envelope

	attempt string // number of the delivery attempt of a queue; empty without a queue
	result  result // for the access log, once the route has run

	headerValues [4]string // spares an allocation for each header
}

// hopHeaders concern the connection to Intercom and must not reach further: by
// Connection the sender could have reverse_proxy drop any header, a tag or the
// signature too, and the other two ask for what is no notification's business.
var hopHeaders = []string{"Connection", "Upgrade", "Incremental"}

// newTag attaches an empty tag to the request. It takes away the headers with which
// a sender could have tagged it itself, or kept a tag from the backend.
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
	if fields, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		fields.Add(zap.Object(logField, t))
	}
	return t
}

// spoofsTag reports whether a backend could take the header for one of ours. CGI
// and its heirs read a _ or . in its name as a -; Caddy drops these names by
// default, but can be told to expect them.
func spoofsTag(name string) bool {
	if len(name) < len(headerPrefix) {
		return false
	}
	for i, want := range []byte(headerPrefix) {
		got := name[i]
		if got == '_' || got == '.' {
			got = '-'
		}
		if got|0x20 != want|0x20 { // the bit that tells lower from upper case
			return false
		}
	}
	return true
}

// setNotification makes the tag that of a notification, and sets the headers of the
// request.
func (t *tag) setNotification(header http.Header, e envelope) {
	t.kind, t.envelope = kindNotification, e
	t.setHeaders(header)
}

// setHeaders tells the backend what the notification is, so that it need not
// parse the body to dispatch it.
func (t *tag) setHeaders(header http.Header) {
	t.headerValues = [...]string{t.topic, t.appID, t.id, t.attempt}
	header["X-Intercom-Topic"] = t.headerValues[0:1:1]
	if t.appID != "" {
		header["X-Intercom-App-Id"] = t.headerValues[1:2:2]
	}
	if t.id != "" {
		header["X-Intercom-Notification-Id"] = t.headerValues[2:3:3]
	}
	if t.attempt != "" {
		header["X-Intercom-Attempt"] = t.headerValues[3:4:4]
	}
}

func (t *tag) placeholder(key string) (any, bool) {
	name, ours := strings.CutPrefix(key, placeholderPrefix)
	if !ours {
		return nil, false
	}
	switch name {
	case "kind":
		return t.kind, true
	case "topic":
		return t.topic, true
	case "app_id":
		return t.appID, true
	case "id":
		return t.id, true
	case "created_at":
		return t.number(t.createdAt), true
	case "delivery_attempts":
		return t.number(t.deliveryAttempts), true
	case "reason":
		return t.reason, true
	}
	return nil, false
}

// number returns a number of the envelope, or nothing where there is no envelope.
func (t *tag) number(n int64) any {
	if t.kind != kindNotification {
		return ""
	}
	return n
}

// MarshalLogObject writes the tag to the access log.
func (t *tag) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	addString := func(name, value string) {
		if value != "" {
			enc.AddString(name, value)
		}
	}
	addString("kind", t.kind)
	addString("reason", t.reason)
	addString("topic", t.topic)
	addString("app_id", t.appID)
	addString("id", t.id)
	if t.kind == kindNotification {
		enc.AddInt64("created_at", t.createdAt)
		enc.AddInt64("delivery_attempts", t.deliveryAttempts)
	}
	return t.result.MarshalLogObject(enc)
}

// Interface guard
var _ zapcore.ObjectMarshaler = (*tag)(nil)
