package jobdb

import (
	"strings"
	"testing"
)

func TestInstanceName(t *testing.T) {
	for name, test := range map[string]struct{ host, want string }{
		"a plain host":                     {"web-1.example.com", "web-1.example.com-2s"},
		"a host with the token's mark":     {"web#1", "web-1-2s"},
		"a host that is not ASCII":         {"wéb", "w-b-2s"},
		"no host":                          {"", "unknown-2s"},
		"a host that is longer than names": {strings.Repeat("a", 300), strings.Repeat("a", 97) + "-2s"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := instanceName(test.host, 100); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	if one, other := newInstance(), newInstance(); one == other {
		t.Error("two processes have one name")
	}
}

func TestHolder(t *testing.T) {
	if got := holder("web-2s", 12); got != "web-2s#12" {
		t.Errorf("got %q", got)
	}
	for name, test := range map[string]struct {
		holder, instance string
		token            Token
	}{
		"a claim of this version":       {"web-2s#12", "web-2s", 12},
		"a claim of the version before": {"0e8f5a3e-2f5b", "0e8f5a3e-2f5b", 0},
		"a token that is no number":     {"web-2s#x", "web-2s", 0},
		"nobody":                        {"", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			instance, token := heldBy(test.holder)
			if instance != test.instance || token != test.token {
				t.Errorf("got %q and %d", instance, token)
			}
		})
	}
}
