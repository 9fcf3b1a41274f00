package db

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

var texts = []string{
	"", "text", "a\x00b", "\x00", "a\xff", "\xed\xa0\x80", "base64:", "base64:AP8=", "base64:base64:", "BASE64:", " base64:", "é\u2028<>&", strings.Repeat("x", 300) + "\xff",
}

// isText reports whether every text column can hold the text.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

func checkText(t *testing.T, text string) {
	t.Helper()
	encoded := EncodeText(text)
	if !isText(encoded) {
		t.Errorf("%q is encoded as %q, which no column can hold", text, encoded)
	}
	if got := DecodeText(encoded); got != text {
		t.Errorf("%q comes back as %q", text, got)
	}
}

func TestTextsComeBackAsTheyWere(t *testing.T) {
	encoded := make(map[string]string)
	for _, text := range texts {
		checkText(t, text)
		if other, known := encoded[EncodeText(text)]; known {
			t.Errorf("%q and %q are encoded alike", text, other)
		}
		encoded[EncodeText(text)] = text
	}
}

func TestOrdinaryTextsAreStoredAsTheyAre(t *testing.T) {
	for _, text := range []string{"", "text", "é", "a: b", "BASE64:x"} {
		if got := EncodeText(text); got != text {
			t.Errorf("%q is encoded as %q: operators cannot query it", text, got)
		}
	}
}

func TestWhatAPersonHasWrittenIsDecodedAsItIs(t *testing.T) {
	for _, text := range []string{"base64:!", "base64:a", "base64:AP8", "plain"} {
		if got := DecodeText(text); got != text {
			t.Errorf("%q is decoded as %q", text, got)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(checkText)
}

// requestOf makes a request whose fields all have the text in them.
func requestOf(text string) Request {
	return Request{
		Method: text, URI: text, Proto: text, HTTPS: true, Host: text, RemoteAddr: text, LocalAddr: text, LocalNet: text,
		Header: map[string][]string{text: {text, "", text}, "Plain": {text}, "None": {}}, OriginalMethod: text, OriginalURI: text,
	}
}

func checkRequest(t *testing.T, r Request) {
	t.Helper()
	encoded := r.Encode()
	if !isText(encoded) || strings.Contains(encoded, `\u0000`) {
		t.Errorf("%+v is encoded as %q, which no column can hold", r, encoded)
	}
	got, err := DecodeRequest(encoded)
	if err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("%+v comes back as %+v (%v)", r, got, err)
	}
}

func TestRequestsComeBackAsTheyWere(t *testing.T) {
	for _, text := range texts {
		checkRequest(t, requestOf(text))
	}
	checkRequest(t, Request{Header: map[string][]string{}})
}

// No field of a request is forgotten when it is encoded.
func TestEveryTextOfARequestIsEncoded(t *testing.T) {
	r := requestOf("a\xff")
	value := reflect.ValueOf(r)
	for n := range value.NumField() {
		if value.Field(n).IsZero() {
			t.Errorf("the test leaves out %s", value.Type().Field(n).Name)
		}
	}
	if encoded := r.Encode(); strings.Contains(encoded, "\ufffd") || strings.Contains(encoded, `\ufffd`) {
		t.Errorf("bytes were replaced in %s", encoded)
	}
}

func TestEncodingLeavesTheHeaderAlone(t *testing.T) {
	r := requestOf("a\xff")
	r.Encode()
	if !reflect.DeepEqual(r, requestOf("a\xff")) {
		t.Errorf("the request has become %+v", r)
	}
}

func TestMalformedRequestsAreErrors(t *testing.T) {
	for _, encoded := range []string{"", "{", "[]", `{"method": 1}`} {
		if r, err := DecodeRequest(encoded); err == nil {
			t.Errorf("%q is decoded as %+v", encoded, r)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, text := range texts {
		f.Add(text, "Name", text)
	}
	f.Fuzz(func(t *testing.T, text, name, value string) {
		r := requestOf(text)
		r.Header = map[string][]string{name: {value, text}}
		checkRequest(t, r)
	})
}
