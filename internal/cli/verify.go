package cli

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/jsonview"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

func newVerifyCommand() *cobra.Command {
	cmd := newRunCommand("verify", cobra.ExactArgs(1), runVerify)
	flags := cmd.Flags()
	flags.String("signature", "", "Value of the signature header (required)")
	addSecretFlags(flags)
	flags.Bool("json", false, "Print JSON")
	return cmd
}

// The limits that bound the time and the memory of verify.
const (
	maxVerified = 8 << 20 // of a body, in bytes; also when it is decoded
	maxSecrets  = 16
)

func runVerify(_ context.Context, r *run, args []string) error {
	claimed := r.String("signature")
	if claimed == "" {
		return usagef("no signature: give the value of the request's X-Hub-Signature with --signature")
	}
	body, err := readFile(args[0], r.in, maxVerified)
	if err != nil {
		return usagef("reading the body: %w", err)
	}
	scheme := signature.Hub
	if read, _ := readSignature(claimed, body); read.Scheme == signature.Fin {
		scheme = signature.Fin
	}
	keys, err := secretKeys(r, scheme)
	if err != nil {
		return err
	}
	if len(keys) > maxSecrets {
		return usagef("--secret-file has %d secrets: %d are tried at most; leave the others out", len(keys), maxSecrets)
	}
	v := judge(body, claimed, keys)
	err = r.print(v, func(out io.Writer) { v.report(out, len(keys)) })
	if err == nil && !v.Genuine {
		err = errors.New("the request is not genuine as it is") // the reasons are printed
	}
	return err
}

// mistake is one of the usual reasons why a signature does not fit.
type mistake struct {
	Kind string `json:"kind"`
	Text string `json:"text"` // what is wrong, and what to do
}

// verdict says whether a signature is that of a body and, if not, which mistakes explain it.
type verdict struct {
	// Genuine is true only if the signature has the form that Intercom sends, and is the
	// HMAC of exactly the given bytes.
	Genuine bool `json:"genuine"`

	Header   string    `json:"header,omitempty"`   // in which Intercom sends such a signature
	Secret   int       `json:"secret,omitempty"`   // place of the secret that fits, from 1
	Mistakes []mistake `json:"mistakes,omitempty"` // together, they explain the signature; none if nothing does

	scheme *signature.Scheme // whose header it is; nil if it has the form of none
}

// report prints the verdict.
func (v verdict) report(w io.Writer, secrets int) {
	which := ""
	if secrets > 1 && v.Secret > 0 {
		which = fmt.Sprintf(", with secret %d of %d", v.Secret, secrets)
	}
	_, secret, place := secretOf(v.scheme)
	switch {
	case v.Genuine:
		fmt.Fprintf(w, "genuine: %s fits the body as it is%s\n", v.Header, which)
		if v.Secret > 1 {
			fmt.Fprintln(w, "note: whoever knows only the first secret refuses it")
		}
	case v.Secret > 0:
		fmt.Fprintf(w, "not genuine as it is, but it was signed with the %s%s:\n", secret, which)
		fallthrough
	case len(v.Mistakes) > 0:
		for _, m := range v.Mistakes {
			fmt.Fprintf(w, "%s: %s\n", m.Kind, escape(m.Text))
		}
	default:
		fmt.Fprintf(w, "not genuine: no usual mistake explains the signature. Either it was made with another secret than the %s, "+
			"which is shown %s, or with an old one, or the body is not the one that was signed.\n", secret, place)
	}
}

// judge finds out whether a text is the signature of the body with one of the keys. If it is
// not, judge tries the usual mistakes, and returns the first that explains it.
func judge(body []byte, text string, keys []*signature.Key) verdict {
	claimed, mistakes := readSignature(text, body)
	if claimed.Scheme == nil {
		return verdict{Mistakes: mistakes}
	}
	v := verdict{Header: claimed.Scheme.Header, Mistakes: mistakes, scheme: claimed.Scheme}
	for sent, wrong := range guesses(body) {
		for place, key := range keys {
			if !key.Signed(sent, claimed) {
				continue
			}
			v.Secret = place + 1
			if claimed.Scheme != signature.Hub && isNotification(sent) {
				v.Mistakes = append(v.Mistakes, mistake{"sha256",
					"it fits as HMAC-SHA256, which app requests have in " + intercom.BodySignature + " and Fin Agent API events in " + intercom.FinSignature + "; a notification has HMAC-SHA1 in " + intercom.HubSignature + ": use that header"})
			}
			v.Mistakes = append(v.Mistakes, wrong...)
			for _, c := range contents(sent) {
				if c.mistakes[0].Kind == compressed { // signed as it is
					v.Mistakes = append(v.Mistakes, c.mistakes...)
				}
			}
			v.Genuine = len(v.Mistakes) == 0
			return v
		}
	}
	return v
}

// readSignature reads the value of a signature header, or a whole header line. It accepts other
// forms than Intercom's, and returns how they are wrong. What is no signature has no scheme. The
// body tells a Fin Agent API event from a notification that is signed as if it were one.
func readSignature(text string, body []byte) (claimed signature.Claimed, mistakes []mistake) {
	wrong := func(kind, text string) { mistakes = append(mistakes, mistake{kind, text}) }
	header := ""
	text = strings.TrimSpace(text)
	for _, known := range []string{intercom.HubSignature, intercom.BodySignature, intercom.FinSignature} {
		if name, value, found := strings.Cut(text, ":"); found && strings.EqualFold(strings.TrimSpace(name), known) {
			text, header = strings.TrimSpace(value), known
		}
	}
	prefix, digits, found := strings.Cut(text, "=")
	if !found || !strings.HasPrefix(strings.ToLower(prefix), "sha") { // the = at the end of base64
		prefix, digits = "", text
	} else {
		prefix += "="
	}
	sum, err := hex.DecodeString(digits)
	switch {
	case err != nil:
		sum = fromBase64(digits)
		wrong("base64", "it is base64, and Intercom's is hexadecimal: encode the HMAC as hexadecimal digits")
	case strings.ToLower(digits) != digits:
		wrong("hex_case", "the digits are in upper case, and Intercom's are in lower case: compare the bytes, not the text")
	}
	scheme, usual := signature.Body, ""
	switch {
	case len(sum) == sha1.Size:
		scheme, usual = signature.Hub, intercom.HubSignaturePrefix
	case header == intercom.FinSignature, header == "" && prefix == intercom.FinSignaturePrefix && !isNotification(body):
		scheme, usual = signature.Fin, intercom.FinSignaturePrefix
	}
	if claimed, err = scheme.Decode(usual + hex.EncodeToString(sum)); err != nil {
		return claimed, []mistake{{"malformed", "the signature is not " + intercom.HubSignaturePrefix +
			" and 40 hexadecimal digits, nor anything like it: copy the whole value of the header " + intercom.HubSignature}}
	}
	switch {
	case prefix == usual:
	case usual == "":
		wrong("prefix", "it has the prefix "+prefix+", and "+scheme.Header+" has none: leave it out")
	case prefix == "":
		wrong("prefix_missing", "it lacks the prefix "+usual+": use the whole value of "+scheme.Header)
	default:
		wrong("prefix", "its prefix is not "+usual+" in lower case: use the value of "+scheme.Header+" as it is")
	}
	if header != "" && header != scheme.Header {
		wrong("header", "it stands in "+header+", and has the length of "+scheme.Header+": the headers, or SHA-1 and SHA-256, are mixed up")
	}
	return claimed, mistakes
}

// fromBase64 decodes base64 in one of its alphabets, with or without padding. It returns nil if
// the text is none.
func fromBase64(text string) []byte {
	text = strings.TrimRight(text, "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if decoded, err := encoding.DecodeString(text); err == nil {
			return decoded
		}
	}
	return nil
}

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

const compressed = "compressed"

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
	const remedy = ", and the gateway refuses every Content-Encoding, as Intercom sends none: pass on, and verify, what came before anything compressed it"
	if reader, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
		add(compressed, "the body is compressed with gzip"+remedy, readBounded(reader))
	} else if reader, err := zlib.NewReader(bytes.NewReader(body)); err == nil {
		add(compressed, "the body is compressed with deflate"+remedy, readBounded(reader))
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
// is none of what is no JSON, and no indented one of what is nested too deeply or has too many lines.
func forms(document []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		var compact, html bytes.Buffer
		if json.Compact(&compact, document) != nil {
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
			if !yield("compact JSON"+text.name, text.json) || !yield("JSON with a space after each comma and colon"+text.name, spaced(text.json)) {
				return
			}
			indented, all := jsonview.Indent(text.json)
			if all && (!yield("JSON indented by 2"+text.name, indented) ||
				!yield("JSON indented by 2, with a space before each colon"+text.name, bytes.ReplaceAll(indented, []byte(`": `), []byte(`" : `)))) {
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
