package intercomwebhook

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// samples holds one data.item per kind of object, shaped as captured
// notifications are and filled with invented data.
//
//go:embed samples/*.json
var samples embed.FS

const (
	sampleAppID = "exmpl123" // the workspace of all samples

	// topicPlaceholder stands in a sample whose item names its own topic.
	topicPlaceholder = "{topic}"
)

// sampleNotification is a whole notification, with its fields in the order that
// was captured: id and topic come after data.
type sampleNotification struct {
	Type             string     `json:"type"`
	AppID            string     `json:"app_id"`
	Data             sampleData `json:"data"`
	Links            struct{}   `json:"links"`
	ID               *string    `json:"id"`
	Topic            string     `json:"topic"`
	DeliveryStatus   *string    `json:"delivery_status"`
	DeliveryAttempts int        `json:"delivery_attempts"`
	DeliveredAt      int64      `json:"delivered_at"`
	FirstSentAt      int64      `json:"first_sent_at"`
	CreatedAt        int64      `json:"created_at"`
	Self             *string    `json:"self"`
}

type sampleData struct {
	Type string          `json:"type"`
	Item json.RawMessage `json:"item"`
}

// newSampleNotification builds a notification of a known topic, created now and
// with an id of its own.
func newSampleNotification(topic string) (*sampleNotification, error) {
	item, err := samples.ReadFile("samples/" + knownTopics[topic] + ".json")
	if err != nil {
		return nil, fmt.Errorf("reading the sample of topic %q: %w", topic, err)
	}
	now := time.Now().Unix()
	n := &sampleNotification{
		Type:  "notification_event",
		AppID: sampleAppID,
		Data: sampleData{
			Type: "notification_event_data",
			Item: bytes.ReplaceAll(item, []byte(topicPlaceholder), []byte(topic)),
		},
		Topic:            topic,
		DeliveryAttempts: 1,
		FirstSentAt:      now,
		CreatedAt:        now,
	}
	if topic != topicPing { // a ping has neither
		n.ID = new("notif_" + uuid.NewString())
		n.DeliveryStatus = new("pending")
	}
	return n, nil
}

// encode writes the notification as Intercom does: one compact line of raw UTF-8.
func (n *sampleNotification) encode() ([]byte, error) {
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(n); err != nil {
		return nil, fmt.Errorf("encoding a notification of topic %q: %w", n.Topic, err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
