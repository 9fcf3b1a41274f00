// Package failover makes reverse_proxy send a notification to the next upstream when one
// fails. It has the defaults of `route ... to` and the load-balancing policy
// intercom_next.
package failover

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
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

func init() {
	caddy.RegisterModule(new(nextUpstream))
}

// nextUpstream is a load-balancing policy that sends each retry to an upstream that the
// request has not been sent to yet, until all have been tried.
//
// Caddy's own policies do so only if the failed upstream then counts as down for some time
// (fail_duration). With them, one notification that breaks every backend would stop all
// other notifications for that time.
type nextUpstream struct {
	// The policy that chooses among the upstreams that have not been tried. Default:
	// round_robin.
	ChooseByRaw json.RawMessage `json:"choose_by,omitempty" caddy:"namespace=http.reverse_proxy.selection_policies inline_key=policy"`

	chooseBy reverseproxy.Selector
}

// CaddyModule returns the Caddy module information.
func (*nextUpstream) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.selection_policies.intercom_next",
		New: func() caddy.Module { return new(nextUpstream) },
	}
}

// Provision loads the policy to choose by.
func (p *nextUpstream) Provision(ctx caddy.Context) error {
	if p.ChooseByRaw == nil {
		p.chooseBy = new(reverseproxy.RoundRobinSelection)
		return nil
	}
	module, err := ctx.LoadModule(p, "ChooseByRaw")
	if err != nil {
		return fmt.Errorf("loading choose_by: %w", err)
	}
	p.chooseBy = module.(reverseproxy.Selector)
	return nil
}

// triedVar is the variable that holds the addresses that a request has been sent to.
const triedVar = "intercom_webhook.tried_upstreams"

// Select implements reverseproxy.Selector.
func (p *nextUpstream) Select(pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	tried, _ := caddyhttp.GetVar(r.Context(), triedVar).([]string)
	untried := pool
	if len(tried) > 0 {
		untried = slices.DeleteFunc(slices.Clone(pool), func(upstream *reverseproxy.Upstream) bool {
			return slices.Contains(tried, upstream.Dial)
		})
	}
	chosen := p.chooseBy.Select(untried, r, w)
	if chosen == nil { // all available upstreams have been tried: start over
		tried, chosen = nil, p.chooseBy.Select(pool, r, w)
	}
	if chosen != nil {
		caddyhttp.SetVar(r.Context(), triedVar, append(tried, chosen.Dial))
	}
	return chosen
}

// Interface guards
var (
	_ caddy.Provisioner     = (*nextUpstream)(nil)
	_ reverseproxy.Selector = (*nextUpstream)(nil)
)
