package intercomwebhook

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestWarningsOfRoutes(t *testing.T) {
	const noQueue = "there is no queue: what a backend does not take at once, Intercom sends once more after a minute, and then it is lost"
	for name, tc := range map[string]struct {
		routes string
		queued bool
		fin    bool
		want   []string // beginnings
	}{
		"none":                              {`[]`, false, false, nil},
		"all, with a queue":                 {`[{"match":[{"intercom_topic":["*"]}]}]`, true, false, nil},
		"all, without a queue":              {`[{}]`, false, false, []string{noQueue}},
		"a few topics":                      {`[{"match":[{"intercom_topic":["ticket.*"]}]}]`, true, false, []string{"no route takes "}},
		"events of Fin that no route takes": {`[{"match":[{"intercom_topic":["*.created","*.*.*","fin.fin_replied"]}]}]`, true, true, []string{"no route takes "}},
		"a route for events of Fin without its secret": {`[{"match":[{"intercom_topic":["fin.*"]}]},{}]`, true, false, []string{"a route is for events of the Fin Agent API"}},
		"conditions": {`[{"match":[{"intercom_field":["data.item.id"]}]}]`, true, false, []string{"the routes take only some notifications of "}},
		"some of all": {`[{"match":[{"intercom_workspace":["tulip4"]}]},{"match":[{"path":["/eu"]}]}]`, true, false,
			[]string{"the routes take only some notifications of "}},
		"some of a few": {`[{"match":[{"intercom_topic":["ticket.*"],"header":{"A":["b"]}}]}]`, false, false,
			[]string{noQueue, "no route takes ", "the routes take only some notifications of "}},
	} {
		t.Run(name, func(t *testing.T) {
			var configured []Route
			if err := json.Unmarshal([]byte(tc.routes), &configured); err != nil {
				t.Fatal(err)
			}
			ctx, err := caddy.ProvisionContext(new(caddy.Config))
			if err != nil {
				t.Fatal(err)
			}
			routes, err := provisionRoutes(ctx, configured, make(laneSet))
			if err != nil {
				t.Fatal(err)
			}
			core, logs := observer.New(zap.WarnLevel)
			warnOfRoutes(zap.New(core), routes, tc.queued, tc.fin)
			entries := logs.All()
			if len(entries) != len(tc.want) {
				t.Fatalf("got %v, want %q", entries, tc.want)
			}
			for i, entry := range entries {
				if !strings.HasPrefix(entry.Message, tc.want[i]) || entry.ContextMap()["do"] == nil {
					t.Errorf("got %v, want %q", entry, tc.want[i])
				}
				if lost := strings.Contains(entry.Message, "lost"); lost == tc.queued {
					t.Errorf("queue: %t, but %q", tc.queued, entry.Message)
				}
			}
		})
	}
}

func TestWarningsOfSources(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	warnOfSources(zap.New(core), true, new(caddyhttp.Server))
	if got := logs.TakeAll(); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	warnOfSources(zap.New(core), false, &caddyhttp.Server{TrustedProxiesUnix: true})
	var got []string
	for _, entry := range logs.TakeAll() {
		message, _, _ := strings.Cut(entry.Message, ":")
		got = append(got, message)
	}
	if want := []string{"source addresses can be forged", "allow does not have intercom"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWarningsNameTheirPlaceInTheCaddyfile(t *testing.T) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("http://:80 {\n\tintercom_webhook {\n\t\tclient_secret a\n\t\troute conversations.* {\n\t\t\trespond 200\n\t\t}\n\t}\n}\n"),
		map[string]any{"filename": "some/Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	h := handlersIn(t, config)[0]
	var topics MatchTopic
	if err := json.Unmarshal(h.Routes[0].MatcherSetsRaw[0]["intercom_topic"], &topics); err != nil {
		t.Fatal(err)
	}
	other := MatchTopic{"elsewhere"}
	core, logs := observer.New(zap.WarnLevel)
	withPlace(zap.New(core), hashOf(&h)).Warn("of the handler")
	withPlace(zap.New(core), hashOf(&h)).Warn("of the same, in a named route of another server")
	withPlace(zap.New(core), hashOf(&topics)).Warn("of the route")
	withPlace(zap.New(core), hashOf(&other)).Warn("of nothing")
	var got []any
	for _, entry := range logs.All() {
		got = append(got, entry.ContextMap()["at"])
	}
	if want := []any{"some/Caddyfile:2", "some/Caddyfile:2", "some/Caddyfile:4", nil}; !slices.Equal(got, want) {
		t.Errorf("the places are %q, want %q", got, want)
	}
}
