package failover

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func upstreams(dials ...string) reverseproxy.UpstreamPool {
	var pool reverseproxy.UpstreamPool
	for _, dial := range dials {
		pool = append(pool, &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: dial})
	}
	return pool
}

func chooseBy(t *testing.T, policy string) *nextUpstream {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	p := new(nextUpstream)
	if policy != "" {
		p.ChooseByRaw = fmt.Appendf(nil, `{"policy":%q}`, policy)
	}
	if err := p.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRetryGoesToAnUpstreamNotTriedYet(t *testing.T) {
	for turnsOfOthers := range 4 {
		policy, pool := chooseBy(t, ""), upstreams("a", "b", "c")
		r := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
		var tried []string
		for range pool {
			tried = append(tried, policy.Select(pool, r, nil).Dial)
			for range turnsOfOthers {
				policy.Select(pool, prepared(httptest.NewRequest(http.MethodPost, "/", nil)), nil)
			}
		}
		slices.Sort(tried)
		if !slices.Equal(tried, []string{"a", "b", "c"}) {
			t.Errorf("with %d turns of others: tried %v", turnsOfOthers, tried)
		}
		if again := policy.Select(pool, r, nil); again == nil {
			t.Error("does not start over when all were tried")
		}
	}
}

func TestRequestsTakeTurns(t *testing.T) {
	policy, pool := chooseBy(t, ""), upstreams("a", "b", "c")
	got := make(map[string]int)
	for range 30 {
		got[policy.Select(pool, prepared(httptest.NewRequest(http.MethodPost, "/", nil)), nil).Dial]++
	}
	for _, upstream := range pool {
		if got[upstream.Dial] != 10 {
			t.Errorf("%s had %d of 30 turns", upstream.Dial, got[upstream.Dial])
		}
	}
}

func TestAnotherPolicyChoosesAmongTheUntried(t *testing.T) {
	policy, pool := chooseBy(t, "first"), upstreams("a", "b", "c")
	for range 3 {
		r := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
		for _, want := range []string{"a", "b", "c", "a", "b"} {
			if got := policy.Select(pool, r, nil).Dial; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
}

func TestNoUpstreamIsSelectedOfNone(t *testing.T) {
	r := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
	if got := chooseBy(t, "").Select(nil, r, nil); got != nil {
		t.Errorf("got %v", got)
	}
}

// prepared makes a request look as it does inside of Caddy.
func prepared(r *http.Request) *http.Request {
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, &caddyhttp.Server{})
}
