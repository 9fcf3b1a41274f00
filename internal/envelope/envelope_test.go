package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

func TestParse(t *testing.T) {
	whole := Envelope{
		Topic: "conversation.user.replied", ID: "notif_1", AppID: "a1b2c3d4",
		CreatedAt: 1768031794, DeliveryAttempts: 2,
	}
	for name, tc := range map[string]struct {
		body string
		want Envelope
		err  error // if any
	}{
		"ok/topic and id behind the data, as on the wire": {
			body: `{"type":"notification_event","app_id":"a1b2c3d4","data":{"type":"notification_event_data","item":{}},"links":{},"id":"notif_1","topic":"conversation.user.replied","delivery_status":"pending","delivery_attempts":2,"delivered_at":0,"first_sent_at":1,"created_at":1768031794,"self":null}`,
			want: whole,
		},
		"ok/topic and id first, as in the docs": {
			body: `{"topic":"conversation.user.replied","id":"notif_1","app_id":"a1b2c3d4","created_at":1768031794,"delivery_attempts":2,"data":{}}`,
			want: whole,
		},
		"ok/spaced and pretty-printed, as in 2016": {
			body: "\n{\n  \"topic\" : \"conversation.user.replied\",\r\n\t\"id\" : \"notif_1\" , \"app_id\" : \"a1b2c3d4\", \"created_at\" : 1768031794, \"delivery_attempts\" : 2 }\n",
			want: whole,
		},
		"ok/look-alikes inside the data are not the envelope's": {
			body: `{"data":{"topic":"x.y","id":"1","app_id":"z","created_at":3,"delivery_attempts":9,"item":{"topic":"a.b","json":"{\"topic\":\"c.d\"}","list":[{"topic":"e.f"}]}},"topic":"ping"}`,
			want: Envelope{Topic: "ping"},
		},
		"ok/escapes in a key and in a value": {
			body: `{"top\u0069c":"p\u0069ng","id":"a\/b"}`,
			want: Envelope{Topic: "ping", ID: "a/b"},
		},
		"ok/null id, as ping has it":              {body: `{"topic":"ping","id":null}`, want: Envelope{Topic: "ping"}},
		"ok/nulls for the numbers":                {body: `{"topic":"ping","created_at":null,"delivery_attempts":null}`, want: Envelope{Topic: "ping"}},
		"ok/numbers that are no integers":         {body: `{"topic":"ping","created_at":1.5,"delivery_attempts":1e3}`, want: Envelope{Topic: "ping"}},
		"ok/a number beyond 64 bits":              {body: `{"topic":"ping","created_at":99999999999999999999}`, want: Envelope{Topic: "ping"}},
		"ok/fields of other types":                {body: `{"topic":"ping","id":1,"app_id":{"id":"x"},"created_at":"1","delivery_attempts":[1]}`, want: Envelope{Topic: "ping"}},
		"ok/an id that cannot be a header value":  {body: `{"topic":"ping","id":"a\r\nb","app_id":"ü"}`, want: Envelope{Topic: "ping"}},
		"ok/an id that is too long for a header":  {body: `{"topic":"ping","id":"` + strings.Repeat("x", 256) + `"}`, want: Envelope{Topic: "ping"}},
		"ok/invalid UTF-8 inside the data":        {body: "{\"data\":\"\xff\xfe\",\"topic\":\"ping\"}", want: Envelope{Topic: "ping"}},
		"ok/other repeated keys":                  {body: `{"self":1,"self":2,"topic":"ping"}`, want: Envelope{Topic: "ping"}},
		"ok/a key that folds to no field":         {body: `{"topıc":"x.y","topics":1,"appid":1,"app-id":2,"TYPE":3,"topic":"ping"}`, want: Envelope{Topic: "ping"}},
		"ok/fields in other case inside the data": {body: `{"data":{"Topic":"x.y","ID":"1"},"topic":"ping"}`, want: Envelope{Topic: "ping"}},
		"ok/capitals and hyphens in the topic":    {body: `{"topic":"Conversation-Part.userReplied_2"}`, want: Envelope{Topic: "Conversation-Part.userReplied_2"}},
		"ok/nested as deep as allowed": {
			body: `{"data":` + strings.Repeat("[", fields.MaxDepth) + strings.Repeat("]", fields.MaxDepth) + `,"topic":"ping"}`,
			want: Envelope{Topic: "ping"},
		},
		"ok/a string of 4 MiB": {
			body: `{"data":"` + strings.Repeat("x", 4<<20) + `","topic":"ping"}`,
			want: Envelope{Topic: "ping"},
		},

		"fail/empty body":                       {body: ``, err: errNoObject},
		"fail/an array":                         {body: `[{"topic":"ping"}]`, err: errNoObject},
		"fail/a string":                         {body: `"ping"`, err: errNoObject},
		"fail/no topic":                         {body: `{"app_id":"a1b2c3d4"}`, err: errTopicMissing},
		"fail/topic only inside the data":       {body: `{"data":{"topic":"ping"}}`, err: errTopicMissing},
		"fail/topic is null":                    {body: `{"topic":null}`, err: errTopicInvalid},
		"fail/topic is a number":                {body: `{"topic":1}`, err: errTopicInvalid},
		"fail/topic is an array":                {body: `{"topic":["ping"]}`, err: errTopicInvalid},
		"fail/topic is empty":                   {body: `{"topic":""}`, err: errTopicInvalid},
		"fail/topic with a line break":          {body: `{"topic":"ping\n"}`, err: errTopicInvalid},
		"fail/topic with a dot in front":        {body: `{"topic":".ping"}`, err: errTopicInvalid},
		"fail/topic with a dot behind":          {body: `{"topic":"ping."}`, err: errTopicInvalid},
		"fail/topic with an empty segment":      {body: `{"topic":"a..b"}`, err: errTopicInvalid},
		"fail/topic of 10 KB":                   {body: `{"topic":"` + strings.Repeat("x", 10<<10) + `"}`, err: errTopicInvalid},
		"fail/topic twice":                      {body: `{"topic":"ping","topic":"ping"}`, err: errFieldRepeated},
		"fail/topic twice, once with an escape": {body: `{"topic":"ping","top\u0069c":"ping"}`, err: errFieldRepeated},
		"fail/id twice":                         {body: `{"id":"1","id":"2","topic":"ping"}`, err: errFieldRepeated},
		"fail/Topic beside topic":               {body: `{"topic":"ping","Topic":"x.y"}`, err: errFieldCase},
		"fail/Topic in front of topic":          {body: `{"Topic":"x.y","topic":"ping"}`, err: errFieldCase},
		"fail/Topic alone":                      {body: `{"Topic":"ping"}`, err: errFieldCase},
		"fail/TOPIC, with an escape":            {body: `{"topic":"ping","TOP\u0049C":"x.y"}`, err: errFieldCase},
		"fail/Id beside id":                     {body: `{"topic":"ping","id":"1","Id":"2"}`, err: errFieldCase},
		"fail/ID without id":                    {body: `{"topic":"ping","ID":"2"}`, err: errFieldCase},
		"fail/App_ID":                           {body: `{"topic":"ping","App_ID":"2"}`, err: errFieldCase},
		"fail/Created_at, null":                 {body: `{"topic":"ping","Created_at":null}`, err: errFieldCase},
		"fail/delivery_attempts with a long s":  {body: `{"topic":"ping","delivery_attemptſ":2}`, err: errFieldCase},
		"fail/long s, with an escape":           {body: `{"topic":"ping","delivery_attempt\u017f":2}`, err: errFieldCase},
		"fail/nested too deep":                  {body: `{"data":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `,"topic":"ping"}`, err: errTooDeep},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := Parse([]byte(tc.body), nil)
			if !errors.Is(err, tc.err) || got != tc.want {
				t.Errorf("got %+v, error %v; want %+v, error %v", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestInvalidJSONIsRefusedWithoutQuotingIt(t *testing.T) {
	for _, body := range []string{
		`{"topic":"ping"`, `{"topic":"ping",}`, `{"topic":"ping"}}`, `{"topic":"ping"} {}`, `{"topic":"ping","x":01}`,
		`{"topic":"ping","x":secret}`, `{"topic":"ping","x":"\q"}`, "{\"topic\":\"ping\",\"x\":\"\x01\"}", `{"topic":"ping","x":NaN}`,
		"\ufeff" + `{"topic":"ping"}`, `{topic:"ping"}`, `{"topic":"ping"}` + "\x00",
	} {
		_, _, err := Parse([]byte(body), nil)
		if err == nil {
			t.Errorf("%q is accepted", body)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error quotes the body: %v", body, err)
		}
	}
}

var fitForHeader = regexp.MustCompile(`^[!-~]{0,255}$`)

// foldingEnvelope has encoding/json read the five fields as backends in Go do: whatever
// their case, and the last one of several.
type foldingEnvelope struct {
	Topic            json.RawMessage `json:"topic"`
	ID               json.RawMessage `json:"id"`
	AppID            json.RawMessage `json:"app_id"`
	CreatedAt        json.RawMessage `json:"created_at"`
	DeliveryAttempts json.RawMessage `json:"delivery_attempts"`
}

// FuzzParse holds Parse against encoding/json: what is accepted is
// valid JSON, and both read the same five fields from it, whether or not encoding/json
// ignores the case of keys.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"type":"notification_event","app_id":"a1","data":{"item":{"topic":"x"}},"id":"notif_1","topic":"conversation.user.replied","delivery_attempts":1,"created_at":1768031794}`,
		`{"topic":"ping","id":null,"created_at":0}`, `{"top\u0069c":"a_b.c"}`, `{"topic":"ping","topic":"ping"}`, `[{}]`, `{"id":"\ud800","topic":"a"}`, `{"created_at":-0,"topic":"a"}`,
		`{"topic":"a","Topic":"b"}`, `{"topic":"a","delivery_attempt\u017f":1}`, `{"topic":"A-b","ID":null}`, `{"topic":"a","\u212a":1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, _, err := Parse(body, nil)
		if err != nil {
			return
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(body, &fields); err != nil {
			t.Fatalf("accepted, but encoding/json says: %v", err)
		}
		var folded foldingEnvelope
		if err := json.Unmarshal(body, &folded); err != nil {
			t.Fatalf("accepted, but encoding/json says: %v", err)
		}
		for name, value := range map[string]json.RawMessage{
			"topic": folded.Topic, "id": folded.ID, "app_id": folded.AppID,
			"created_at": folded.CreatedAt, "delivery_attempts": folded.DeliveryAttempts,
		} {
			if !bytes.Equal(value, fields[name]) {
				t.Errorf("%s is %s, but %s to a parser that ignores case", name, fields[name], value)
			}
		}
		var want Envelope
		_ = json.Unmarshal(fields["topic"], &want.Topic)
		_ = json.Unmarshal(fields["id"], &want.ID)
		_ = json.Unmarshal(fields["app_id"], &want.AppID)
		_ = json.Unmarshal(fields["created_at"], &want.CreatedAt)
		_ = json.Unmarshal(fields["delivery_attempts"], &want.DeliveryAttempts)
		if !fitForHeader.MatchString(want.ID) {
			want.ID = ""
		}
		if !fitForHeader.MatchString(want.AppID) {
			want.AppID = ""
		}
		if got != want {
			t.Errorf("got %+v, encoding/json reads %+v", got, want)
		}
		if len(got.Topic) > MaxHeaderValue || !topicpattern.IsTopic(got.Topic) {
			t.Errorf("accepted topic %q", got.Topic)
		}
	})
}
