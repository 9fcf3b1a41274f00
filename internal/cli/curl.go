package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxArgument is how large a body may be as an argument of a command, in bytes. Linux takes 128 KiB.
const maxArgument = 120 << 10

// printRequest prints the next request as a command of curl, or as JSON.
func (s *sender) printRequest(ctx context.Context, r *run) error {
	req, _, body, err := s.request(ctx)
	if err != nil {
		return err
	}
	if len(body) > maxArgument || bytes.IndexByte(body, 0) >= 0 {
		return usagef("--print: the body has %s bytes, or a zero byte: a shell takes it from a file only, as in curl --data-binary @file", comma(len(body)))
	}
	value := map[string]any{"method": req.Method, "url": s.url, "header": req.Header, "body": string(body)}
	if !utf8.Valid(body) {
		delete(value, "body")
		value["body_base64"] = body
	}
	return r.print(value, func(out io.Writer) {
		fmt.Fprintf(out, "curl %s", shellQuote(s.url))
		for _, name := range slices.Sorted(maps.Keys(req.Header)) {
			for _, value := range req.Header[name] {
				fmt.Fprintf(out, " \\\n  --header %s", shellQuote(name+": "+value))
			}
			if req.Header[name] == nil {
				fmt.Fprintf(out, " \\\n  --header %s", shellQuote(name+":")) // curl leaves it out
			}
		}
		fmt.Fprintf(out, " \\\n  --data-raw %s\n", shellQuote(string(body)))
	})
}

// shellQuote writes a text as one word for a shell that takes it as it is. What does not print is
// written in a way that bash and zsh understand.
func shellQuote(text string) string {
	if escape(text) == text {
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	var b strings.Builder
	for _, c := range []byte(text) {
		switch {
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c >= 0x7f:
			fmt.Fprintf(&b, `\%03o`, c) // three digits end by themselves
		default:
			b.WriteByte(c)
		}
	}
	return "$'" + b.String() + "'"
}
