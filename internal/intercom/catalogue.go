package intercom

import (
	_ "embed" // for catalogueFile
	"encoding/json"
	"slices"
	"strings"
)

// TopicPing is the topic of the notification that Intercom sends to test an endpoint.
const TopicPing = "ping"

// FinPrefix is what the topics of Fin Agent API events begin with; their event_name follows.
const FinPrefix = "fin."

// Topic is what is known about a topic.
type Topic struct {
	Name   string `json:"topic"`
	Object string `json:"object"`          // what its notifications carry, as the docs call it
	Since  string `json:"since,omitempty"` // the first version of the API that has it; empty if no docs say so
	Until  string `json:"until,omitempty"` // the last version of the API that has it; empty if the newest one does
	Note   string `json:"note,omitempty"`  // what is unusual about it; empty if nothing is

	sample string // of the object (samples/<name>.json)
}

// Catalogue returns every known topic, sorted by name.
func Catalogue() []Topic { return slices.Clone(catalogue) }

// Topics returns the name of every known topic, sorted.
func Topics() []string {
	names := make([]string, len(catalogue))
	for i, topic := range catalogue {
		names[i] = topic.Name
	}
	return names
}

// FinTopics returns the topic of every known event of the Fin Agent API, sorted. They are not in
// the catalogue, because nobody can subscribe to them.
func FinTopics() []string { return slices.Clone(finTopics) }

var finTopics = []string{FinPrefix + "csat_requested", FinPrefix + "fin_replied", FinPrefix + "fin_status_updated"}

// IsFin reports whether the topic is that of an event of the Fin Agent API.
func IsFin(topic string) bool { return strings.HasPrefix(topic, FinPrefix) }

// IsKnown reports whether Intercom is known to send notifications of the topic.
func IsKnown(topic string) bool {
	_, known := find(topic)
	return known || slices.Contains(finTopics, topic)
}

// Label returns the topic if it is a known one, or else "other". Senders can choose any
// topic, and metrics must not get a new series for each.
func Label(topic string) string {
	if IsKnown(topic) {
		return topic
	}
	return OtherTopics
}

// OtherTopics is the label that all unknown topics share.
const OtherTopics = "other"

func find(name string) (Topic, bool) {
	i, found := slices.BinarySearchFunc(catalogue, name, func(t Topic, name string) int { return strings.Compare(t.Name, name) })
	if !found {
		return Topic{}, false
	}
	return catalogue[i], true
}

// catalogue has every known topic, sorted by name.
//
// It has the topics that Intercom's docs list for the API versions 1.0 to 2.17 and
// Preview, and those of captured notifications ("real ones"). Where the two disagree about
// a name, it has both names. Where they disagree about the object, the sample has the
// shape of the captured one. A 1.x topic whose object was never captured has the sample
// of its successor.
//
// Intercom adds topics without notice, so this list must not decide whether a
// notification is accepted.
// Source: https://developers.intercom.com/docs/references/webhooks/webhook-models
var catalogue = func() (topics []Topic) {
	var entries []struct {
		Topic
		Sample string `json:"sample"`
	}
	if err := json.Unmarshal(catalogueFile, &entries); err != nil {
		panic(err) // a test has read it
	}
	for _, entry := range entries {
		entry.sample = entry.Sample
		topics = append(topics, entry.Topic)
	}
	return topics
}()

//go:embed catalogue.json
var catalogueFile []byte
