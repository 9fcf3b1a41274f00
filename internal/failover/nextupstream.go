package failover

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

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
