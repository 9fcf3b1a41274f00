package intercomwebhook

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// provisioned returns a handler with these routes, as a config has it.
func provisioned(t *testing.T, routes string) *Handler {
	t.Helper()
	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(ctx)
	t.Cleanup(cancel)
	h := new(Handler)
	config := `{"client_secrets":["s"],"allow":[{"source":"static","ranges":["192.0.2.0/24"]}],"routes":` + routes + `}`
	if err := json.Unmarshal([]byte(config), h); err != nil {
		t.Fatal(err)
	}
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	h.server = new(caddyhttp.Server) // without which reverse_proxy panics
	return h
}

func TestDeliveryTellsWhatCameOfIt(t *testing.T) {
	long := strings.Repeat("x", maxAnswer)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Intercom-Attempt") != "3" {
			t.Errorf("attempt %q", r.Header.Get("X-Intercom-Attempt"))
		}
		switch r.Header.Get("X-Intercom-Topic") {
		case "crm.good":
			w.WriteHeader(http.StatusAccepted)
		case "crm.busy":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
			io.WriteString(w, "be")
			io.WriteString(w, "gone")
		case "crm.long":
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, long[:len(long)-1])
			io.WriteString(w, "xyz")
		}
	}))
	defer backend.Close()
	address := strings.TrimPrefix(backend.URL, "http://")
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()

	h := provisioned(t, `[
		{"match":[{"intercom_topic":["crm.*"]}],"handle":[{"handler":"reverse_proxy","upstreams":[{"dial":"`+address+`"}]}]},
		{"match":[{"intercom_topic":["gone"]}],"handle":[{"handler":"reverse_proxy","upstreams":[{"dial":"`+gone.Addr().String()+`"}]}]},
		{"match":[{"intercom_topic":["here"]}],"handle":[{"handler":"static_response","status_code":"204"}]},
		{"match":[{"intercom_topic":["empty"]}],"handle":[{"handler":"vars","a":"b"}]}
	]`)
	for _, tc := range []struct {
		topic, to, lane string
		want            Delivery
		err             string
	}{
		{"crm.good", "", "crm", Delivery{Upstream: address, Status: 202}, ""},
		{"crm.busy", "", "crm", Delivery{Upstream: address, Status: 429, Answer: []byte("begone"), RetryAfter: 7 * time.Second}, "backend answered 429"},
		{"crm.long", "", "crm", Delivery{Upstream: address, Status: 500, Answer: []byte(long)}, "backend answered 500"},
		{"gone", "", "gone", Delivery{Upstream: gone.Addr().String()}, "backend could not be reached: connection refused"},
		{"here", "", "here", Delivery{Status: 204}, ""},
		{"empty", "", "empty", Delivery{Err: ErrUnrouted}, "unrouted: no handler of the route answered"},
		{"other", "", "", Delivery{Err: ErrUnrouted}, "unrouted: no route for this topic"},
		{"crm.long", "here", "here", Delivery{Status: 204}, ""},
		{"other", "crm", "crm", Delivery{Upstream: address, Status: 200}, ""},
		{"ping", "here", "here", Delivery{Status: 204}, ""},
		{"here", "moon", "", Delivery{Err: ErrUnrouted}, `unrouted: no route or copy has the lane "moon"`},
	} {
		t.Run(tc.topic+" "+tc.to, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			lane, deliver := h.Route(r, []byte(`{"topic":"`+tc.topic+`"}`), 3, tc.to)
			if lane != tc.lane {
				t.Errorf("lane %q, want %q", lane, tc.lane)
			}
			got := deliver()
			if got.Upstream != tc.want.Upstream || got.Status != tc.want.Status || string(got.Answer) != string(tc.want.Answer) || got.RetryAfter != tc.want.RetryAfter {
				t.Errorf("got %+v, want %+v; the answer is %q", got, tc.want, got.Answer)
			}
			switch {
			case tc.err == "" && got.Err != nil, tc.err != "" && (got.Err == nil || got.Err.Error() != tc.err):
				t.Errorf("error %v, want %q", got.Err, tc.err)
			case errors.Is(got.Err, ErrUnrouted) != errors.Is(tc.want.Err, ErrUnrouted):
				t.Errorf("error %v: unrouted or not?", got.Err)
			}
		})
	}
}

// Instances of a fleet, and sites that import a snippet, have the same handler if their
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
			if err := h.hashConfig(); err != nil {
				t.Fatal(err)
			}
			hashes = append(hashes, h.configHash)
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

func TestDeliveryOfABrokenBodyHasNoLane(t *testing.T) {
	h := provisioned(t, `[{"handle":[{"handler":"static_response"}]}]`)
	lane, deliver := h.Route(httptest.NewRequest(http.MethodPost, "/", nil), []byte("{"), 1, "")
	if got := deliver(); lane != "" || got.Err == nil || errors.Is(got.Err, ErrUnrouted) {
		t.Errorf("lane %q, %+v", lane, got)
	}
}
