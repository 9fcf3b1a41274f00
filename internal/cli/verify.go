package cli

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

func newVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify <body>",
		Short: "Tells why the signature of a captured request does not fit",
		Long: `
Checks the signature of a request that was captured: its body is in a file ("-" is
standard input), and --signature has the value of its X-Hub-Signature or
X-Body-Signature. It prints whether the request is genuine: signed with the client
secret, over exactly these bytes.

If it is not, the usual mistakes are tried, and the one that explains the signature is
printed, with what to do: a line break added or lost at the end, LF and CRLF, a byte order
mark, a body that is compressed, base64 or hexadecimal, a whole HTTP message in place of
its body, JSON that was parsed and written again; SHA-1 and SHA-256 or their headers mixed
up, and a signature in upper case, in base64, or without its prefix. If none fits, the
secret is that of another app or an old one, or the body was changed in another way.

A body may have ` + fmt.Sprint(maxVerified>>20) + ` MiB, compressed or not. If a file has several secrets, all of them are
tried, ` + fmt.Sprint(maxSecrets) + ` at most, and the place of the one that fits is printed.
` + secretHelp + `
The exit code is 0 if the request is genuine, 1 if it is not, and 2 if the arguments are
wrong.

Examples:

	$ caddy intercom-webhook verify body.json --signature sha1=0b1f… --secret-file /etc/caddy/intercom-secret

	$ caddy intercom-webhook verify - --signature sha1=0b1f… --json < body.json
`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: runE(runVerify),
	}
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

func runVerify(cmd *cobra.Command, args []string) error {
	fl := caddycmd.Flags{FlagSet: cmd.Flags()}
	signature := fl.String("signature")
	if signature == "" {
		return usagef("no signature: give the value of the request's X-Hub-Signature with --signature")
	}
	secrets, err := clientSecrets(fl, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if len(secrets) > maxSecrets {
		return usagef("--secret-file has %d secrets: %d are tried at most; leave the others out", len(secrets), maxSecrets)
	}
	body, err := readFile(args[0], cmd.InOrStdin(), maxVerified)
	if err != nil {
		return usagef("reading the body: %w", err)
	}
	v := judge(body, signature, secrets)
	if fl.Bool("json") {
		err = printJSON(cmd.OutOrStdout(), v)
	} else {
		v.report(cmd.OutOrStdout(), len(secrets))
	}
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

// judge finds out whether the signature is that of the body with one of the secrets. If it is
// not, judge tries the usual mistakes, and returns the first that explains it.
func judge(body []byte, signature string, secrets [][]byte) verdict {
	claimed, ok := readSignature(signature)
	if !ok {
		return verdict{Mistakes: []mistake{{"malformed",
			"the signature is not " + intercom.HubSignaturePrefix + " and 40 hexadecimal digits, nor anything like it: copy the whole value of the header " + intercom.HubSignature}}}
	}
	v := verdict{Header: claimed.header}
	for sent, wrong := range guesses(body) {
		for place, secret := range secrets {
			if !hmac.Equal(claimed.mac(sent, secret), claimed.sum) {
				continue
			}
			v.Secret, v.Mistakes = place+1, claimed.mistakes
			if claimed.header == intercom.BodySignature && isNotification(sent) {
				v.Mistakes = append(v.Mistakes, mistake{"sha256",
					"it fits as HMAC-SHA256, which app requests have in " + intercom.BodySignature + "; a notification has HMAC-SHA1 in " + intercom.HubSignature + ": use that header"})
			}
			v.Mistakes = append(v.Mistakes, wrong...)
			v.Genuine = len(v.Mistakes) == 0
			return v
		}
	}
	v.Mistakes = claimed.mistakes
	return v
}

// claimedSignature is the value of a signature header.
type claimedSignature struct {
	scheme   // in which Intercom sends such a sum
	sum      []byte
	mistakes []mistake // in how it is written
}

// readSignature reads the value of a signature header, or a whole header line. It accepts
// other forms than Intercom's, and returns how they are wrong.
func readSignature(text string) (c claimedSignature, ok bool) {
	text, header := strings.TrimSpace(text), ""
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
	wrong := func(kind, text string) { c.mistakes = append(c.mistakes, mistake{kind, text}) }
	knownSize := func(sum []byte) bool { return len(sum) == sha1.Size || len(sum) == sha256.Size }
	if sum, err := hex.DecodeString(digits); err == nil && knownSize(sum) {
		c.sum = sum
		if strings.ToLower(digits) != digits {
			wrong("hex_case", "the digits are in upper case, and Intercom's are in lower case: compare the bytes, not the text")
		}
	} else if sum := fromBase64(digits); knownSize(sum) {
		c.sum = sum
		wrong("base64", "it is base64, and Intercom's is hexadecimal: encode the HMAC as hexadecimal digits")
	} else {
		return claimedSignature{}, false
	}
	c.scheme = appRequestScheme
	if len(c.sum) == sha1.Size {
		c.scheme = notificationScheme
	}
	switch {
	case prefix == c.prefix:
	case c.prefix == "":
		wrong("prefix", "it has the prefix "+prefix+", and "+c.header+" has none: leave it out")
	case prefix == "":
		wrong("prefix_missing", "it lacks the prefix "+c.prefix+": use the whole value of "+c.header)
	default:
		wrong("prefix", "its prefix is not "+c.prefix+" in lower case: use the value of "+c.header+" as it is")
	}
	if header != "" && header != c.header {
		wrong("header", "it stands in "+header+", and has the length of "+c.header+": the headers, or SHA-1 and SHA-256, are mixed up")
	}
	return c, true
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
