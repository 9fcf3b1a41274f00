package signature

import (
	"crypto/hmac"
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
)

func TestHeaderIsTheHMACOfTheBody(t *testing.T) {
	for _, s := range []*Scheme{Hub, Body} {
		mac := hmac.New(s.newHash, []byte("secret"))
		io.WriteString(mac, "body")
		key := NewKey("secret")
		for range 2 {
			header := key.Header(s, []byte("body"))
			if want := s.prefix + hex.EncodeToString(mac.Sum(nil)); header != want {
				t.Errorf("%s: got %s, want %s", s.Header, header, want)
			}
			claimed, err := s.Decode(header)
			if err != nil || !key.Signed([]byte("body"), claimed) || key.Signed([]byte("other"), claimed) || NewKey("").Signed([]byte("body"), claimed) {
				t.Errorf("%s: %s does not sign the body alone, with the secret alone (%v)", s.Header, header, err)
			}
		}
	}
}

// FuzzDecode holds Decode against the form as Intercom documents it.
func FuzzDecode(f *testing.F) {
	f.Add("sha1="+strings.Repeat("0a", 20), true)
	f.Add(strings.Repeat("0A", 32), false)
	f.Add("sha1=", true)
	hubForm := regexp.MustCompile(`\Asha1=[0-9a-fA-F]{40}\z`)
	bodyForm := regexp.MustCompile(`\A[0-9a-fA-F]{64}\z`)
	f.Fuzz(func(t *testing.T, value string, hub bool) {
		s, form := Body, bodyForm
		if hub {
			s, form = Hub, hubForm
		}
		claimed, err := s.Decode(value)
		if (err == nil) != form.MatchString(value) {
			t.Fatalf("%q: got %v", value, err)
		}
		if err != nil {
			return
		}
		if digits := fmt.Sprintf("%x", claimed.sum[:s.size]); !strings.EqualFold(s.prefix+digits, value) {
			t.Errorf("%q became %s", value, digits)
		}
	})
}
