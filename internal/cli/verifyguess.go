package cli

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"regexp"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

var bom = []byte("\ufeff")

// guesses returns the body, and then, one after the other, what may have been signed in its
// place, with the mistakes that made the body of it. Each is made only when it is its turn, and
// there are less than a hundred.
func guesses(body []byte) iter.Seq2[[]byte, []mistake] {
	return func(yield func([]byte, []mistake) bool) {
		if !yield(body, nil) || !eachGuess(body, nil, yield) {
			return
		}
		for _, c := range contents(body) {
			if !yield(c.bytes, c.mistakes) || !eachGuess(c.bytes, c.mistakes, yield) {
				return
			}
		}
	}
}

// isNotification reports whether the body is that of a notification: only those have a topic.
func isNotification(body []byte) bool {
	var envelope struct{ Topic *string }
	return json.Unmarshal(bytes.TrimPrefix(body, bom), &envelope) == nil && envelope.Topic != nil
}

// content is what is in a body, with the mistake that wrapped it.
type content struct {
	bytes    []byte
	mistakes []mistake
}

var startOfMessage = regexp.MustCompile(`^(?:[A-Z]+ \S+ HTTP/[0-9.]+|HTTP/[0-9.]+ [0-9]{3}.*|[A-Za-z0-9-]+: .*)\r?\n`)

// contents returns what is in a body that is compressed, encoded, or a whole HTTP message. What
// is larger than a body may be is left out.
func contents(body []byte) []content {
	var all []content
	add := func(kind, text string, decoded []byte) {
		if len(decoded) > 0 && len(decoded) <= maxVerified {
			all = append(all, content{decoded, []mistake{{kind, text}}})
		}
	}
	if reader, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
		add("compressed", "the body was compressed with gzip on its way: verify what is in it, before anything compresses it", readBounded(reader))
	} else if reader, err := zlib.NewReader(bytes.NewReader(body)); err == nil {
		add("compressed", "the body was compressed (deflate) on its way: verify what is in it, before anything compresses it", readBounded(reader))
	}
	text := string(bytes.TrimSpace(body))
	if decoded, err := hex.DecodeString(text); err == nil {
		add("body_hex", "the body is written in hexadecimal digits: decode it first", decoded)
	} else {
		add("body_base64", "the body is base64, as a function behind a gateway gets it (isBase64Encoded): decode it first", fromBase64(text))
	}
	if startOfMessage.Match(body) {
		for _, blank := range []string{"\r\n\r\n", "\n\n"} {
			if _, rest, found := bytes.Cut(body, []byte(blank)); found {
				add("http_message", "it is a whole HTTP message: verify only what stands behind the first empty line", rest)
				break
			}
		}
	}
	return all
}

// readBounded reads all that can be read, and at most one byte more than a body may have.
func readBounded(reader io.Reader) []byte {
	decoded, _ := io.ReadAll(io.LimitReader(reader, maxVerified+1)) // what is cut short does not fit
	return decoded
}

// eachGuess calls yield with what a body may have been before one of the usual changes: an
// editor's, a parser's, or those of a copy by way of a terminal, and with the mistake that was
// made after others. It returns false if yield does.
func eachGuess(body []byte, others []mistake, yield func([]byte, []mistake) bool) bool {
	guess := func(kind, text string, changed []byte) bool {
		if bytes.Equal(changed, body) {
			return true
		}
		return yield(changed, append(slices.Clip(others), mistake{kind, text}))
	}
	const (
		added  = "a line break was added at the end of the body: remove it; editors and echo add one"
		lost   = "the line break at the end of the body was lost: keep the raw bytes; $(…) of a shell and trim() remove it"
		breaks = "the line breaks were changed between LF and CRLF: keep the raw bytes; copying as text, and git with autocrlf, change them"
	)
	unix := bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n"))
	return guess("newline_added", added, bytes.TrimSuffix(body, []byte("\n"))) &&
		guess("newline_added", added, bytes.TrimRight(body, " \t\r\n")) &&
		guess("newline_lost", lost, slices.Concat(body, []byte("\n"))) &&
		guess("newline_lost", lost, slices.Concat(body, []byte("\r\n"))) &&
		guess("crlf", breaks, unix) &&
		guess("crlf", breaks, bytes.ReplaceAll(unix, []byte("\n"), []byte("\r\n"))) &&
		guess("bom", "a byte order mark was added at the start of the body: remove it; some editors add one", bytes.TrimPrefix(body, bom)) &&
		guess("bom", "the byte order mark at the start of the body was lost: keep the raw bytes", slices.Concat(bom, body)) &&
		eachForm(bytes.TrimSpace(bytes.TrimPrefix(body, bom)), func(name string, form []byte) bool {
			return guess("reserialized", "the body was parsed and written again as JSON; Intercom sent "+name+": take the raw bytes, before any JSON parser", form)
		})
}

// eachForm calls yield with a JSON document in the forms that Intercom may have sent, as long as
// it returns true. There is none of what is no JSON, or too large when it is indented.
func eachForm(document []byte, yield func(name string, form []byte) bool) bool {
	var compact bytes.Buffer
	if indentedSize(document) > maxIndented || json.Compact(&compact, document) != nil {
		return true
	}
	raw := unescaped(compact.Bytes())
	var html bytes.Buffer
	json.HTMLEscape(&html, raw)
	for _, text := range []struct {
		name string
		json []byte
	}{
		{"", compact.Bytes()},
		{", raw UTF-8", raw},
		{`, characters escaped as \u`, asciiOf(raw)},
		{`, <, > and & escaped as \u`, html.Bytes()},
	} {
		var indented bytes.Buffer
		_ = json.Indent(&indented, text.json, "", "  ") // it is valid
		if !yield("compact JSON"+text.name, text.json) ||
			!yield("JSON with a space after each comma and colon"+text.name, spaced(text.json)) ||
			!yield("JSON indented by 2"+text.name, indented.Bytes()) ||
			!yield("JSON indented by 2, with a space before each colon"+text.name, bytes.ReplaceAll(indented.Bytes(), []byte(`": `), []byte(`" : `))) {
			return false
		}
	}
	return true
}

// spaced adds the spaces that Python's serializer writes.
func spaced(compact []byte) []byte {
	var out bytes.Buffer
	for rest := compact; len(rest) > 0; {
		n := 1
		if rest[0] == '"' {
			n = stringLength(rest)
		}
		out.Write(rest[:n])
		if rest[0] == ',' || rest[0] == ':' {
			out.WriteByte(' ')
		}
		rest = rest[n:]
	}
	return out.Bytes()
}

// unescaped writes each string of valid JSON, keys too, with as few escapes as JSON allows.
func unescaped(document []byte) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	for rest := document; len(rest) > 0; {
		if rest[0] != '"' {
			out.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		n := stringLength(rest)
		var text string
		if json.Unmarshal(rest[:n], &text) == nil && encoder.Encode(text) == nil {
			out.Truncate(out.Len() - 1) // the line break
		}
		rest = rest[n:]
	}
	return out.Bytes()
}

// asciiOf writes all characters of JSON that are not ASCII as escapes.
func asciiOf(document []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(document) {
		switch high, low := utf16.EncodeRune(r); {
		case r < utf8.RuneSelf:
			out.WriteByte(byte(r))
		case r <= 0xffff:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		}
	}
	return out.Bytes()
}
