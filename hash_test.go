package intercomwebhook

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// Instances that share a database, and sites that import a snippet, have the same handler if their
// hashes are equal.
func TestConfigHashIsThatOfTheHandlerAlone(t *testing.T) {
	const site = `{
		intercom_webhook {
			client_secret a
			route a.* {
				handle /x* {
					respond 201
				}
				handle {
					respond 202
				}
			}
			route b.* {
				handle {
					respond 203
				}
			}
		}
	}
	`
	hash := func(t *testing.T, sites string) (hashes [][sha256.Size]byte) {
		t.Helper()
		config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(sites), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range handlersIn(t, config) {
			hashes = append(hashes, hashOf(&h))
		}
		return hashes
	}
	want := hash(t, "http://a.example "+site)[0]
	for name, c := range map[string]struct {
		sites string
		same  bool
	}{
		"in two sites":            {"http://a.example " + site + "http://b.example " + site, true},
		"behind an unrelated one": {"http://a.example {\nhandle /a {\nrespond 201\n}\nhandle {\nrespond 202\n}\n}\nhttp://b.example " + site, true},
		"with another status":     {"http://a.example " + strings.Replace(site, "203", "204", 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, got := range hash(t, c.sites) {
				if (got == want) != c.same {
					t.Errorf("the hash is the same: %t, want %t", got == want, c.same)
				}
			}
		})
	}
	if one, other := renumberGroups([]byte(`[{"group":"group7"},{"group":"group7"}]`)), renumberGroups([]byte(`[{"group":"group7"},{"group":"group8"}]`)); bytes.Equal(one, other) {
		t.Errorf("one group and two are both %s", one)
	}
}
