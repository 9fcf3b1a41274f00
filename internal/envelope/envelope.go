// Package envelope reads the top-level fields of a notification.
package envelope

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/romshark/jscan/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// Envelope has the top-level fields of a notification that this module uses. A field other
// than the topic is empty if it is missing, null or not of its documented type, so that no
// notification is lost because of it.
// Source: https://developers.intercom.com/docs/references/webhooks/webhook-models
type Envelope struct {
	Topic            string
	ID               string // "notif_" + UUID; null for ping
	AppID            string // of the workspace
	CreatedAt        int64  // unix seconds
	DeliveryAttempts int64
}

// MaxHeaderValue is the longest text that becomes a header, in bytes. The longest known
// topic has 37.
const MaxHeaderValue = 255

var (
	errNoObject      = errors.New("body is not a JSON object")
	errTooDeep       = errors.New("body is nested too deeply")
	errTopicMissing  = errors.New("no topic at the top level")
	errTopicInvalid  = errors.New("topic is not a dotted name of [A-Za-z0-9_-] segments")
	errFieldRepeated = errors.New("a top-level field is repeated")
	errFieldCase     = errors.New("a top-level field differs from one of the envelope only in case")
)

// Parse reads the envelope of a notification. The body must be one strictly valid
// JSON object. Only its top level is read, because the data of a notification may have
// fields with the same names. Invalid UTF-8 in strings is accepted, as in encoding/json. The
// same walk finds the values of a plan.
func Parse(body []byte, plan *fields.Plan) (e Envelope, values fields.Values, err error) {
	walk := plan.Start()
	if walk != nil {
		defer walk.End()
	}
	var seen fieldSet
	reach := 1        // the deepest level that is looked at now
	err = errNoObject // until the root value is an object
	syntax := jscan.Scan(body, func(i *jscan.Iterator[[]byte]) (stop bool) {
		level := i.Level()
		if level > reach { // most values are here, so this must be fast
			return level > fields.MaxDepth
		}
		switch {
		case level == 1:
			err = e.set(i, &seen)
		case level == 0 && i.ValueType() == jscan.ValueTypeObject:
			err = nil
		}
		if walk != nil && err == nil {
			err = walk.Visit(i)
			reach = max(1, walk.Reach)
		}
		return err != nil
	})
	switch {
	case err != nil:
	case syntax.Code == jscan.ErrorCodeCallback:
		err = errTooDeep
	case syntax.IsErr():
		// The text of syntax is not used, because it quotes the body.
		err = fmt.Errorf("body is not valid JSON at byte %d", syntax.Index)
	case e.Topic == "":
		err = errTopicMissing
	case walk != nil:
		values, err = walk.Values()
	}
	if err != nil {
		return Envelope{}, fields.Values{}, err
	}
	return e, values, nil
}

// keys has the keys of the fields that set reads.
var keys = [][]byte{[]byte("topic"), []byte("id"), []byte("app_id"), []byte("created_at"), []byte("delivery_attempts")}

// fieldSet tells which of keys were found.
type fieldSet [5]bool

// set reads the current member of the top level, if it is a field of the envelope. It
// refuses a repeated field, and a field that differs from another only in case. Parsers
// differ on which one they use, and the backend must not read another topic than the one
// that decided the route.
func (e *Envelope) set(i *jscan.Iterator[[]byte], seen *fieldSet) (err error) {
	name := fields.Text(i.Key())
	// As encoding/json, which ignores case: in Unicode, ſ (U+017F) is s, and K (U+212A) is k.
	field := slices.IndexFunc(keys, func(field []byte) bool { return bytes.EqualFold(name, field) })
	switch {
	case field < 0:
		return nil
	case !bytes.Equal(name, keys[field]):
		return errFieldCase
	case seen[field]:
		return errFieldRepeated
	}
	seen[field] = true
	switch string(name) {
	case "topic":
		e.Topic, err = topicValue(i)
	case "id":
		e.ID = idValue(i)
	case "app_id":
		e.AppID = idValue(i)
	case "created_at":
		e.CreatedAt = intValue(i)
	case "delivery_attempts":
		e.DeliveryAttempts = intValue(i)
	}
	return err
}

func topicValue(i *jscan.Iterator[[]byte]) (string, error) {
	if i.ValueType() != jscan.ValueTypeString {
		return "", errTopicInvalid
	}
	topic := string(fields.Text(i.Value()))
	if len(topic) > MaxHeaderValue || !topicpattern.IsTopic(topic) {
		return "", errTopicInvalid
	}
	return topic, nil
}

// idValue returns the value if it is a string that can be a header value, or else an empty
// string.
func idValue(i *jscan.Iterator[[]byte]) string {
	if i.ValueType() != jscan.ValueTypeString {
		return ""
	}
	id := string(fields.Text(i.Value()))
	if len(id) > MaxHeaderValue {
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
