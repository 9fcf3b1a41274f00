package cli

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

func macOf(newHash func() hash.Hash, body, key string) []byte {
	mac := hmac.New(newHash, []byte(key))
	mac.Write([]byte(body))
	return mac.Sum(nil)
}

func hubOf(body, key string) string {
	return "sha1=" + hex.EncodeToString(macOf(sha1.New, body, key))
}

func bodyOf(body, key string) string { return hex.EncodeToString(macOf(sha256.New, body, key)) }

func TestJudge(t *testing.T) {
	const (
		key  = "the client secret"
		old  = "the old one"
		body = `{"type":"notification_event","data":{"item":{"url":"https://example.com/a","text":"Grüße 🌷 <b>","n":1.50,"none":[],"some":[1,2]}},"id":"n","topic":"ping"}`
		app  = `{"workspace_id":"exampl3"}`

		event = `{"event_name":"fin_replied","conversation_id":"1"}`

		python = `{"type": "notification_event", "data": {"item": {"url": "https://example.com/a", "text": "Gr\u00fc\u00dfe \ud83c\udf37 <b>", "n": 1.50, "none": [], "some": [1, 2]}}, "id": "n", "topic": "ping"}`
		php    = `{"type":"notification_event","data":{"item":{"url":"https:\/\/example.com\/a","text":"Gr\u00fc\u00dfe \ud83c\udf37 <b>","n":1.50,"none":[],"some":[1,2]}},"id":"n","topic":"ping"}`
		golang = `{"type":"notification_event","data":{"item":{"url":"https://example.com/a","text":"Grüße 🌷 \u003cb\u003e","n":1.50,"none":[],"some":[1,2]}},"id":"n","topic":"ping"}`
	)
	indent := func(by string) string {
		var out bytes.Buffer
		if err := json.Indent(&out, []byte(body), "", by); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	compressed := func(newWriter func(io.Writer) io.WriteCloser, body string) string {
		var out bytes.Buffer
		w := newWriter(&out)
		if _, err := io.WriteString(w, body); err != nil || w.Close() != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	gzipped := func(body string) string {
		return compressed(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, body)
	}
	pretty := indent("  ")
	sum := macOf(sha1.New, body, key)
	for _, tt := range []struct {
		name      string
		body      string
		signature string
		genuine   bool
		secret    int
		kinds     []string
	}{
		{"genuine", body, hubOf(body, key), true, 1, nil},
		{"genuine, with blanks around the value", body, " " + hubOf(body, key) + "\n", true, 1, nil},
		{"genuine, as a line of the header", body, "x-hub-signature: " + hubOf(body, key), true, 1, nil},
		{"genuine, with another of the secrets", body, hubOf(body, old), true, 2, nil},
		{"a genuine app request", app, bodyOf(app, key), true, 1, nil},
		{"genuine, of a body that is not JSON", "x\r\n", hubOf("x\r\n", key), true, 1, nil},
		{"genuine, of an empty body", "", hubOf("", key), true, 1, nil},

		{"line break added", body + "\n", hubOf(body, key), false, 1, []string{"newline_added"}},
		{"line break of Windows added", body + "\r\n", hubOf(body, key), false, 1, []string{"newline_added"}},
		{"several line breaks added", body + "\n\n", hubOf(body, key), false, 1, []string{"newline_added"}},
		{"line break lost", body, hubOf(body+"\n", key), false, 1, []string{"newline_lost"}},
		{"LF to CRLF", strings.ReplaceAll(pretty, "\n", "\r\n"), hubOf(pretty, key), false, 1, []string{"crlf"}},
		{"CRLF to LF", pretty, hubOf(strings.ReplaceAll(pretty, "\n", "\r\n"), key), false, 1, []string{"crlf"}},
		{"byte order mark added", "\ufeff" + body, hubOf(body, key), false, 1, []string{"bom"}},
		{"byte order mark lost", body, hubOf("\ufeff"+body, key), false, 1, []string{"bom"}},

		{"made pretty", pretty + "\n", hubOf(body, key), false, 1, []string{"reserialized"}},
		{"pretty made compact", body, hubOf(pretty, key), false, 1, []string{"reserialized"}},
		{"indented by 4", indent("    "), hubOf(body, key), false, 1, []string{"reserialized"}},
		{"as on the wire in 2016", body, hubOf(strings.ReplaceAll(pretty, `": `, `" : `), key), false, 1, []string{"reserialized"}},
		{"by Python", python, hubOf(body, key), false, 1, []string{"reserialized"}},
		{"from Python", body, hubOf(python, key), false, 1, []string{"reserialized"}},
		{"by PHP", php, hubOf(body, key), false, 1, []string{"reserialized"}},
		{"by Go", golang, hubOf(body, key), false, 1, []string{"reserialized"}},
		{"deep inside of base64", base64.StdEncoding.EncodeToString([]byte(pretty)) + "\n", hubOf(body, key), false, 1, []string{"body_base64", "reserialized"}},

		{"gzip", gzipped(body), hubOf(body, key), false, 1, []string{"compressed"}},
		{"deflate", compressed(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }, body), hubOf(body, key), false, 1, []string{"compressed"}},
		{"gzip, cut short", gzipped(body)[:100], hubOf(body, key), false, 0, nil},
		{"gzip of more than a body may be", gzipped(strings.Repeat("x", maxVerified+1)), hubOf(strings.Repeat("x", maxVerified+1), key), false, 0, nil},
		{"signed as it is, though it is compressed", gzipped(body), hubOf(gzipped(body), key), false, 1, []string{"compressed"}},
		{"base64 of a function's event", base64.StdEncoding.EncodeToString([]byte(body)), hubOf(body, key), false, 1, []string{"body_base64"}},
		{"base64 for URLs, without padding", base64.RawURLEncoding.EncodeToString([]byte(body)) + "\n", hubOf(body, key), false, 1, []string{"body_base64"}},
		{"hexadecimal digits", hex.EncodeToString([]byte(body)), hubOf(body, key), false, 1, []string{"body_hex"}},
		{"a whole request", "POST /intercom HTTP/1.1\r\nHost: x\r\n\r\n" + body, hubOf(body, key), false, 1, []string{"http_message"}},
		{"a whole request, copied as text", "POST /intercom HTTP/1.1\nHost: x\n\n" + body + "\n", hubOf(body, key), false, 1, []string{"http_message", "newline_added"}},
		{"only headers before it", "Host: x\r\nContent-Length: 1\r\n\r\n" + body, hubOf(body, key), false, 1, []string{"http_message"}},

		{"SHA-1 in the header of SHA-256", app, "X-Body-Signature: " + hubOf(app, key)[5:], false, 1, []string{"prefix_missing", "header"}},
		{"SHA-256 in the header of SHA-1", app, "X-Hub-Signature: " + bodyOf(app, key), false, 1, []string{"header"}},

		{"an event of the Fin Agent API", event, "sha256=" + bodyOf(event, key), true, 1, nil},
		{"its whole header line", event, "x-fin-agent-api-webhook-signature: sha256=" + bodyOf(event, old), true, 2, nil},
		{"an event without the prefix, in its header", event, "X-Fin-Agent-API-Webhook-Signature: " + bodyOf(event, key), false, 1, []string{"prefix_missing"}},
		{"an event with a line break", event + "\n", "sha256=" + bodyOf(event, key), false, 1, []string{"newline_added"}},
		{"a notification in the header of an event", body, "X-Fin-Agent-Api-Webhook-Signature: sha256=" + bodyOf(body, key), false, 1, []string{"sha256"}},

		{"SHA-256 with a prefix", body, "sha256=" + bodyOf(body, key), false, 1, []string{"prefix", "sha256"}},
		{"SHA-256, as in X-Body-Signature", body, bodyOf(body, key), false, 1, []string{"sha256"}},
		{"an app request with the prefix of a notification", app, "sha1=" + bodyOf(app, key), false, 1, []string{"prefix"}},
		{"upper case", body, "sha1=" + strings.ToUpper(hex.EncodeToString(sum)), false, 1, []string{"hex_case"}},
		{"prefix in upper case", body, "SHA1=" + hex.EncodeToString(sum), false, 1, []string{"prefix"}},
		{"prefix missing", body, hex.EncodeToString(sum), false, 1, []string{"prefix_missing"}},
		{"base64", body, "sha1=" + base64.StdEncoding.EncodeToString(sum), false, 1, []string{"base64"}},
		{"base64 for URLs, without prefix", body, base64.RawURLEncoding.EncodeToString(sum), false, 1, []string{"base64", "prefix_missing"}},
		{"two mistakes, with another of the secrets", body + "\n", hubOf(body, old)[5:], false, 2, []string{"prefix_missing", "newline_added"}},

		{"another secret", body, hubOf(body, "another"), false, 0, nil},
		{"another body", `{"topic":"ping"}`, hubOf(body, key), false, 0, nil},
		{"cut short", body, hubOf(body, key)[:44], false, 0, []string{"malformed"}},
		{"no signature", body, "sha1=", false, 0, []string{"malformed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := judge([]byte(tt.body), tt.signature, []*signature.Key{signature.NewKey(key), signature.NewKey(old)})
			var kinds []string
			for _, m := range v.Mistakes {
				kinds = append(kinds, m.Kind)
			}
			if v.Genuine != tt.genuine || v.Secret != tt.secret || !slices.Equal(kinds, tt.kinds) {
				t.Errorf("got %+v", v)
			}
		})
	}
}

// The guesses take bounded time and memory, whatever the body is.
func TestGuessesAreBounded(t *testing.T) {
	for name, body := range map[string]string{
		"nested deeply": strings.Repeat("[", 9000) + strings.Repeat("1,", 1<<20) + "1" + strings.Repeat("]", 9000),
		"wide":          "[" + strings.Repeat(`"é<\u00e9",`, 1<<16) + "1]",
		"hex of base64": hex.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte("Host: x\n\n{}")))),
	} {
		n := 0
		for guess := range guesses([]byte(body)) {
			if n++; len(guess) > 6*maxVerified {
				t.Errorf("%s: a guess has %d bytes", name, len(guess))
			}
		}
		if n == 0 || n > 100 {
			t.Errorf("%s: %d guesses", name, n)
		}
	}
}

// FuzzJudge holds the verdict against the rule: genuine is only what the HMAC of the raw bytes
// with one of the secrets says.
func FuzzJudge(f *testing.F) {
	f.Add([]byte(`{"topic":"ping"}`), hubOf(`{"topic":"ping"}`, "k"), "k", false)
	f.Add([]byte("{\"a\" : \"\\u00e4\\ud83c\"}\n"), bodyOf(`{"a":"ä"}`, "k"), "k", true)
	f.Add([]byte("x"), "X-Hub-Signature: sha1=", " k ", true)
	f.Fuzz(func(t *testing.T, body []byte, text, key string, sign bool) {
		if sign { // a random signature never fits
			text = strings.Replace(text, "sha1=", hubOf(strings.TrimSpace(string(body)), strings.TrimSpace(key)), 1)
		}
		v := judge(body, text, []*signature.Key{signature.NewKey(key)})
		// The length tells the two schemes apart.
		fits := strings.HasSuffix(strings.TrimSpace(text), hubOf(string(body), key)) ||
			strings.HasSuffix(strings.TrimSpace(text), bodyOf(string(body), key))
		if v.Genuine && !fits {
			t.Errorf("genuine, but the HMAC does not fit: %q %q %q", body, text, key)
		}
		if v.Genuine && (len(v.Mistakes) > 0 || v.Secret != 1) {
			t.Errorf("genuine, but %+v", v)
		}
	})
}

func TestVerifyCommand(t *testing.T) {
	const body = `{"topic":"ping"}`
	t.Setenv(secretEnv, testSendSecret)
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string // in the output, or in the error
	}{
		{"genuine", []string{"-", "--signature", hubOf(body, testSendSecret)}, exitFine, "genuine: X-Hub-Signature fits the body as it is\n"},
		{"genuine, as JSON", []string{"-", "--json", "--signature", hubOf(body, testSendSecret)}, exitFine, `{"genuine":true,"header":"X-Hub-Signature","secret":1}` + "\n"},
		{"from a file", []string{writeFile(t, body), "--signature", hubOf(body, testSendSecret)}, exitFine, "genuine"},
		{"one of several secrets", []string{"-", "--secret-file", writeFile(t, "new\n"+testSendSecret+"\n"), "--signature", hubOf(body, testSendSecret)}, exitFine, "with secret 2 of 2\nnote: whoever knows only the first secret refuses it\n"},
		{"a mistake", []string{writeFile(t, body+"\n"), "--signature", hubOf(body, testSendSecret)}, exitFailed, "not genuine as it is, but it was signed with the client secret:\nnewline_added: a line break was added"},
		{"a mistake, as JSON", []string{"-", "--json", "--signature", hubOf(body, testSendSecret)[5:]}, exitFailed, `"mistakes":[{"kind":"prefix_missing","text":"`},
		{"unknown", []string{"-", "--signature", hubOf(body, "another")}, exitFailed, "not genuine: no usual mistake explains the signature"},
		{"unknown, of an event of the Fin Agent API", []string{"-", "--secret-file", writeFile(t, "fin"), "--signature", "X-Fin-Agent-API-Webhook-Signature: sha256=" + bodyOf(body, "another")}, exitFailed, "another secret than the secret of the Fin Agent API, which is shown under Fin AI Agent > Deploy"},
		{"malformed", []string{"-", "--signature", "x"}, exitFailed, "malformed: the signature is not sha1= and 40 hexadecimal digits"},
		{"too large", []string{writeFile(t, strings.Repeat("x", maxVerified+1)), "--signature", "x"}, exitUsage, "is larger than 8 MiB"},
		{"too many secrets", []string{"-", "--secret-file", writeFile(t, strings.Repeat("x\n", 17)), "--signature", "x"}, exitUsage, "17 secrets: 16 are tried at most"},
		{"no signature", []string{"-"}, exitUsage, "with --signature"},
		{"no body", []string{"--signature", "x"}, exitUsage, "got 0 arguments: expecting 'intercom-webhook verify <body>'"},
		{"a body that is not there", []string{"does/not/exist", "--signature", "x"}, exitUsage, "reading the body: open does/not/exist"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stdout, stderr, code, err := runCommand(t, strings.NewReader(body), append([]string{"verify"}, tt.args...)...)
			all := stdout
			if err != nil {
				all += err.Error()
			}
			if code != tt.code || !strings.Contains(all, tt.want) {
				t.Errorf("code %d, got %s", code, all)
			}
			if strings.Contains(all+stderr, testSendSecret) {
				t.Errorf("the secret is printed: %s", all)
			}
		})
	}
}
