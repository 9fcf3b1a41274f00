package queue

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

func TestOctetsAreReadableWhereTheyAreText(t *testing.T) {
	for _, c := range []struct{ name, octets, json string }{
		{"text", `{"a":"Grüße 🌷"}`, `"{\"a\":\"Grüße 🌷\"}"`},
		{"nothing", "", `""`},
		{"not UTF-8", "\xff\xfe", `{"base64":"//4="}`},
		{"a NUL, which PostgreSQL keeps in no string", "a\x00b", `{"base64":"YQBi"}`},
		{"an escaped NUL is none", `\u0000`, `"\\u0000"`},
		{"looks like the other form", `{"base64":"YQ=="}`, `"{\"base64\":\"YQ==\"}"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := json.Marshal(octets(c.octets))
			if err != nil || string(got) != c.json {
				t.Errorf("%s (%v), want %s", got, err, c.json)
			}
		})
	}
}

func FuzzOctets(f *testing.F) {
	f.Add([]byte(`{"a":"\u0000"}`))
	f.Add([]byte("\xff\x00<>&\u2028"))
	f.Fuzz(func(t *testing.T, original []byte) {
		encoded, err := json.Marshal(octets(original))
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.Valid(encoded) || bytes.Contains(encoded, []byte(`\u0000`)) && !bytes.Contains(original, []byte(`\u0000`)) {
			t.Errorf("%q is nothing that every database keeps", encoded)
		}
		var decoded octets
		if err := json.Unmarshal(encoded, &decoded); err != nil || string(decoded) != string(original) {
			t.Errorf("%q became %q (%v)", original, decoded, err)
		}
	})
}

// FuzzStoredNotification reads what stands in a database, which others can write to.
func FuzzStoredNotification(f *testing.F) {
	f.Add([]byte(`{"topic":"ping","request":{"method":"POST","uri":"/a?b","proto":"HTTP/2.0","header":{"A":["b",{"base64":"/w=="}]}},"body":"{}"}`))
	f.Add([]byte(`{"to":"staging","topic":"a.b","request":{"method":"POST","uri":"/"},"body":"{}"}`))
	f.Add([]byte(`{"request":{"uri":"%"},"body":{"base64":"*"}}`))
	f.Fuzz(func(t *testing.T, stored []byte) {
		n, err := decodeNotification(stored)
		var same notification
		if sameErr := json.Unmarshal(stored, &same); (sameErr == nil) != (err == nil) || err == nil && !reflect.DeepEqual(*n, same) {
			t.Errorf("decoded as %+v (%v), by encoding/json as %+v (%v)", n, err, same, sameErr)
		}
		if err != nil {
			return
		}
		r, err := n.request(t.Context())
		if err == nil && (r.URL == nil || r.Header == nil || r.Body == nil) {
			t.Errorf("unpacked to half a request: %+v", r)
		}
	})
}

func TestRequestsComeOutAsTheyWentIn(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "https://hooks.example.com/intercom?a=%2F&b", nil)
	r.RemoteAddr = "192.0.2.7:4711"
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	r.Header = http.Header{
		"X-Hub-Signature": {"sha1=0123456789abcdef0123456789abcdef01234567"},
		"X-Several":       {"one", "two"},
		"X-Latin":         {"caf\xe9"},
	}
	body := `{"topic":"a.b","text":"\u0000 <p>🌷</p>"}`
	packed := newNotification(r, "crm", intercomwebhook.Notification{Topic: "a.b", AppID: "tulip4", ID: "notif_1", Body: []byte(body)}).job("", &Options{Name: "crm"})
	var stored notification
	if err := json.Unmarshal(packed.Args, &stored); err != nil {
		t.Fatal(err)
	}
	got, err := stored.request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if stored.Topic != "a.b" || stored.Endpoint != "crm" || stored.AppID != "tulip4" || stored.ID != "notif_1" || stored.ReceivedAt.IsZero() {
		t.Errorf("stored as %+v", stored)
	}
	if string(stored.Body) != body {
		t.Errorf("body %q, want %q", stored.Body, body)
	}
	if !reflect.DeepEqual(got.Header, r.Header) {
		t.Errorf("header %q, want %q", got.Header, r.Header)
	}
	if got.Method != r.Method || got.Host != r.Host || got.RemoteAddr != r.RemoteAddr || got.URL.RequestURI() != r.URL.RequestURI() ||
		got.ProtoMajor != 2 || got.TLS == nil {
		t.Errorf("request %+v, want %+v", got, r)
	}
	if !strings.Contains(string(packed.Args), "🌷") {
		t.Errorf("people cannot read the body in %s", packed.Args)
	}
}

func TestTheLaneThatANotificationIsSentToIsStored(t *testing.T) {
	for _, to := range []string{"", "staging"} {
		note := &notification{Topic: "a.b", To: to}
		stored, err := decodeNotification(note.encode())
		if err != nil || stored.To != to || strings.Contains(string(note.encode()), `"to"`) != (to != "") {
			t.Errorf("to %q became %+v (%v)", to, stored, err)
		}
	}
}

func TestRewrittenRequestsComeOutWithWhatTheyWereBefore(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/new", nil)
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, http.Request{Method: "PATCH", RequestURI: "/old?caf\xe9"}))
	packed := newNotification(r, "", intercomwebhook.Notification{}).job("", new(Options))
	var stored notification
	if err := json.Unmarshal(packed.Args, &stored); err != nil {
		t.Fatal(err)
	}
	got, err := stored.request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	original, _ := got.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if got.Method != "POST" || got.URL.Path != "/new" || original.Method != "PATCH" || original.RequestURI != "/old?caf\xe9" ||
		original.URL == nil || original.URL.Path != "/old" {
		t.Errorf("%s %s was %s %q, parsed as %v", got.Method, got.URL, original.Method, original.RequestURI, original.URL)
	}
}

// Caddy's placeholders panic without a local address, which earlier versions did not
// store.
func TestRequestsThatWereStoredWithoutALocalAddress(t *testing.T) {
	var stored notification
	if err := json.Unmarshal([]byte(`{"request":{"method":"POST","uri":"/","proto":"HTTP/1.1"}}`), &stored); err != nil {
		t.Fatal(err)
	}
	r, err := stored.request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shown := caddyhttp.NewTestReplacer(r).ReplaceAll("{http.request.local}|{http.request.local.host}|{http.request.local.port}", "none")
	if shown != "none|none|none" {
		t.Errorf("placeholders are %s", shown)
	}
}

func TestStoredURIThatIsNotValidIsNotQuoted(t *testing.T) {
	for name, stored := range map[string]request{
		"the URI":                 {URI: "private words"},
		"the URI before rewrites": {URI: "/", OriginalURI: octets("private words")},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := (&notification{Request: stored}).request(t.Context())
			if !errors.Is(err, errStoredURI) || strings.Contains(err.Error(), "private") {
				t.Errorf("error is %v, want %v", err, errStoredURI)
			}
		})
	}
}

func TestDuplicatesAreOfOneEndpointAppAndID(t *testing.T) {
	keyOf := func(endpoint, app, id string) string {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		return string(newNotification(r, endpoint, intercomwebhook.Notification{AppID: app, ID: id}).job("", &Options{Name: endpoint}).UniqueKey)
	}
	first := keyOf("intercom", "tulip4", "notif_1")
	if first == "" || keyOf("intercom", "tulip4", "notif_1") != first {
		t.Error("the same are no duplicates")
	}
	for _, other := range []string{
		keyOf("crm", "tulip4", "notif_1"), keyOf("intercom", "rose4", "notif_1"), keyOf("intercom", "tulip4", "notif_2"),
		keyOf("intercom", "tulip", "4notif_1"),
	} {
		if other == first {
			t.Error("another one is a duplicate")
		}
	}
	if keyOf("intercom", "tulip4", "") != "" {
		t.Error("one without an id is a duplicate")
	}
}
