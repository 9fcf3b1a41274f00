package failover

import (
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

func chooseBy(policy reverseproxy.Selector) *nextUpstream {
	return newNextUpstream(&reverseproxy.Handler{LoadBalancing: &reverseproxy.LoadBalancing{SelectionPolicy: policy}})
}

func TestRetryGoesToAnUpstreamNotTriedYet(t *testing.T) {
	for turnsOfOthers := range 4 {
		policy, pool := chooseBy(new(reverseproxy.RoundRobinSelection)), upstreams("a", "b", "c")
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
	policy, pool := chooseBy(new(reverseproxy.RoundRobinSelection)), upstreams("a", "b", "c")
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
	policy, pool := chooseBy(reverseproxy.FirstSelection{}), upstreams("a", "b", "c")
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
	if got := chooseBy(new(reverseproxy.RoundRobinSelection)).Select(nil, r, nil); got != nil {
		t.Errorf("got %v", got)
	}
}

// Nobody knows how many tries an upstream source needs, so the policy ends them.
func TestTriesOfDynamicUpstreamsEnd(t *testing.T) {
	for size, want := range map[int]int{1: 3, 2: 3, 5: 5} {
		policy := newNextUpstream(&reverseproxy.Handler{
			LoadBalancing:    &reverseproxy.LoadBalancing{SelectionPolicy: reverseproxy.FirstSelection{}, Retries: dynamicRetries},
			DynamicUpstreams: new(reverseproxy.AUpstreams),
		})
		r := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
		got := 0
		for range 1 + dynamicRetries {
			if policy.Select(upstreams("a", "b", "c", "d", "e")[:size], r, nil) != nil {
				got++
			}
		}
		if got != want {
			t.Errorf("%d tries of %d upstreams, want %d", got, size, want)
		}
	}
}

func TestLaterAttemptsReachEveryUpstream(t *testing.T) {
	policy, pool := chooseBy(reverseproxy.FirstSelection{}), upstreams("a", "b", "c")
	var got []string
	for _, attempt := range []string{"1", "2", "3", "4"} {
		r := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
		r.Header.Set("X-Intercom-Attempt", attempt)
		got = append(got, policy.Select(pool, r, nil).Dial)
	}
	slices.Sort(got[1:])
	if !slices.Equal(got, []string{"a", "a", "b", "c"}) {
		t.Errorf("the attempts went to %v", got)
	}
}

// Both policies have their tries with the same request, one after the other.
func TestPolicyOfAnInnerProxyHasAHistoryOfItsOwn(t *testing.T) {
	outer, inner, pool := chooseBy(reverseproxy.FirstSelection{}), chooseBy(reverseproxy.FirstSelection{}), upstreams("a", "b")
	r := prepared(httptest.NewRequest(http.MethodPost, "/", nil))
	outer.Select(pool, r, nil)
	for _, want := range []string{"a", "b"} {
		if got := inner.Select(pool, r, nil).Dial; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// prepared makes a request look as it does inside of Caddy.
func prepared(r *http.Request) *http.Request {
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, &caddyhttp.Server{})
}
