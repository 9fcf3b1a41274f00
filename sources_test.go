package intercomwebhook

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestOnlyAddressesOfTrustedProxiesCount(t *testing.T) {
	const client = "192.0.2.7" // as Caddy finds it
	for name, tc := range map[string]struct {
		headers   http.Header // that Caddy reads the client's address from
		loose     bool        // without trusted_proxies_strict
		untrusted bool
		want      bool
	}{
		"ok/the client's alone":              {headers: http.Header{"X-Forwarded-For": {client}}, want: true},
		"ok/proxies behind it":               {headers: http.Header{"X-Forwarded-For": {client + ", 2001:db8::1,10.0.0.1:80 , fe80::1%eth0"}}, want: true},
		"ok/proxies in a header of its own":  {headers: http.Header{"X-Forwarded-For": {client, "10.0.0.1"}}, want: true},
		"ok/anything before it":              {headers: http.Header{"X-Forwarded-For": {"nonsense, " + client}}, want: true},
		"ok/no header":                       {want: true},
		"ok/another header":                  {headers: http.Header{"X-Client": {client}, "X-Other": {"nonsense"}}, want: true},
		"ok/from who is no proxy":            {headers: http.Header{"X-Forwarded-For": {"nonsense"}}, untrusted: true, want: true},
		"ok/not strict, which is warned of":  {headers: http.Header{"X-Forwarded-For": {client + ", nonsense"}}, loose: true, want: true},
		"fail/nonsense behind it":            {headers: http.Header{"X-Forwarded-For": {client + ", nonsense"}}},
		"fail/nonsense and a proxy":          {headers: http.Header{"X-Forwarded-For": {client + ", unknown, 10.0.0.1"}}},
		"fail/nothing behind it":             {headers: http.Header{"X-Forwarded-For": {client + ","}}},
		"fail/a name":                        {headers: http.Header{"X-Forwarded-For": {client + ", proxy.internal:443"}}},
		"fail/nonsense in a header behind":   {headers: http.Header{"X-Forwarded-For": {client, "nonsense"}}},
		"fail/nonsense alone":                {headers: http.Header{"X-Forwarded-For": {"nonsense"}}},
		"fail/nonsense in the first of two":  {headers: http.Header{"X-Client": {"nonsense"}, "X-Forwarded-For": {client}}},
		"fail/a quoted one, as in Forwarded": {headers: http.Header{"X-Forwarded-For": {client + `, "10.0.0.1"`}}},
	} {
		t.Run(name, func(t *testing.T) {
			server := &caddyhttp.Server{TrustedProxiesStrict: 1, ClientIPHeaders: []string{"X-Client", "X-Forwarded-For"}}
			if tc.loose {
				server.TrustedProxiesStrict = 0
			}
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, server)
			r.Header = tc.headers
			caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, !tc.untrusted)
			caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, client)
			v := verifier{sources: []caddyhttp.IPRangeSource{from(client + "/32")}}
			if err := v.checkSource(r); (err == nil) != tc.want || err != nil && !strings.Contains(err.Error(), "X-Forwarded-For") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Some tools write IPv4 ranges as those of IPv6.
func TestRangesOfIPv4MappedAddresses(t *testing.T) {
	for _, tc := range []struct{ written, client, stranger string }{
		{"::ffff:192.0.2.0/120", "192.0.2.7", "192.0.3.7"},
		{"::ffff:c000:200/120", "::ffff:192.0.2.7", "::ffff:192.0.3.7"},
		{"::ffff:192.0.2.7/128", "192.0.2.7", "192.0.2.8"},
		{"::ffff:0:0/96", "192.0.2.7", "2001:db8::1"},
		{"::/0", "2001:db8::1", "192.0.2.7"},
	} {
		v := verifier{sources: []caddyhttp.IPRangeSource{from(tc.written)}}
		for address, want := range map[string]bool{tc.client: true, tc.stranger: false} {
			r := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
			caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, address)
			if got := v.checkSource(r) == nil; got != want {
				t.Errorf("%s allows %s: %t", tc.written, address, got)
			}
		}
	}
}

func TestRangeThatFitsNoAddressIsRefused(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	for _, written := range []string{"::ffff:192.0.2.0/24", "::ffff:192.0.2.0/95"} {
		h := Handler{AllowRaw: []json.RawMessage{json.RawMessage(`{"source":"static","ranges":["192.0.2.0/24","` + written + `"]}`)}}
		_, _, err := loadSources(ctx, &h)
		if err == nil || !strings.Contains(err.Error(), netip.MustParsePrefix(written).String()) || !strings.Contains(err.Error(), "allow static 192.0.2.0/24") {
			t.Errorf("%s: %v", written, err)
		}
	}
}
