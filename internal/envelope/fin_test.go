package envelope

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestParseFin(t *testing.T) {
	for name, tc := range map[string]struct {
		body  string
		topic string // empty: refused
		id    string
		err   error
	}{
		"ok/an event":                   {body: `{"event_name":"fin_replied","conversation_id":"c1"}`, topic: "fin.fin_replied", id: "fin_d411af15be2c6ce80986251c7bb8f860"},
		"ok/one more byte is another":   {body: `{"event_name":"fin_replied","conversation_id":"c1"} `, topic: "fin.fin_replied", id: "fin_"},
		"ok/an event of tomorrow":       {body: `{"event_name":"Csat-v2.requested"}`, topic: "fin.Csat-v2.requested", id: "fin_"},
		"ok/a test, without event_name": {body: `{"ping":true}`, topic: "ping"},
		"ok/look-alikes deeper":         {body: `{"message":{"event_name":"x","topic":"y"},"event_name":"a"}`, topic: "fin.a", id: "fin_"},
		"ok/fields of an envelope":      {body: `{"topic":"x.y","id":"1","id":"2","app_id":"z","event_name":"a"}`, topic: "fin.a", id: "fin_"},
		"fail/event_name twice":         {body: `{"event_name":"a","event_name":"a"}`, err: errFieldRepeated},
		"fail/event_name in other case": {body: `{"event_name":"a","Event_Name":"b"}`, err: errFieldCase},
		"fail/Event_name alone":         {body: `{"Event_name":"a"}`, err: errFieldCase},
		"fail/conversation_id twice":    {body: `{"conversation_id":"a","converſation_id":"a"}`, err: errFieldCase},
		"fail/event_name null":          {body: `{"event_name":null}`, err: errTopicInvalid},
		"fail/event_name a number":      {body: `{"event_name":1}`, err: errTopicInvalid},
		"fail/event_name empty":         {body: `{"event_name":""}`, err: errTopicInvalid},
		"fail/event_name with a blank":  {body: `{"event_name":"a b"}`, err: errTopicInvalid},
		"fail/event_name with a \\r\\n": {body: `{"event_name":"a\r\nX: y"}`, err: errTopicInvalid},
		"fail/too long with the prefix": {body: `{"event_name":"` + strings.Repeat("x", 252) + `"}`, err: errTopicInvalid},
		"fail/no object":                {body: `["event_name"]`, err: errNoObject},
		"fail/nested too deep":          {body: `{"a":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`, err: errTooDeep},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := ParseFin([]byte(tc.body), nil)
			if !errors.Is(err, tc.err) || got.Topic != tc.topic || !strings.HasPrefix(got.ID, tc.id) || (got.ID == "") != (tc.id == "") || got.Fin != (err == nil) || got.AppID != "" {
				t.Errorf("got %+v, error %v", got, err)
			}
		})
	}
	for text, want := range map[string]int64{
		`"2026-11-30T12:00:00.123Z"`: 1796040000, `"2026-11-30T14:00:00+02:00"`: 1796040000, `1796040000123`: 0, `"yesterday"`: 0, `null`: 0,
	} {
		if got, _, err := ParseFin([]byte(`{"created_at_ms":`+text+`}`), nil); err != nil || got.CreatedAt != want {
			t.Errorf("created_at_ms %s: %d, error %v", text, got.CreatedAt, err)
		}
	}
}

// finEvent has encoding/json read the fields as backends in Go do.
type finEvent struct {
	EventName      *string         `json:"event_name"`
	ConversationID json.RawMessage `json:"conversation_id"`
	CreatedAt      json.RawMessage `json:"created_at_ms"`
}

// FuzzParseFin holds ParseFin against encoding/json, as FuzzParse does.
func FuzzParseFin(f *testing.F) {
	for _, seed := range []string{
		`{"event_name":"fin_replied","conversation_id":"1","status":"replying","message":{"id":"2"},"created_at_ms":"2026-11-30T12:00:00.123Z"}`,
		`{"Event_name":"a"}`, `{"event_name":"a","event_name":"b"}`, `{"event_nam\u0065":"a"}`, `{}`, `{"event_name":null}`, `[]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, _, err := ParseFin(body, nil)
		if err != nil {
			return
		}
		var want finEvent
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("accepted, but encoding/json says: %v", err)
		}
		switch {
		case want.EventName == nil && got.Topic != "ping", want.EventName != nil && got.Topic != "fin."+*want.EventName:
			t.Errorf("got %+v, encoding/json reads %+v", got, want)
		case (got.ID == "") != (got.Topic == "ping"):
			t.Errorf("id %q", got.ID)
		}
	})
}
