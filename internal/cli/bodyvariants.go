package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf16"
)

var bom = []byte("\ufeff")

// variantsOfBody returns the body, and what it may have been before one of the usual changes:
// an editor's, a parser's, or those of a copy by way of a terminal.
func variantsOfBody(body []byte) []variant {
	variants := []variant{{bytes: body}}
	add := func(kind, text string, changed []byte) {
		if !bytes.Equal(changed, body) {
			variants = append(variants, variant{changed, &mistake{kind, text}})
		}
	}
	const added = "a line break was added at the end of the body: remove it; editors and echo add one"
	add("newline_added", added, bytes.TrimSuffix(body, []byte("\n")))
	add("newline_added", added, bytes.TrimSuffix(body, []byte("\r\n")))
	add("newline_added", added, bytes.TrimRight(body, " \t\r\n"))
	const lost = "the line break at the end of the body was lost: keep the raw bytes; $(…) of a shell and trim() remove it"
	add("newline_lost", lost, append(bytes.Clone(body), '\n'))
	add("newline_lost", lost, append(bytes.Clone(body), "\r\n"...))

	unix := bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n"))
	const breaks = "the line breaks were changed between LF and CRLF: keep the raw bytes; copying as text, and git with autocrlf, change them"
	add("crlf", breaks, unix)
	add("crlf", breaks, bytes.ReplaceAll(unix, []byte("\n"), []byte("\r\n")))

	add("bom", "a byte order mark was added at the start of the body: remove it; some editors add one", bytes.TrimPrefix(body, bom))
	add("bom", "the byte order mark at the start of the body was lost: keep the raw bytes", append(bytes.Clone(bom), bytes.TrimPrefix(body, bom)...))

	for _, form := range jsonForms(bytes.TrimSpace(bytes.TrimPrefix(body, bom))) {
		add("reserialized", "the body was parsed and written again as JSON; Intercom sent "+form.name+": take the raw bytes, before any JSON parser", form.bytes)
	}
	return variants
}

type jsonForm struct {
	name  string
	bytes []byte
}

// jsonForms returns a JSON document in the forms that the usual serializers write. It returns
// none if the document is not valid.
func jsonForms(document []byte) []jsonForm {
	var compact bytes.Buffer
	if json.Compact(&compact, document) != nil {
		return nil
	}
	texts := []struct {
		name string
		form func(string) string
	}{
		{"", nil},
		{"raw UTF-8", func(s string) string { return quote(s, "", false) }},
		{`characters escaped as \u`, func(s string) string { return quote(s, "", true) }},
		{`slashes escaped as \/`, func(s string) string { return quote(s, "/", false) }},
		{`slashes escaped as \/ and characters as \u`, func(s string) string { return quote(s, "/", true) }},
		{`<, > and & escaped as \u`, func(s string) string { return quote(s, "<>&\u2028\u2029", false) }},
	}
	layouts := []struct {
		name   string
		layout func([]byte) []byte
	}{
		{"compact JSON", func(compact []byte) []byte { return compact }},
		{"JSON with a space after each comma and colon", spaced},
		{"JSON indented by 2", func(compact []byte) []byte { return indented(compact, "  ") }},
		{"JSON indented by 4", func(compact []byte) []byte { return indented(compact, "    ") }},
		{"JSON indented by tabs", func(compact []byte) []byte { return indented(compact, "\t") }},
		{`JSON indented by 2, with a space before each colon`, func(compact []byte) []byte {
			return bytes.ReplaceAll(indented(compact, "  "), []byte(`": `), []byte(`" : `))
		}},
	}
	var forms []jsonForm
	for _, s := range texts {
		text := compact.Bytes()
		if s.form != nil {
			text = eachString(text, s.form)
		}
		for _, l := range layouts {
			name := l.name
			if s.name != "" {
				name += ", " + s.name
			}
			forms = append(forms, jsonForm{name, l.layout(text)})
		}
	}
	return forms
}

func indented(compact []byte, by string) []byte {
	var out bytes.Buffer
	_ = json.Indent(&out, compact, "", by) // it is valid
	return out.Bytes()
}

// spaced adds the spaces that Python's serializer writes.
func spaced(compact []byte) []byte {
	var out bytes.Buffer
	for rest := compact; len(rest) > 0; {
		if rest[0] == '"' {
			n := stringLength(rest)
			out.Write(rest[:n])
			rest = rest[n:]
			continue
		}
		out.WriteByte(rest[0])
		if rest[0] == ',' || rest[0] == ':' {
			out.WriteByte(' ')
		}
		rest = rest[1:]
	}
	return out.Bytes()
}

// eachString writes each string of valid JSON, keys too, in the form that form gives it.
func eachString(document []byte, form func(string) string) []byte {
	var out bytes.Buffer
	for rest := document; len(rest) > 0; {
		if rest[0] != '"' {
			out.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		n := stringLength(rest)
		var text string
		if err := json.Unmarshal(rest[:n], &text); err == nil {
			out.WriteString(form(text))
		}
		rest = rest[n:]
	}
	return out.Bytes()
}

// stringLength returns the length of the JSON string at the start of text, with its quotes.
func stringLength(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

// quote returns a JSON string. It escapes what JSON wants to be escaped, the characters in
// escaped and, with ascii, all that are not ASCII.
func quote(text, escaped string, ascii bool) string {
	short := map[rune]string{'"': `\"`, '\\': `\\`, '\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`}
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range text {
		s, isShort := short[r]
		switch {
		case isShort:
			out.WriteString(s)
		case r == '/' && strings.ContainsRune(escaped, r):
			out.WriteString(`\/`)
		case r > 0xffff && ascii:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		case r < ' ', r > '~' && ascii, strings.ContainsRune(escaped, r):
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}
