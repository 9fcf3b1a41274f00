package intercomwebhook

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

const conditionalRoutes = `[
	{"ignore":true,"match":[{"intercom_topic":["conversation.*"],"intercom_field":["data.item.author.id=42"]}]},
	{"lane":"vip","match":[{"intercom_topic":["conversation.*"],"intercom_field":["data.item.tags.*.name=vip|gold","data.item.state!=closed"]}]},
	{"lane":"talk","match":[{"intercom_topic":["conversation.*"]}]},
	{"ignore":true,"match":[{"intercom_topic":["ticket.*"]}]}
]`

func notificationOf(item string) []byte {
	return []byte(`{"topic":"conversation.user.replied","id":"n1","app_id":"tulip4","data":{"item":` + item + `}}`)
}

func TestConditionsChooseTheRoute(t *testing.T) {
	h := provisioned(t, conditionalRoutes)
	for item, want := range map[string]string{
		`{"author":{"id":42}}`:                                      "ignored",
		`{"author":{"id":"42"},"tags":[{"name":"vip"}]}`:            "ignored",
		`{"tags":[{"name":"new"},{"name":"\u0076ip"}]}`:             "vip",
		`{"tags":[{"name":"gold"}],"state":"open"}`:                 "vip",
		`{"tags":[{"name":"gold"}],"state":"closed"}`:               "talk",
		`{"tags":[],"author":{"id":420}}`:                           "talk",
		`null`:                                                      "talk",
		`{"author":{"id":42,"id":43}}`:                              "repeated",
		`{"author":{"id":1},"Author":{"id":2}}`:                     "repeated",
		`{"other":{"id":1},"other":{"id":2},"json":"{\"tags\":1}"}`: "talk",
	} {
		r := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
		tag := newTag(r)
		parsed, err := h.router.parse(tag, signature.Hub, notificationOf(item))
		if want == "repeated" {
			if !errors.Is(err, fields.ErrRepeated) {
				t.Errorf("%s: error %v", item, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", item, err)
		}
		tag.setNotification(r.Header, parsed)
		found, err := h.router.match(r, tag.Topic)
		if err != nil || found.lane != strings.TrimSuffix(want, "ignored") || found.ignores != (want == "ignored") {
			t.Errorf("%s: %+v, error %v, want %s", item, found, err, want)
		}
		// what was stored is never ignored later
		if stored, err := h.router.matchStored(r, tag.Topic); err != nil || stored.ignores {
			t.Errorf("%s, stored: %+v, error %v", item, stored, err)
		}
	}
	if lanes := h.router.lanes(); len(lanes) != 2 {
		t.Errorf("the lanes are %v", lanes)
	}
}

func TestPlaceholdersOfFields(t *testing.T) {
	t.Setenv("PRIVATE", "s3cr3t")
	r := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	tag := newTag(r)
	if got := repl.ReplaceAll("<{http.intercom_webhook.field.topic}>", ""); got != "<>" {
		t.Errorf("before verification: %s", got)
	}
	if _, err := provisioned(t, "[]").router.parse(tag, signature.Hub, notificationOf(`{"a":"{env.PRIVATE}","n":1.50,"l":["x","y"],"t":1,"t":2}`)); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"{http.intercom_webhook.field.data.item.a}":    "{env.PRIVATE}", // as it is
		"{http.intercom_webhook.field.data.item.n}":    "1.50",
		"{http.intercom_webhook.field.data.item.l.1}":  "y",
		"{http.intercom_webhook.field.data.item.l.*}":  "x",
		"{http.intercom_webhook.field.data.item.l}":    "",
		"{http.intercom_webhook.field.data.item.t}":    "", // nobody knows which
		"{http.intercom_webhook.field.data.item.gone}": "",
		"{http.intercom_webhook.field.topic}":          "conversation.user.replied",
		"{http.intercom_webhook.field.{env.PRIVATE}}":  "}",
		"{http.intercom_webhook.field.data..item}":     "",
	} {
		if got := repl.ReplaceAll(text, ""); got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
}

func TestTheQueueIsToldWhatIsIgnoredAndWhatIsATwin(t *testing.T) {
	queue := &storedQueue{}
	h := provisioned(t, conditionalRoutes)
	h.router.copies = withCopies(t, `[{"match":[{"intercom_topic":["ticket.created"]}]}]`).router.copies
	h.router.routes[2].once.field, h.router.routes[2].once.within = h.router.fields.Want("data.item.part"), time.Minute
	s := withQueue(h, queue)
	for _, tc := range []struct {
		topic, item, outcome string
		want                 *Notification // nil: it is not stored
		answers              Stored
	}{
		{"conversation.a", `{"author":{"id":42}}`, "ignored", nil, StoredNew},
		{"ticket.closed", `{}`, "ignored", nil, StoredNew},
		{"ticket.created", `{}`, "ignored", &Notification{CopiesOnly: true, Copies: []string{"copy-ticket-created"}}, StoredNew},
		{"ticket.created", `{}`, "duplicate", &Notification{CopiesOnly: true, Copies: []string{"copy-ticket-created"}}, StoredDuplicate},
		{"conversation.a", `{"part":7}`, "queued", &Notification{Lane: "talk", Once: "7", OnceWithin: time.Minute}, StoredNew},
		{"conversation.a", `{"part":7}`, "ignored", &Notification{Lane: "talk", Once: "7", OnceWithin: time.Minute}, StoredTwin},
		{"conversation.a", `{}`, "queued", &Notification{Lane: "talk", OnceWithin: time.Minute}, StoredNew},
		{"contact.created", `{}`, "queued", &Notification{}, StoredNew},
	} {
		queue.stored, queue.answers = nil, tc.answers
		r := s.prepare(httptest.NewRequest(http.MethodPost, "/", nil))
		tag := newTag(r)
		body := []byte(`{"topic":"` + tc.topic + `","data":{"item":` + tc.item + `}}`)
		parsed, err := h.router.parse(tag, signature.Hub, body)
		if err != nil {
			t.Fatal(err)
		}
		tag.setNotification(r.Header, parsed)
		outcome, status := s.store(r, tag, body)
		if outcome != tc.outcome || status != http.StatusOK {
			t.Errorf("%s %s: %s %d, want %s", tc.topic, tc.item, outcome, status, tc.outcome)
		}
		var want []Notification
		if tc.want != nil {
			tc.want.Topic, tc.want.Body = tc.topic, body
			want = []Notification{*tc.want}
		}
		if !reflect.DeepEqual(queue.stored, want) {
			t.Errorf("%s %s: stored %+v, want %+v", tc.topic, tc.item, queue.stored, want)
		}
	}
}

func TestBadRoutesAreRefused(t *testing.T) {
	for config, want := range map[string]string{
		`"routes":[{"ignore":true,"lane":"a"}]`:                                             "ignore: it delivers nothing",
		`"routes":[{"ignore":true,"handle":[{"handler":"static_response"}]}]`:               "ignore: it delivers nothing",
		`"routes":[{"once":{"field":"a","within":"1h"}}]`:                                   "once needs a queue",
		`"routes":[{"match":[{"intercom_field":[]}]}]`:                                      "the condition is missing",
		`"routes":[{"match":[{"intercom_field":["a=x","b."]}]}]`:                            "empty segment",
		`"routes":[{"match":[{"intercom_field":["` + strings.Repeat(`a","`, 32) + `b"]}]}]`: "over 32 conditions",
	} {
		ctx, err := caddy.ProvisionContext(new(caddy.Config))
		if err != nil {
			t.Fatal(err)
		}
		h := new(Handler)
		if err := caddy.StrictUnmarshalJSON([]byte(`{"client_secrets":["s"],"allow":[{"source":"static","ranges":["192.0.2.0/24"]}],`+config+`}`), h); err != nil {
			t.Fatal(err)
		}
		if err := h.Provision(ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", config, err, want)
		}
	}
	for once, want := range map[Once]string{
		{}:                             "the field is missing",
		{Field: "a b", Within: 1}:      "cannot be in a path",
		{Field: "a"}:                   "over 0",
		{Field: "a", Within: -1}:       "over 0",
		{Field: "a", Within: 25 << 42}: "at most 24h",
	} {
		if err := once.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %s", once, err, want)
		}
	}
}

func TestExplainTellsOfConditionsAndOfWhatIsIgnored(t *testing.T) {
	h := provisioned(t, conditionalRoutes)
	a := &handlersApp{handlers: []appHandler{{router: h.router}}}
	const fits = "topic and workspace fit, but the body must fit, too: "
	for topic, want := range map[string]adminapi.Route{
		"conversation.a": {Lane: "talk", Copies: []string{}, Passed: []adminapi.Passed{
			{Lane: "ignore", Why: fits + "data.item.author.id=42"},
			{Lane: "vip", Why: fits + "data.item.tags.*.name=vip|gold data.item.state!=closed"},
		}},
		"ticket.a": {Ignored: true, Copies: []string{}},
	} {
		got := a.explain(topic, "tulip4")[0]
		if want.Passed == nil {
			got.Passed = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", topic, got, want)
		}
	}
}

func TestFieldsOfAppRequestsMatch(t *testing.T) {
	r := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
	tag := newTag(r)
	var plan fields.Plan
	if err := plan.Require("component_id=refund"); err != nil {
		t.Fatal(err)
	}
	m := &MatchField{"component_id=refund"}
	if fits, err := m.MatchWithError(r); fits || err != nil {
		t.Errorf("before verification: %v, error %v", fits, err)
	}
	tag.kind = kindAppRequest
	tag.fields, _ = plan.Read([]byte(`{"component_id":"refund"}`))
	if fits, err := m.MatchWithError(r); !fits || err != nil {
		t.Errorf("%v, error %v", fits, err)
	}
}
