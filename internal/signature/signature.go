// Package signature checks and makes the signatures of Intercom's requests.
package signature

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
	"sync"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// Scheme is one of the ways in which Intercom signs requests. Each has its own header, and a
// signature in the header of another one is not accepted.
type Scheme struct {
	Header  string
	prefix  string
	newHash func() hash.Hash
	size    int // of the HMAC, in bytes
}

var (
	// Hub is the scheme of notifications.
	Hub = &Scheme{Header: intercom.HubSignature, prefix: intercom.HubSignaturePrefix, newHash: sha1.New, size: sha1.Size}
	// Body is the scheme of app requests.
	Body = &Scheme{Header: intercom.BodySignature, newHash: sha256.New, size: sha256.Size}
	// Fin is the scheme of Fin Agent API events. They have secrets of their own.
	Fin = &Scheme{Header: intercom.FinSignature, prefix: intercom.FinSignaturePrefix, newHash: sha256.New, size: sha256.Size}
)

// Claimed is the signature that a request claims to have.
type Claimed struct {
	Scheme *Scheme
	sum    [sha256.Size]byte // only the first Scheme.size bytes are used
}

// Decode reads the signature from the value of its header. The error quotes nothing of it.
func (s *Scheme) Decode(value string) (Claimed, error) {
	claimed := Claimed{Scheme: s}
	var digits [2 * sha256.Size]byte // on the stack; a conversion to []byte would be on the heap
	text, ok := strings.CutPrefix(value, s.prefix)
	if ok && len(text) == hex.EncodedLen(s.size) {
		n := copy(digits[:], text)
		if _, err := hex.Decode(claimed.sum[:], digits[:n]); err == nil {
			return claimed, nil
		}
	}
	return Claimed{}, fmt.Errorf("%s is not %q and %d hex digits", s.Header, s.prefix, hex.EncodedLen(s.size))
}

// Key checks and makes signatures with one secret.
type Key struct{ sha1, sha256 macPool }

// NewKey returns the key that a secret is.
func NewKey(secret string) *Key {
	return &Key{sha1: newMACPool(Hub, secret), sha256: newMACPool(Body, secret)}
}

func (k *Key) pool(s *Scheme) *macPool {
	if s.size == sha1.Size {
		return &k.sha1
	}
	return &k.sha256
}

// Signed reports, in constant time, whether the claimed signature is that of the body.
func (k *Key) Signed(body []byte, claimed Claimed) bool {
	pool := k.pool(claimed.Scheme)
	mac := pool.of(body)
	defer pool.Put(mac)
	return hmac.Equal(mac.sum[:claimed.Scheme.size], claimed.sum[:claimed.Scheme.size])
}

// Header returns the value of the scheme's header for the body.
func (k *Key) Header(s *Scheme, body []byte) string {
	pool := k.pool(s)
	mac := pool.of(body)
	defer pool.Put(mac)
	return s.prefix + hex.EncodeToString(mac.sum[:s.size])
}

// macPool has HMAC states with the key of one secret. Setting the key costs as much as
// hashing a small body.
type macPool struct{ sync.Pool }

type keyedMAC struct {
	hash.Hash
	sum [sha256.Size]byte // of the last body
}

func newMACPool(s *Scheme, secret string) macPool {
	return macPool{sync.Pool{New: func() any { return &keyedMAC{Hash: hmac.New(s.newHash, []byte(secret))} }}}
}

// of returns a state with the sum of the body. The caller puts it back.
func (p *macPool) of(body []byte) *keyedMAC {
	mac := p.Get().(*keyedMAC)
	mac.Reset()
	mac.Write(body)
	mac.Sum(mac.sum[:0])
	return mac
}
