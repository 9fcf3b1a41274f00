package intercomwebhook

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
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
	return h
}

// withQueue returns a storer for the routes and copies of a handler. It has a server, without
// which reverse_proxy panics.
func withQueue(h *Handler, queue Queue) *storer {
	return &storer{queue: queue, router: h.router, server: new(caddyhttp.Server), floodLogger: zap.NewNop()}
}

func TestDeliveryTellsWhatCameOfIt(t *testing.T) {
	long := strings.Repeat("x", 1<<10)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Intercom-Attempt") != "3" {
			t.Errorf("attempt %q", r.Header.Get("X-Intercom-Attempt"))
		}
		if r.Header.Get("X-Intercom-Stale") != "true" {
			t.Errorf("it is not tagged as stale")
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
			lane, deliver := withQueue(h, nil).prepareDelivery(r, []byte(`{"topic":"`+tc.topic+`"}`), Attempt{3, true}, tc.to)
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

func TestDeliveryOfABrokenBodyHasNoLane(t *testing.T) {
	h := provisioned(t, `[{"handle":[{"handler":"static_response"}]}]`)
	lane, deliver := withQueue(h, nil).prepareDelivery(httptest.NewRequest(http.MethodPost, "/", nil), []byte("{"), Attempt{Number: 1}, "")
	if got := deliver(); lane != "" || got.Err == nil || errors.Is(got.Err, ErrUnrouted) {
		t.Errorf("lane %q, %+v", lane, got)
	}
}
