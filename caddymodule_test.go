package intercomwebhook

import (
	"testing"

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
