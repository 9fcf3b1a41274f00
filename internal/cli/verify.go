package cli

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

func newVerifyCommand() *cobra.Command {
	cmd := newCommand("verify")
	cmd.Args, cmd.RunE = usageArgs(cobra.ExactArgs(1)), runE(runVerify)
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

// errNotGenuine is the error after the reasons have been printed.
var errNotGenuine = errors.New("the request is not genuine as it is")

func runVerify(_ context.Context, r *run, args []string) error {
	claimed := r.String("signature")
	if claimed == "" {
		return usagef("no signature: give the value of the request's X-Hub-Signature with --signature")
	}
	keys, err := clientSecrets(r)
	if err != nil {
		return err
	}
	if len(keys) > maxSecrets {
		return usagef("--secret-file has %d secrets: %d are tried at most; leave the others out", len(keys), maxSecrets)
	}
	body, err := readFile(args[0], r.in, maxVerified)
	if err != nil {
		return usagef("reading the body: %w", err)
	}
	v := judge(body, claimed, keys)
	err = r.print(v, func(out io.Writer) { v.report(out, len(keys)) })
	if err == nil && !v.Genuine {
		err = errNotGenuine
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
}

// report prints the verdict.
func (v verdict) report(w io.Writer, secrets int) {
	which := ""
	if secrets > 1 && v.Secret > 0 {
		which = fmt.Sprintf(", with secret %d of %d", v.Secret, secrets)
	}
	switch {
	case v.Genuine:
		fmt.Fprintf(w, "genuine: %s fits the body as it is%s\n", v.Header, which)
		if v.Secret > 1 {
			fmt.Fprintln(w, "note: whoever knows only the first secret refuses it")
		}
	case v.Secret > 0:
		fmt.Fprintf(w, "not genuine as it is, but it was signed with the client secret%s:\n", which)
		fallthrough
	case len(v.Mistakes) > 0:
		for _, m := range v.Mistakes {
			fmt.Fprintf(w, "%s: %s\n", m.Kind, escape(m.Text))
		}
	default:
		fmt.Fprintln(w, "not genuine: no usual mistake explains the signature. Either it was made with another secret, "+
			"that of another app or an old one (see Basic information in the Developer Hub), or the body is not the one that was signed.")
	}
}

// judge finds out whether a text is the signature of the body with one of the keys. If it is
// not, judge tries the usual mistakes, and returns the first that explains it.
func judge(body []byte, text string, keys []*signature.Key) verdict {
	claimed, mistakes := readSignature(text)
	if claimed.Scheme == nil {
		return verdict{Mistakes: mistakes}
	}
	v := verdict{Header: claimed.Scheme.Header, Mistakes: mistakes}
	for sent, wrong := range guesses(body) {
		for place, key := range keys {
			if !key.Signed(sent, claimed) {
				continue
			}
			v.Secret = place + 1
			if claimed.Scheme == signature.Body && isNotification(sent) {
				v.Mistakes = append(v.Mistakes, mistake{"sha256",
					"it fits as HMAC-SHA256, which app requests have in " + intercom.BodySignature + "; a notification has HMAC-SHA1 in " + intercom.HubSignature + ": use that header"})
			}
			v.Mistakes = append(v.Mistakes, wrong...)
			v.Genuine = len(v.Mistakes) == 0
			return v
		}
	}
	return v
}

// readSignature reads the value of a signature header, or a whole header line. It accepts other
// forms than Intercom's, and returns how they are wrong. What is no signature has no scheme.
func readSignature(text string) (claimed signature.Claimed, mistakes []mistake) {
	wrong := func(kind, text string) { mistakes = append(mistakes, mistake{kind, text}) }
	header := ""
	text = strings.TrimSpace(text)
	for _, known := range []string{intercom.HubSignature, intercom.BodySignature} {
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
	if len(sum) == sha1.Size {
		scheme, usual = signature.Hub, intercom.HubSignaturePrefix
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
