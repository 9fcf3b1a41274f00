package intercom

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// buildSample returns the notification of a topic as it is sent.
func buildSample(t *testing.T, topic string) []byte {
	t.Helper()
	n, err := NewNotification(topic)
	if err != nil {
		t.Fatal(err)
	}
	body, err := n.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestEveryKnownTopicHasASample(t *testing.T) {
	notifID := regexp.MustCompile(`^notif_[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	for _, topic := range Topics() {
		t.Run(topic, func(t *testing.T) {
			body := buildSample(t, topic)
			var n struct {
				Topic          string
				ID             *string
				DeliveryStatus *string `json:"delivery_status"`
				CreatedAt      int64   `json:"created_at"`
				Data           struct{ Item map[string]any }
			}
			if err := json.Unmarshal(body, &n); err != nil {
				t.Fatalf("is not valid JSON: %v", err)
			}
			if n.Topic != topic {
				t.Errorf("topic = %q", n.Topic)
			}
			if topic == "ping" {
				if n.ID != nil || n.DeliveryStatus != nil {
					t.Errorf("id and delivery_status of a ping are not null: %s", body)
				}
			} else if n.ID == nil || !notifID.MatchString(*n.ID) || n.DeliveryStatus == nil {
				t.Errorf("id or delivery_status is missing or malformed: %s", body)
			}
			if age := time.Since(time.Unix(n.CreatedAt, 0)); age < 0 || age > time.Minute {
				t.Errorf("created_at = %d, which is not now", n.CreatedAt)
			}
			if len(n.Data.Item) == 0 {
				t.Error("item is empty")
			}
			if strings.Contains(string(body), topicPlaceholder) {
				t.Error("the placeholder of the topic is left in")
			}
		})
	}
}

func TestEverySampleIsUsed(t *testing.T) {
	used := make(map[string]bool)
	for _, topic := range Catalogue() {
		used[topic.sample] = true
	}
	files, err := fs.Glob(samples, "samples/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "samples/"), ".json")
		if !used[name] {
			t.Errorf("%s belongs to no topic", file)
		}
	}
}

func TestNotificationIsShapedAsOnTheWire(t *testing.T) {
	body := buildSample(t, "conversation.user.created")

	envelope := regexp.MustCompile(`^\{"type":"notification_event","app_id":"exmpl123","data":\{"type":"notification_event_data","item":\{.*\}\},` +
		`"links":\{\},"id":"notif_[^"]*","topic":"conversation\.user\.created","delivery_status":"pending","delivery_attempts":1,` +
		`"delivered_at":0,"first_sent_at":\d+,"created_at":\d+,"self":null\}$`)
	if !envelope.Match(body) {
		t.Errorf("the envelope is not that of a captured notification: %s", body)
	}
	if !utf8.Valid(body) || strings.Contains(string(body), `\u`) {
		t.Errorf("text is not raw UTF-8: %s", body)
	}
	if other := buildSample(t, "conversation.user.created"); string(body) == string(other) {
		t.Error("two notifications are the same")
	}
}

func TestItemsHaveTheOdditiesOfTheWire(t *testing.T) {
	const absent = "<absent>"
	tests := []struct {
		topic    string
		id, typ  string // as JSON
		wantKeys []string
	}{
		{"admin.away_mode_updated", `4410027`, `"admin"`, nil},
		{"admin.activity_log_event.created", `"7f0a2c55-4c0e-4b8e-9f61-2f5b4b3f9a10"`, `"admin_activity_log_event"`, nil},
		{"api.request.completed", absent, `"api.request.completed"`, []string{"request_id"}},
		{"audience.deleted", `"2207"`, `"audience"`, []string{"deleted"}},
		{"company.contact.attached", absent, absent, []string{"company", "contact"}},
		{"contact.archived", `"68a1c1f29e07d4003b5f1c20"`, `"contact"`, []string{"external_id", "archived"}},
		{"contact.deleted", `"68a1c1f29e07d4003b5f1c20"`, `"contact"`, []string{"external_id", "deleted"}},
		{"contact.lead.tag.created", absent, `"contact_tag"`, []string{"tag", "contact"}},
		{"contact.unsubscribed", absent, `"contact_unsubscribe"`, []string{"contact"}},
		{"content_import_source.deleted", `318`, `"content_import_source"`, []string{"deleted"}},
		{"content_stat.email", absent, `"content_stat.email"`, []string{"content_stat", "contact"}},
		{"content_stat.series.webhook", absent, `"content_stat.series.webhook"`, nil},
		{"conversation.contact.attached", absent, absent, []string{"conversation", "contact"}},
		{"conversation.deleted", absent, `"conversation"`, []string{"conversation_id"}},
		{"conversation_part.redacted", `"301744120095518"`, `"conversation"`, nil},
		{"data_connector.execution.completed", `"77410093"`, `"data_connector.execution"`, nil},
		{"granular.unsubscribe", absent, `"granular_unsubscribe"`, []string{"contact", "subscription_types"}},
		{"ping", absent, `"ping"`, []string{"message"}},
		{"procedure.hitl_notification.created", absent, `"procedure.hitl_notification"`, []string{"callback_url"}},
		{"ticket.contact.replied", absent, `"ticket_ticket_part"`, []string{"ticket", "ticket_part"}},
		{"user.deleted", `"68a1c1f29e07d4003b5f1c20"`, `"user"`, []string{"user_id", "email"}},
		{"visitor.signed_up", `"68a1c1f29e07d4003b5f1c20"`, `"user"`, []string{"user_id"}},
	}
	for _, tt := range tests {
		t.Run(tt.topic, func(t *testing.T) {
			var n struct {
				Data struct{ Item map[string]json.RawMessage }
			}
			if err := json.Unmarshal(buildSample(t, tt.topic), &n); err != nil {
				t.Fatal(err)
			}
			item := n.Data.Item
			for key, want := range map[string]string{"id": tt.id, "type": tt.typ} {
				got, present := item[key]
				if !present {
					got = json.RawMessage(absent)
				}
				if string(got) != want {
					t.Errorf("item.%s = %s, want %s", key, got, want)
				}
			}
			for _, key := range tt.wantKeys {
				if _, present := item[key]; !present {
					t.Errorf("item.%s is missing", key)
				}
			}
		})
	}
}

func TestLargeSamplesAreOfRealisticSize(t *testing.T) {
	for _, topic := range []string{"conversation.user.replied", "conversation.contact.attached", "ticket.created"} {
		if size := len(buildSample(t, topic)); size < 2<<10 || size > 5<<10 {
			t.Errorf("a notification of %s has %d bytes, want 2 to 5 KiB", topic, size)
		}
	}
}

func TestFinEvents(t *testing.T) {
	for _, topic := range FinTopics() {
		first, err := NewFinEvent(topic)
		if err != nil || !IsKnown(topic) || !IsFin(topic) {
			t.Fatal(topic, err)
		}
		second, err := NewFinEvent(topic)
		if err != nil || string(first) == string(second) {
			t.Errorf("%s: two events are the same (%v)", topic, err)
		}
		var event struct {
			EventName      string    `json:"event_name"`
			ConversationID string    `json:"conversation_id"`
			CreatedAt      time.Time `json:"created_at_ms"`
		}
		if err := json.Unmarshal(first, &event); err != nil || FinPrefix+event.EventName != topic || event.ConversationID == "" || time.Since(event.CreatedAt) > time.Minute {
			t.Errorf("%s: %s, error %v", topic, first, err)
		}
	}
	if files, _ := fs.Glob(finSamples, "samples/fin/*.json"); len(files) != len(FinTopics()) {
		t.Errorf("there are %d samples for %d events", len(files), len(FinTopics()))
	}
	if _, err := NewFinEvent("fin.vanished"); err == nil {
		t.Error("an unknown event is no error")
	}
}

func TestSampleOfAnUnknownTopic(t *testing.T) {
	if _, err := NewNotification("conversation.user.vanished"); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", "conversation.user.vanished")) {
		t.Errorf("error = %v, want one that names the topic", err)
	}
}
