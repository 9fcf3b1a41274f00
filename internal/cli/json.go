package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// printJSON prints a value as one line.
func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// escapeJSON makes a line of JSON from outside safe to print on a terminal. It writes characters
// that do not print as JSON does, so that the line keeps its meaning.
func escapeJSON(text string) string {
	if !strings.ContainsFunc(text, unprintable) && utf8.ValidString(text) {
		return text
	}
	var safe strings.Builder
	for _, r := range text {
		switch {
		case !unprintable(r):
			safe.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&safe, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&safe, `\u%04x\u%04x`, high, low)
		}
	}
	return safe.String()
}

// unprintable reports whether a terminal may take a character for something else than text.
func unprintable(r rune) bool { return !unicode.IsPrint(r) && r != ' ' }
