// Package failover makes reverse_proxy send a notification to the next upstream when one
// fails, with the whole body each time.
package failover

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/body"
)

const (
	// dialTimeout is how long an upstream may take to accept a connection. A dead upstream
	// must leave time for the next one, and Caddy's default of 3 s would use most of it.
	dialTimeout = time.Second

	// tries is how often a notification is sent if there are fewer upstreams.
	tries = 3

	// dynamicRetries is the number of retries for dynamic upstreams, of which nobody knows
	// beforehand how many there are.
	dynamicRetries = 15
)

// SetDefaults gives reverse_proxy the options that it needs to send a notification to
// the next upstream when one is down. Options that the user has set stay.
//
// Without a queue, the next one is also tried when one hangs up, although it may have taken
// the notification: otherwise, only Intercom would try again, once. With a queue, there are
// later attempts. So reverse_proxy keeps to its own rule for a POST: it tries again only what
// it could not connect to.
//
// There is no pause between retries: Intercom wants an answer within 500 ms, and a
// reload of the config would end a pause without another try.
func SetDefaults(proxy *reverseproxy.Handler, queued bool) error {
	proxy.LoadBalancing = cmp.Or(proxy.LoadBalancing, new(reverseproxy.LoadBalancing))
	lb := proxy.LoadBalancing
	if lb.RetryMatchRaw == nil && !queued {
		lb.RetryMatchRaw = caddyhttp.RawMatcherSets{{"method": json.RawMessage(`["POST"]`)}}
	}
	if lb.Retries == 0 && lb.TryDuration == 0 {
		lb.Retries = max(tries, len(proxy.Upstreams)) - 1
		if proxy.DynamicUpstreamsRaw != nil {
			lb.Retries = max(lb.Retries, dynamicRetries)
		}
	}
	if lb.SelectionPolicyRaw == nil {
		lb.SelectionPolicyRaw = caddyconfig.JSONModuleObject(new(reverseproxy.RoundRobinSelection), "policy", "round_robin", nil)
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

// Prepare makes each reverse_proxy in the provisioned handlers of a route send the whole body
// again with every try, and when an earlier handler has sent it elsewhere, as in
// `handle_response`. (Caddy's own sends what is left of it.) It also makes each retry go to
// another upstream.
func Prepare(handlers []caddyhttp.MiddlewareHandler) {
	for _, handler := range handlers {
		var responses []caddyhttp.ResponseHandler
		switch handler := handler.(type) {
		case *reverseproxy.Handler:
			handler.LoadBalancing.SelectionPolicy = newNextUpstream(handler)
			responses = handler.HandleResponse
		case *intercept.Intercept:
			responses = handler.HandleResponse
		case *caddyhttp.Subroute:
			PrepareRoutes(handler.Routes)
			if handler.Errors != nil {
				PrepareRoutes(handler.Errors.Routes)
			}
		}
		for _, response := range responses {
			PrepareRoutes(response.Routes)
		}
	}
}

// PrepareRoutes does so with the handlers of all routes.
func PrepareRoutes(routes caddyhttp.RouteList) {
	for _, route := range routes {
		Prepare(route.Handlers)
	}
}

// nextUpstream is a load-balancing policy that sends each retry to an upstream that the
// request has not been sent to yet, until all have been tried.
//
// Caddy's own policies do so only if the failed upstream then counts as down for some time
// (fail_duration). With them, one notification that breaks every backend would stop all
// other notifications for that time.
//
// From a notification's second attempt on, upstreams take turns, so that a policy which always
// chooses the same one does not send all attempts to one that hangs up.
type nextUpstream struct {
	first, later reverseproxy.Selector // choose among the upstreams that have not been tried
	bounded      bool                  // ends the tries
}

func newNextUpstream(proxy *reverseproxy.Handler) *nextUpstream {
	lb := proxy.LoadBalancing
	p := &nextUpstream{first: lb.SelectionPolicy, later: lb.SelectionPolicy}
	if _, ok := p.first.(*reverseproxy.RoundRobinSelection); !ok {
		p.later = new(reverseproxy.RoundRobinSelection)
	}
	p.bounded = proxy.DynamicUpstreams != nil && lb.Retries == dynamicRetries
	return p
}

// history is what a policy has chosen for a request.
type history struct {
	of    *nextUpstream
	tried []string // the addresses since it has started over
	count int      // of all
}

// historyVar is the variable that holds the history of the policy that has chosen last.
const historyVar = "intercom_webhook.upstreams"

// Select implements reverseproxy.Selector.
func (p *nextUpstream) Select(pool reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	body.Again(r)
	chooseBy := p.first
	if attempt := r.Header["X-Intercom-Attempt"]; len(attempt) > 0 && attempt[0] != "1" {
		chooseBy = p.later
	}
	if len(pool) < 2 && !p.bounded {
		return chooseBy.Select(pool, r, w)
	}
	h, _ := caddyhttp.GetVar(r.Context(), historyVar).(*history)
	if h == nil || h.of != p {
		h = &history{of: p}
		caddyhttp.SetVar(r.Context(), historyVar, h)
	}
	if p.bounded && h.count >= max(tries, len(pool)) {
		return nil
	}
	untried := pool
	if len(h.tried) > 0 {
		untried = slices.DeleteFunc(slices.Clone(pool), func(upstream *reverseproxy.Upstream) bool {
			return slices.Contains(h.tried, upstream.Dial)
		})
	}
	chosen := chooseBy.Select(untried, r, w)
	if chosen == nil { // all available upstreams have been tried: start over
		h.tried, chosen = nil, chooseBy.Select(pool, r, w)
	}
	if chosen != nil {
		h.tried = append(h.tried, chosen.Dial)
		h.count++
	}
	return chosen
}

// Interface guard
var _ reverseproxy.Selector = (*nextUpstream)(nil)
