package intercomwebhook

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestOtherFieldsOfCaddysServerDoNotPanic(t *testing.T) {
	type other struct{ any } // whatever it may become
	set := any("set")
	for name, tc := range map[string]struct {
		server any
		want   bool
	}{
		"set":            {&struct{ trustedProxies any }{set}, true},
		"not set":        {&struct{ trustedProxies any }{}, false},
		"no such field":  {&struct{}{}, false},
		"a struct":       {&struct{ trustedProxies other }{other{set}}, false},
		"a flag":         {&struct{ trustedProxies bool }{true}, false},
		"Caddy's, unset": {new(caddyhttp.Server), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := hasTrustedProxies(tc.server); got != tc.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestMaxSizeIsChecked(t *testing.T) {
	for size, want := range map[int64]string{1: "", 64 << 20: "", 0: "from 1 byte", -1: "from 1 byte", 64<<20 + 1: "in memory as a whole", 1 << 40: "in memory as a whole"} {
		h := Handler{MaxSize: size, Timeout: caddy.Duration(defaultTimeout)}
		err := h.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("max_size %d: %v", size, err)
		}
	}
}
