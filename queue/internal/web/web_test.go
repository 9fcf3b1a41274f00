package web

import (
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
)

func TestReadableBody(t *testing.T) {
	for body, want := range map[string]string{
		`{"a":[1,{"b":"\"}"}]}`: "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"\\\"}\"\n    }\n  ]\n}",
		"no JSON":               "no JSON",
		`{"a":"[[[[[["}`:        "{\n  \"a\": \"[[[[[[\"\n}",
	} {
		if got := readable(&adminapi.Request{Body: &body}); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
	if got := readable(&adminapi.Request{BodyBase64: []byte("\xff{}")}); got != "\xff{}" {
		t.Errorf("not text: %q", got)
	}
}

func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"Grüße, ça va? 🌷\n\tx": "Grüße, ça va? 🌷\n\tx",
		"👩\u200d🚒":             "👩\u200d🚒",
		"a\x00\x1b\r\x7fb":     `a\x00\x1b\r\x7fb`,
		"a\u202eb\ufeff\u2066": `a\u202eb\ufeff\u2066`,
		"\xff":                 "\ufffd",
		"'":                    "'",
	} {
		if got := plain(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
