package cli

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/hex"
	"encoding/json"
	"io"
	"iter"
	"regexp"
	"slices"
	"unicode/utf8"
)

var bom = []byte("\ufeff")

// guesses returns the body and what is in it, and what may have been signed in place of each,
// with the mistakes that made the body of it. There are less than a hundred; the large ones are
// made when it is their turn.
func guesses(body []byte) iter.Seq2[[]byte, []mistake] {
	return func(yield func([]byte, []mistake) bool) {
		for _, c := range append([]content{{body, nil}}, contents(body)...) {
			if !yield(c.bytes, c.mistakes) {
				return
			}
			for guess, wrong := range changes(c.bytes) {
				if !bytes.Equal(guess, c.bytes) && !yield(guess, append(slices.Clip(c.mistakes), wrong)) {
					return
				}
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

// changes returns what a body may have been before one of the usual changes, with the change:
// those of an editor, of a parser, or of a copy by way of a terminal.
func changes(body []byte) iter.Seq2[[]byte, mistake] {
	const (
		added  = "a line break was added at the end of the body: remove it; editors and echo add one"
		lost   = "the line break at the end of the body was lost: keep the raw bytes; $(…) of a shell and trim() remove it"
		breaks = "the line breaks were changed between LF and CRLF: keep the raw bytes; copying as text, and git with autocrlf, change them"
	)
	return func(yield func([]byte, mistake) bool) {
		lf, crlf := []byte("\n"), []byte("\r\n")
		unix := bytes.ReplaceAll(body, crlf, lf)
		for _, change := range []struct {
			before []byte
			mistake
		}{
			{bytes.TrimSuffix(body, lf), mistake{"newline_added", added}},
			{bytes.TrimRight(body, " \t\r\n"), mistake{"newline_added", added}},
			{slices.Concat(body, lf), mistake{"newline_lost", lost}},
			{slices.Concat(body, crlf), mistake{"newline_lost", lost}},
			{unix, mistake{"crlf", breaks}},
			{bytes.ReplaceAll(unix, lf, crlf), mistake{"crlf", breaks}},
			{bytes.TrimPrefix(body, bom), mistake{"bom", "a byte order mark was added at the start of the body: remove it; some editors add one"}},
			{slices.Concat(bom, body), mistake{"bom", "the byte order mark at the start of the body was lost: keep the raw bytes"}},
		} {
			if !yield(change.before, change.mistake) {
				return
			}
		}
		for name, form := range forms(bytes.TrimSpace(bytes.TrimPrefix(body, bom))) {
			text := "the body was parsed and written again as JSON; Intercom sent " + name + ": take the raw bytes, before any JSON parser"
			if !yield(form, mistake{"reserialized", text}) {
				return
			}
		}
	}
}

// forms returns a JSON document in the forms that Intercom may have sent, with their names. There
// is none of what is no JSON, or too large when it is indented.
func forms(document []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		var compact, html bytes.Buffer
		if indentedSize(document) > maxIndented || json.Compact(&compact, document) != nil {
			return
		}
		raw := unescaped(compact.Bytes())
		json.HTMLEscape(&html, raw)
		for _, text := range []struct {
			name string
			json []byte
		}{
			{"", compact.Bytes()},
			{", raw UTF-8", raw},
			{`, characters escaped as \u`, []byte(escapeRunes(string(raw), func(r rune) bool { return r >= utf8.RuneSelf }))},
			{`, <, > and & escaped as \u`, html.Bytes()},
		} {
			var indented bytes.Buffer
			_ = json.Indent(&indented, text.json, "", "  ") // it is valid
			if !yield("compact JSON"+text.name, text.json) ||
				!yield("JSON with a space after each comma and colon"+text.name, spaced(text.json)) ||
				!yield("JSON indented by 2"+text.name, indented.Bytes()) ||
				!yield("JSON indented by 2, with a space before each colon"+text.name, bytes.ReplaceAll(indented.Bytes(), []byte(`": `), []byte(`" : `))) {
				return
			}
		}
	}
}

// spaced adds the spaces that Python's serializer writes.
func spaced(compact []byte) []byte {
	var out bytes.Buffer
	for part := range jsonParts(compact) {
		out.Write(part)
		if part[0] == ',' || part[0] == ':' {
			out.WriteByte(' ')
		}
	}
	return out.Bytes()
}

// unescaped writes each string of valid JSON, keys too, with as few escapes as JSON allows.
func unescaped(document []byte) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	for part := range jsonParts(document) {
		var text string
		if part[0] == '"' && json.Unmarshal(part, &text) == nil && encoder.Encode(text) == nil {
			out.Truncate(out.Len() - 1) // the line break
		} else {
			out.Write(part)
		}
	}
	return out.Bytes()
}
