package intercom

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// samples has one data.item for each kind of object. They have the shape of captured
// notifications, and invented data.
//
//go:embed samples/*.json
var samples embed.FS

const (
	sampleAppID = "exmpl123" // the workspace of all samples

	// topicPlaceholder is replaced by the topic. Some items contain their topic.
	topicPlaceholder = "{topic}"
)

// Notification is a whole notification. Its fields have the order of captured
// notifications: id and topic come after data.
type Notification struct {
	Type             string   `json:"type"`
	AppID            string   `json:"app_id"`
	Data             Data     `json:"data"`
	Links            struct{} `json:"links"`
	ID               *string  `json:"id"`
	Topic            string   `json:"topic"`
	DeliveryStatus   *string  `json:"delivery_status"`
	DeliveryAttempts int      `json:"delivery_attempts"`
	DeliveredAt      int64    `json:"delivered_at"`
	FirstSentAt      int64    `json:"first_sent_at"`
	CreatedAt        int64    `json:"created_at"`
	Self             *string  `json:"self"`
}

// Data is the part of a notification that carries the object.
type Data struct {
	Type string          `json:"type"`
	Item json.RawMessage `json:"item"`
}

// NewNotification returns a sample notification of a known topic, with the current
// time and a new id.
func NewNotification(topic string) (*Notification, error) {
	known, _ := find(topic)
	item, err := samples.ReadFile("samples/" + known.sample + ".json")
	if err != nil {
		return nil, fmt.Errorf("reading the sample of topic %q: %w", topic, err)
	}
	now := time.Now().Unix()
	n := &Notification{
		Type:  "notification_event",
		AppID: sampleAppID,
		Data: Data{
			Type: "notification_event_data",
			Item: bytes.ReplaceAll(item, []byte(topicPlaceholder), []byte(topic)),
		},
		Topic:            topic,
		DeliveryAttempts: 1,
		FirstSentAt:      now,
		CreatedAt:        now,
	}
	if topic != TopicPing { // a ping has neither
		n.ID = new("notif_" + uuid.NewString())
		n.DeliveryStatus = new("pending")
	}
	return n, nil
}

// Encode returns the notification in the form that Intercom sends: compact JSON on one
// line, without escaped characters.
func (n *Notification) Encode() ([]byte, error) {
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(n); err != nil {
		return nil, fmt.Errorf("encoding a notification of topic %q: %w", n.Topic, err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// finSamples has one body for each known event of the Fin Agent API, as finTopics names it. They
// have the shape that Intercom's docs give, and invented data.
// Source: https://developers.intercom.com/docs/guides/fin-agent-api
//
//go:embed samples/fin/*.json
var finSamples embed.FS

// NewFinEvent returns the body of a sample event of a known topic, as compact JSON, with the
// current time and a new id, so that no two are the same.
func NewFinEvent(topic string) ([]byte, error) {
	sample, err := finSamples.ReadFile("samples/fin/" + strings.TrimPrefix(topic, FinPrefix) + ".json")
	if err != nil {
		return nil, fmt.Errorf("reading the sample of topic %q: %w", topic, err)
	}
	sample = bytes.ReplaceAll(sample, []byte("{now}"), []byte(time.Now().UTC().Format("2006-01-02T15:04:05.000Z")))
	sample = bytes.ReplaceAll(sample, []byte("{id}"), []byte(uuid.NewString()))
	var body bytes.Buffer
	if err := json.Compact(&body, sample); err != nil {
		return nil, fmt.Errorf("reading the sample of topic %q: %w", topic, err)
	}
	return body.Bytes(), nil
}

// appSamples has one body for each kind of app request. They have the shape that Intercom's
// docs give, and invented data.
// Source: https://developers.intercom.com/docs/canvas-kit
//
//go:embed samples/app_requests/*.json
var appSamples embed.FS

// appRequests maps each kind of app request to its sample
// (samples/app_requests/<name>.json).
var appRequests = map[string]string{
	"health-check": "health_check", // about daily, of each workspace
	"initialize":   "initialize",   // Canvas Kit: the app is shown
	"submit":       "submit",       // Canvas Kit: a component is used
	"uninstall":    "uninstall",
}

// AppRequestKinds returns the kinds of app requests, sorted.
func AppRequestKinds() []string { return slices.Sorted(maps.Keys(appRequests)) }

// NewAppRequest returns the body of a sample app request of a known kind, as compact JSON.
func NewAppRequest(kind string) ([]byte, error) {
	sample, err := appSamples.ReadFile("samples/app_requests/" + appRequests[kind] + ".json")
	if err != nil {
		return nil, fmt.Errorf("reading the sample of app request %q: %w", kind, err)
	}
	var body bytes.Buffer
	if err := json.Compact(&body, sample); err != nil {
		return nil, fmt.Errorf("reading the sample of app request %q: %w", kind, err)
	}
	return body.Bytes(), nil
}
