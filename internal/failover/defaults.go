// Package failover makes reverse_proxy send a notification to the next upstream when one
// fails. It has the defaults of `route ... to` and the load-balancing policy
// intercom_next.
package failover

import (
	"encoding/json"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// dialTimeout is how long an upstream may take to accept a connection. A dead upstream
// must leave time for the next one, and Caddy's default of 3 s would use most of it.
const dialTimeout = time.Second

// SetDefaults gives reverse_proxy the options that it needs to send a notification to
// the next upstream when one is down or hangs up. Options that the user has set stay.
// Without these defaults, reverse_proxy does not retry a POST, and cannot send a body twice.
//
// There is no pause between retries: Intercom wants an answer within 500 ms, and a
// reload of the config would end a pause without another try.
func SetDefaults(proxy *reverseproxy.Handler, maxSize int64) error {
	if proxy.RequestBuffers == 0 {
		proxy.RequestBuffers = maxSize + 1 // a body that fills the buffer counts as cut off
	}
	if proxy.LoadBalancing == nil {
		proxy.LoadBalancing = new(reverseproxy.LoadBalancing)
	}
	lb := proxy.LoadBalancing
	if lb.RetryMatchRaw == nil {
		lb.RetryMatchRaw = caddyhttp.RawMatcherSets{{"method": json.RawMessage(`["POST"]`)}}
	}
	if lb.Retries == 0 && lb.TryDuration == 0 {
		lb.Retries = max(3, len(proxy.Upstreams)-1)
	}
	if len(proxy.Upstreams) > 1 {
		next := &nextUpstream{ChooseByRaw: lb.SelectionPolicyRaw}
		lb.SelectionPolicyRaw = caddyconfig.JSONModuleObject(next, "policy", "intercom_next", nil)
	}
	return setDialTimeout(proxy)
}

// setDialTimeout sets the dial timeout of an HTTP transport that has none.
func setDialTimeout(proxy *reverseproxy.Handler) error {
	transport := new(reverseproxy.HTTPTransport)
	if proxy.TransportRaw != nil {
		var module struct {
			Protocol string `json:"protocol"`
		}
		if err := json.Unmarshal(proxy.TransportRaw, &module); err != nil || module.Protocol != "http" {
			return err
		}
		if err := json.Unmarshal(proxy.TransportRaw, transport); err != nil {
			return err
		}
	}
	if transport.DialTimeout == 0 {
		transport.DialTimeout = caddy.Duration(dialTimeout)
		proxy.TransportRaw = caddyconfig.JSONModuleObject(transport, "protocol", "http", nil)
	}
	return nil
}
