package integration

import (
	"testing"
)

const forgeable = "source addresses can be forged"

func TestSourceBehindAProxy(t *testing.T) {
	const (
		strict  = "trusted_proxies static 127.0.0.1 198.51.100.0/24\ntrusted_proxies_strict"
		intern  = "192.0.2.7"
		outside = "203.0.113.9"
	)
	for _, c := range []struct {
		name, servers, allow string
		forwarded            []string
		status               int
	}{
		{"the address that the proxy saw is judged", strict, "static " + intern, []string{intern}, 200},
		{"the address that the proxy saw is the rightmost", strict, "static " + intern, []string{outside + ", " + intern}, 200},
		{"a spoofed leftmost address is not judged", strict, "static " + intern, []string{intern + ", " + outside}, 403},
		{"a spoofed leftmost address in a header of its own is not judged", strict, "static " + intern, []string{intern, outside}, 403},
		{"trusted proxies in between are passed over", strict, "static " + intern, []string{outside + ", " + intern + ", 198.51.100.3"}, 200},
		{"an IPv4-mapped address is its IPv4 address", strict, "static " + intern, []string{"::ffff:" + intern}, 200},
		{"an IPv4-mapped address that is not allowed", strict, "static " + intern, []string{"::ffff:" + outside}, 403},
		{"an IPv6 address", strict, "static 2001:db8::/32", []string{"2001:db8::7"}, 200},
		{"no address at all is that of the proxy", strict, "static " + intern, nil, 403},
		{"nonsense is no address", strict, "static " + intern, []string{"nonsense"}, 403},
		{"nonsense from a trusted proxy is not passed over", strict, "static " + intern, []string{intern + ", nonsense"}, 403},
		{"a range of IPv4-mapped addresses", strict, "static ::ffff:192.0.2.0/120", []string{intern}, 200},
		{"an allowed proxy vouches for nobody else", strict, "static 127.0.0.1", []string{outside}, 403},
		{"the header of a peer that is no trusted proxy is ignored", "", "static " + intern, []string{intern}, 403},
		{"the header of a peer that is no trusted proxy does no harm", "", "static 127.0.0.1", []string{outside}, 200},
		{"several sources allow what any of them has", strict, "static 198.51.100.200/32\nallow static 10.0.0.0/8 " + intern, []string{intern}, 200},
		{"several sources refuse what none of them has", strict, "static 198.51.100.200/32\nallow static 10.0.0.0/8", []string{intern}, 403},
		{"Intercom's own addresses are allowed if nothing is said", strict, "-", []string{"54.217.125.63"}, 200},
		{"only Intercom's own addresses are allowed if nothing is said", strict, "-", []string{outside}, 403},
		{"not even this host is allowed if nothing is said", "", "-", nil, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t, nil)
			g := start(t, setup{servers: c.servers, allow: c.allow, webhook: "route * to " + b.address})
			before := g.scrape()
			g.expect(c.status, good.with("X-Forwarded-For", c.forwarded...))

			wantBackend, wantRefused := 1, 0.0
			if c.status == 403 {
				wantBackend, wantRefused = 0, 1
			}
			b.wantCount(t, wantBackend)
			if got := g.scrape().since(before)[`refused_total{reason="source"}`]; got != wantRefused {
				t.Errorf("counted %v refusals because of the source, want %v", got, wantRefused)
			}
			if lines := g.warnings(forgeable); len(lines) != 0 {
				t.Errorf("a warning of forgeable addresses at load: %v", lines)
			}
		})
	}
}

func TestForgeableSourceIsWarnedOf(t *testing.T) {
	g := start(t, setup{servers: "trusted_proxies static 127.0.0.1", allow: "static 192.0.2.7"})
	if lines := g.warnings(forgeable); len(lines) != 1 {
		t.Fatalf("%d warnings at load, want 1", len(lines))
	}
	// and this is why
	g.expect(200, good.with("X-Forwarded-For", "192.0.2.7, 203.0.113.9"))
}

func TestAllSourcesOfIntercomAreCompiledIn(t *testing.T) {
	g := start(t, setup{servers: "trusted_proxies static 127.0.0.1\ntrusted_proxies_strict", allow: "-"})
	for _, address := range []string{
		"34.197.76.213", "34.231.68.152", "35.169.138.21", "35.171.78.91", "52.44.63.161", "52.70.27.159",
		"54.216.9.3", "54.217.125.63", "54.246.173.113",
		"3.104.68.152", "52.63.36.185", "52.64.2.165",
	} {
		if answer := g.send(good.with("X-Forwarded-For", address)); answer.status != 200 {
			t.Errorf("%s: status %d, want 200", address, answer.status)
		}
	}
	// in the same file of Intercom's, but not what sends webhooks
	for _, address := range []string{"18.97.36.1", "100.26.10.220", "100.28.79.136", "34.197.76.214"} {
		if answer := g.send(good.with("X-Forwarded-For", address)); answer.status != 403 {
			t.Errorf("%s: status %d, want 403", address, answer.status)
		}
	}
}
