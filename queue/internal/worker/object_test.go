package worker

import (
	"strings"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func TestWhatANotificationIsAbout(t *testing.T) {
	for name, tc := range map[string]struct{ topic, body, want string }{
		"an object":                      {"conversation.user.created", `{"data":{"item":{"type":"conversation","id":"123","tags":[{"type":"tag","id":"7"}],"user":{"type":"user","id":"8"}}}}`, "conversation:123"},
		"an id that is a number":         {"conversation.user.created", `{"data":{"item":{"id":123,"type":"conversation"}}}`, "conversation:123"},
		"no type":                        {"conversation.user.created", `{"data":{"item":{"id":"123"}}}`, ""},
		"no id":                          {"conversation.user.created", `{"data":{"item":{"type":"conversation","id":null}}}`, ""},
		"type and id elsewhere":          {"conversation.user.created", `{"type":"a","id":"1","item":{"type":"b","id":"2"},"data":{"type":"c","id":"3","x":{"type":"d","id":"4"}}}`, ""},
		"an id twice":                    {"conversation.user.created", `{"data":{"item":{"type":"conversation","id":"1","ID":"2"}}}`, ""},
		"an id of 200 bytes":             {"conversation.user.created", `{"data":{"item":{"type":"conversation","id":"` + strings.Repeat("x", 200) + `"}}}`, ""},
		"no data, as in a ping":          {"ping", `{"data":null}`, ""},
		"an event of the Fin Agent API":  {"fin.fin_replied", `{"event_name":"fin_replied","conversation_id":"c-1"}`, "fin:c-1"},
		"a conversation_id of no Fin":    {"conversation.user.created", `{"conversation_id":"c-1"}`, ""},
		"an item in an event of the Fin": {"fin.fin_replied", `{"data":{"item":{"type":"conversation","id":"123"}}}`, ""},
	} {
		n := &db.NewNotification{Notification: &db.Notification{Topic: tc.topic, Body: []byte(tc.body)}}
		if new(Endpoint).describe(n); n.Object != tc.want {
			t.Errorf("%s: %q, want %q", name, n.Object, tc.want)
		}
	}
}
