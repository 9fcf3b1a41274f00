package cli

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

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

// judge finds out whether the signature is that of the body with one of the secrets. If it is
// not, judge tries the usual mistakes, and returns the fewest that explain it.
func judge(body []byte, signature string, secrets [][]byte) verdict {
	claimed, ok := readSignature(signature)
	if !ok {
		return verdict{Mistakes: []mistake{{"malformed",
			"the signature is not " + intercom.HubSignaturePrefix + " and 40 hexadecimal digits, nor anything like it: copy the whole value of the header " + intercom.HubSignature}}}
	}
	if claimed.header == intercom.BodySignature && isNotification(body) {
		claimed.mistakes = append(claimed.mistakes, mistake{"sha256",
			"it fits as HMAC-SHA256, which app requests have in " + intercom.BodySignature + "; a notification has HMAC-SHA1 in " + intercom.HubSignature + ": use that header"})
	}

	best := verdict{Header: claimed.header}
	for _, sent := range variantsOfBody(body) {
		for place, secret := range secrets {
			for _, key := range variantsOfSecret(secret) {
				mistakes := together(claimed.mistakes, sent.mistake, key.mistake)
				better := best.Secret == 0 || len(mistakes) < len(best.Mistakes)
				if better && claimed.signs(sent.bytes, key.bytes) {
					best.Secret, best.Mistakes = place+1, mistakes
				}
			}
		}
	}
	best.Genuine = best.Secret > 0 && len(best.Mistakes) == 0
	return best
}

// together returns all mistakes in a new slice, without those that are nil.
func together(some []mistake, more ...*mistake) []mistake {
	all := append([]mistake(nil), some...)
	for _, m := range more {
		if m != nil {
			all = append(all, *m)
		}
	}
	return all
}

// isNotification reports whether the body is that of a notification: only those have a topic.
func isNotification(body []byte) bool {
	var envelope struct{ Topic *string }
	return json.Unmarshal(bytes.TrimPrefix(body, bom), &envelope) == nil && envelope.Topic != nil
}

// claimedSignature is the value of a signature header.
type claimedSignature struct {
	scheme   // in which Intercom sends such a sum
	sum      []byte
	mistakes []mistake // in how it is written
}

func (c claimedSignature) signs(body, secret []byte) bool {
	return hmac.Equal(c.mac(body, secret), c.sum)
}

// readSignature reads the value of a signature header, or a whole header line. It accepts
// other forms than Intercom's, and returns how they are wrong.
func readSignature(text string) (claimedSignature, bool) {
	text = strings.TrimSpace(text)
	for _, header := range []string{intercom.HubSignature, intercom.BodySignature} {
		if name, value, found := strings.Cut(text, ":"); found && strings.EqualFold(strings.TrimSpace(name), header) {
			text = strings.TrimSpace(value)
		}
	}
	prefix, digits, found := strings.Cut(text, "=")
	if !found || !strings.HasPrefix(strings.ToLower(prefix), "sha") { // the = at the end of base64
		prefix, digits = "", text
	} else {
		prefix += "="
	}

	var c claimedSignature
	if sum, err := hex.DecodeString(digits); err == nil && knownSize(sum) {
		c.sum = sum
		if strings.ToLower(digits) != digits {
			c.mistakes = append(c.mistakes, mistake{"hex_case",
				"the digits are in upper case, and Intercom's are in lower case: compare the bytes, not the text"})
		}
	} else if sum, ok := readBase64(digits); ok {
		c.sum = sum
		c.mistakes = append(c.mistakes, mistake{"base64", "it is base64, and Intercom's is hexadecimal: encode the HMAC as hexadecimal digits"})
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
		c.mistakes = append(c.mistakes, mistake{"prefix", "it has the prefix " + printable([]byte(prefix)) + ", and " + c.header + " has none: leave it out"})
	case prefix == "":
		c.mistakes = append(c.mistakes, mistake{"prefix_missing", "it lacks the prefix " + c.prefix + ": use the whole value of " + c.header})
	default:
		c.mistakes = append(c.mistakes, mistake{"prefix", "its prefix is not " + c.prefix + " in lower case: use the value of " + c.header + " as it is"})
	}
	return c, true
}

func knownSize(sum []byte) bool { return len(sum) == sha1.Size || len(sum) == sha256.Size }

func readBase64(text string) ([]byte, bool) {
	text = strings.TrimRight(text, "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if sum, err := encoding.DecodeString(text); err == nil && knownSize(sum) {
			return sum, true
		}
	}
	return nil, false
}

// variant is something that may have been used in place of what is given.
type variant struct {
	bytes   []byte
	mistake *mistake // nil: it is what is given
}

// variantsOfSecret returns the secret, and what is used if the blanks around it are treated
// in another way.
func variantsOfSecret(secret []byte) []variant {
	variants := []variant{{bytes: secret}}
	if trimmed := bytes.TrimSpace(secret); len(trimmed) < len(secret) {
		return append(variants, variant{trimmed, &mistake{"secret_blanks",
			"it fits the secret without the blanks around it: remove them where the secret is stored"}})
	}
	signer := &mistake{"secret_blanks",
		"it was signed with the secret and blanks or a line break around it: the signer must remove them, as of a file that ends with a line break"}
	for _, around := range [][2]string{{"", "\n"}, {"", "\r\n"}, {"", " "}, {" ", ""}, {" ", " "}} {
		variants = append(variants, variant{[]byte(around[0] + string(secret) + around[1]), signer})
	}
	return variants
}
