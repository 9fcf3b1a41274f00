package intercomwebhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/romshark/jscan/v2"
)

// envelope holds the top-level fields of a notification that are of use to a
// gateway. A field other than the topic is left empty if it is missing, null or
// not of its documented type: no notification is lost over it.
// Source: https://developers.intercom.com/docs/references/webhooks/webhook-models
type envelope struct {
	topic            string
	id               string // "notif_" + UUID; null for ping
	appID            string // of the workspace
	createdAt        int64  // unix seconds
	deliveryAttempts int64
}

const (
	// maxDepth bounds the nesting of a notification; the deepest one seen had 9 levels.
	maxDepth = 1000
	// maxHeaderValue bounds, in bytes, what becomes a header; the longest known topic
	// has 37.
	maxHeaderValue = 255
)

var (
	errNoObject      = errors.New("body is not a JSON object")
	errTooDeep       = errors.New("body is nested too deeply")
	errTopicMissing  = errors.New("no topic at the top level")
	errTopicInvalid  = errors.New("topic is not a dotted name of [A-Za-z0-9_-] segments")
	errFieldRepeated = errors.New("a top-level field is repeated")
	errFieldCase     = errors.New("a top-level field differs from one of the envelope only in case")
)

// parseEnvelope reads the envelope of a notification. The body must be one
// strictly valid JSON object, of which only the top level is looked at: the
// notification's data holds look-alikes of every field. Invalid UTF-8 inside
// strings is let pass, as encoding/json does.
func parseEnvelope(body []byte) (envelope, error) {
	var e envelope
	var seen fieldSet
	err := errNoObject // until the root value proves to be one
	syntax := jscan.Scan(body, func(i *jscan.Iterator[[]byte]) (stop bool) {
		switch level := i.Level(); {
		case level > 1: // most values, so nothing else is done here
			return level > maxDepth
		case level == 1:
			err = e.take(i, &seen)
		case i.ValueType() == jscan.ValueTypeObject:
			err = nil
		}
		return err != nil
	})
	switch {
	case err != nil:
		return envelope{}, err
	case syntax.Code == jscan.ErrorCodeCallback:
		return envelope{}, errTooDeep
	case syntax.IsErr():
		// not its text, which quotes the body
		return envelope{}, fmt.Errorf("body is not valid JSON at byte %d", syntax.Index)
	case e.topic == "":
		return envelope{}, errTopicMissing
	}
	return e, nil
}

// envelopeFields are the keys of the fields that take reads.
var envelopeFields = [][]byte{
	[]byte("topic"), []byte("id"), []byte("app_id"), []byte("created_at"), []byte("delivery_attempts"),
}

// fieldSet remembers the fields of an envelope that were met.
type fieldSet uint8

const (
	fieldTopic fieldSet = 1 << iota
	fieldID
	fieldAppID
	fieldCreatedAt
	fieldDeliveryAttempts
)

func (s *fieldSet) add(field fieldSet) error {
	if *s&field != 0 {
		return errFieldRepeated
	}
	*s |= field
	return nil
}

// take keeps the top-level member that the iterator stands on, if it is one of
// the envelope's fields. A repeated field is refused, and one that differs only in
// case: parsers differ on which one counts, and the backend must not see another topic
// than the one it was routed by.
func (e *envelope) take(i *jscan.Iterator[[]byte], seen *fieldSet) (err error) {
	key := i.Key()
	name := key[1 : len(key)-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		name = []byte(unquote(key))
	}
	switch string(name) {
	case "topic":
		if err = seen.add(fieldTopic); err == nil {
			e.topic, err = topicValue(i)
		}
	case "id":
		e.id, err = idValue(i), seen.add(fieldID)
	case "app_id":
		e.appID, err = idValue(i), seen.add(fieldAppID)
	case "created_at":
		e.createdAt, err = intValue(i), seen.add(fieldCreatedAt)
	case "delivery_attempts":
		e.deliveryAttempts, err = intValue(i), seen.add(fieldDeliveryAttempts)
	default:
		if foldsToField(name) {
			err = errFieldCase
		}
	}
	return err
}

// foldsToField reports whether encoding/json, which ignores case, would take the key
// for a field of the envelope. Unicode's case folding includes ſ (U+017F) for s and
// K (U+212A) for k.
func foldsToField(key []byte) bool {
	return slices.ContainsFunc(envelopeFields, func(field []byte) bool { return bytes.EqualFold(key, field) })
}

func topicValue(i *jscan.Iterator[[]byte]) (string, error) {
	if i.ValueType() != jscan.ValueTypeString {
		return "", errTopicInvalid
	}
	topic := unquote(i.Value())
	if !validTopic(topic) {
		return "", errTopicInvalid
	}
	return topic, nil
}

// idValue returns a string that is fit to be a header value, or else nothing.
func idValue(i *jscan.Iterator[[]byte]) string {
	if i.ValueType() != jscan.ValueTypeString {
		return ""
	}
	id := unquote(i.Value())
	if len(id) > maxHeaderValue {
		return ""
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' {
			return ""
		}
	}
	return id
}

func intValue(i *jscan.Iterator[[]byte]) int64 {
	if i.ValueType() != jscan.ValueTypeNumber {
		return 0
	}
	n, err := strconv.ParseInt(string(i.Value()), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// unquote returns the text of a JSON string that jscan has found to be valid.
func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var text string
	_ = json.Unmarshal(quoted, &text) // cannot fail, see above
	return text
}
