package db

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Request is the request with which a notification came, without its body.
type Request struct {
	Method     string              `json:"method"`
	URI        string              `json:"uri"`
	Proto      string              `json:"proto"`
	HTTPS      bool                `json:"https,omitempty"`
	Host       string              `json:"host"`
	RemoteAddr string              `json:"remote_addr"`
	LocalAddr  string              `json:"local_addr,omitempty"`
	LocalNet   string              `json:"local_net,omitempty"` // the network of the local address, such as tcp
	Header     map[string][]string `json:"header"`

	// The method and the URI before Caddy rewrote them, if it did.
	OriginalMethod string `json:"original_method,omitempty"`
	OriginalURI    string `json:"original_uri,omitempty"`
}

// Encode returns the request as JSON that every text column can hold. What is not text is
// encoded as EncodeText does.
func (r Request) Encode() string {
	r.eachText(EncodeText)
	encoded, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings can be marshalled
	}
	return string(encoded)
}

// DecodeRequest is the reverse of Encode.
func DecodeRequest(encoded string) (r Request, err error) {
	if err := json.Unmarshal([]byte(encoded), &r); err != nil {
		return r, err
	}
	r.eachText(DecodeText)
	return r, nil
}

// eachText replaces each text of the request. It makes a new header, as others may have the
// old one.
func (r *Request) eachText(change func(string) string) {
	for _, text := range []*string{&r.Method, &r.URI, &r.Proto, &r.Host, &r.RemoteAddr, &r.LocalAddr, &r.LocalNet, &r.OriginalMethod, &r.OriginalURI} {
		*text = change(*text)
	}
	header := make(map[string][]string, len(r.Header))
	for name, values := range r.Header {
		changed := make([]string, len(values))
		for i, value := range values {
			changed[i] = change(value)
		}
		header[change(name)] = changed
	}
	r.Header = header
}

// NewInstance returns a name for this process: the host's name and a random number.
func NewInstance() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	suffix := "-" + strconv.FormatUint(rand.Uint64(), 36) //nolint:gosec // a name, not a secret
	return strings.ToValidUTF8(host[:min(len(host), 80)], "") + suffix
}

// RowID returns the id of a row that a person may mean by a text; -1 if it is none.
func RowID(text string) int64 {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || strconv.FormatInt(id, 10) != text || id < 0 || id > math.MaxInt64/MaxDeliveries-1 {
		return -1
	}
	return id
}

// ObjectID returns the id in an object, or the text itself if it is an id.
func ObjectID(object string) string {
	_, id, found := strings.Cut(object, ":")
	if !found {
		return object
	}
	return id
}

// encodedPrefix begins texts that EncodeText has encoded.
const encodedPrefix = "base64:"

// EncodeText returns the text as every text column can hold it: as it is if it is UTF-8
// without NUL, and otherwise base64: and its base64. So that it can be decoded again, this
// is also done with a text that begins with base64:.
func EncodeText(text string) string {
	if utf8.ValidString(text) && strings.IndexByte(text, 0) < 0 && !strings.HasPrefix(text, encodedPrefix) {
		return text
	}
	return encodedPrefix + base64.StdEncoding.EncodeToString([]byte(text))
}

// DecodeText is the reverse of EncodeText.
func DecodeText(text string) string {
	encoded, ok := strings.CutPrefix(text, encodedPrefix)
	if !ok {
		return text
	}
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil { // a person has written it
		return text
	}
	return string(decoded)
}
