package intercomwebhook

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
)

func TestSpoofedHeadersAreTakenOff(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header = http.Header{
		"X-Intercom-Topic":           {"spoofed"},
		"X-Intercom-Notification-Id": {"spoofed"},
		"X-Intercom-Anything":        {"spoofed"},
		"x-intercom-topic":           {"not canonical"},
		"X-INTERCOM-APP-ID":          {"not canonical"},
		"X_intercom_topic":           {"the same to CGI"},
		"X-Intercom.Topic":           {"the same to PHP"},
		"X.intercom_topic":           {"the same to PHP"},

		"X-Intercom":      {"kept"},
		"X-Intercomtopic": {"kept"},
		"X-Hub-Signature": {"kept"},
		"X-Request-Id":    {"kept"},
		"Intercom-Topic":  {"kept"},
	}
	newTag(prepared(r))
	for name, values := range r.Header {
		if values[0] != "kept" {
			t.Errorf("%s is still there", name)
		}
	}
	if len(r.Header) != 5 {
		t.Errorf("kept %d headers of 5", len(r.Header))
	}
}

func TestTagSetsHeaders(t *testing.T) {
	header := make(http.Header)
	(&tag{Envelope: envelope.Envelope{Topic: "user.created", ID: "notif_1", AppID: "a1"}}).setHeaders(header)
	for name, want := range map[string]string{
		"X-Intercom-Topic": "user.created", "X-Intercom-App-Id": "a1", "X-Intercom-Notification-Id": "notif_1",
	} {
		if got := header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %v, want %s", name, got, want)
		}
	}

	header = make(http.Header)
	(&tag{Envelope: envelope.Envelope{Topic: "ping"}}).setHeaders(header)
	if len(header) != 1 {
		t.Errorf("headers without a value: %v", header)
	}
}

func TestTagHasPlaceholders(t *testing.T) {
	r := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	tag := newTag(r)

	read := func() map[string]string {
		values := make(map[string]string)
		for _, name := range []string{"kind", "topic", "app_id", "id", "created_at", "delivery_attempts", "reason", "stale"} {
			value, known := repl.GetString("http.intercom_webhook." + name)
			if !known {
				t.Errorf("%s is not known", name)
			}
			if value != "" {
				values[name] = value
			}
		}
		return values
	}
	if got := read(); len(got) != 0 {
		t.Errorf("before verification: %v", got)
	}
	tag.kind, tag.Envelope = kindNotification, envelope.Envelope{Topic: "user.created", ID: "notif_1", AppID: "a1", CreatedAt: 1768031794, DeliveryAttempts: 2}
	if got, want := read(), map[string]string{
		"kind": "notification", "topic": "user.created", "app_id": "a1", "id": "notif_1",
		"created_at": "1768031794", "delivery_attempts": "2",
	}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, known := repl.Get("http.intercom_webhook.secret"); known {
		t.Error("any name is known")
	}
}

func TestTagIsLogged(t *testing.T) {
	enc := zapcore.NewMapObjectEncoder()
	tag := &tag{
		kind: kindNotification, result: result{lane: "crm", label: "crm", Outcome: shield.Outcome{Status: 410}},
		Envelope: envelope.Envelope{Topic: "user.created", ID: "notif_1", AppID: "a1", CreatedAt: 1768031794, DeliveryAttempts: 2},
	}
	if err := tag.MarshalLogObject(enc); err != nil {
		t.Fatal(err)
	}
	if want := map[string]any{
		"kind": "notification", "topic": "user.created", "app_id": "a1", "id": "notif_1", "lane": "crm",
		"created_at": int64(1768031794), "delivery_attempts": int64(2), "backend_status": 410,
	}; !maps.Equal(enc.Fields, want) {
		t.Errorf("got %v, want %v", enc.Fields, want)
	}
}
