package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFirstRouteThatFitsWins(t *testing.T) {
	webhook := `route conversation.user.replied as replies { respond 201 }
		route conversation.* { respond 202 }
		route ticket.*.closed ticket.state.* { respond 203 }
		route conversation.user.created lead.* as late { respond 500 }
		route *.created as creations { respond 206 }
		route * { respond 207 }`
	g := start(t, setup{webhook: webhook})

	for _, c := range []struct{ topic, route string }{
		{"conversation.user.replied", `code="201",lane="replies"`},
		{"conversation.user.created", `code="202",lane="conversation"`},
		{"conversation.a.b.c", `code="202",lane="conversation"`},
		{"conversation", `code="207",lane="default"`},
		{"conversation_part.tag.created", `code="207",lane="default"`},
		{"ticket.note.closed", `code="203",lane="ticket-any-closed"`},
		{"ticket.closed", `code="207",lane="default"`},
		{"ticket.note.late.closed", `code="207",lane="default"`},
		{"ticket.state.updated", `code="203",lane="ticket-any-closed"`},
		{"contact.created", `code="206",lane="creations"`},
		{"contact.tag.created", `code="207",lane="default"`},
		{"invented", `code="207",lane="default"`},
	} {
		t.Run(c.topic, func(t *testing.T) {
			before := g.scrape()
			g.expect(200, signed(notification(c.topic, "notif_1")).to("/"+c.topic))
			want := fmt.Sprint(series{"backend_responses_total{" + c.route + "}": 1})
			if got := fmt.Sprint(g.scrape().since(before).of("backend_responses_total")); got != want {
				t.Errorf("counted %s, want %s", got, want)
			}
			lane := strings.TrimSuffix(strings.SplitAfter(c.route, `lane="`)[1], `"`)
			if got := g.access("/" + c.topic).tag().text("lane"); got != lane {
				t.Errorf("access log has route %q, want %q", got, lane)
			}
		})
	}
}

func TestPing(t *testing.T) {
	for _, c := range []struct {
		name, routes string
		routed       bool
	}{
		{"is answered here", "route conversation.* to BACKEND", false},
		{"is answered here though * fits it", "route * to BACKEND", false},
		{"is routed where a pattern names it", "route conversation.* ping to BACKEND", true},
		{"goes to the route that names it, and not to * before it", "route * { error 500 }\nroute conversation.* ping as late to BACKEND", true},
		{"is answered here though ping.* and pin are named", "route ping.* pin to BACKEND", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t, nil)
			g := start(t, setup{webhook: strings.ReplaceAll(c.routes, "BACKEND", b.address)})
			g.expect(200, signed(ping))
			want := 0
			if c.routed {
				want = 1
			}
			b.wantCount(t, want)
		})
	}

	t.Run("that is routed fails if its backend does", func(t *testing.T) {
		g := start(t, setup{webhook: "route ping { error 500 }"})
		g.expect(502, signed(ping))
	})
	t.Run("goes to the next handler of a pure middleware", func(t *testing.T) {
		g := start(t, setup{behind: "respond behind 200"})
		if answer := g.expect(200, signed(ping)); answer.body != "behind" {
			t.Errorf("answer %q, want the next handler's", answer.body)
		}
	})
}

// An error would count against the whole subscription.
func TestUnroutedIsAcceptedAndMissed(t *testing.T) {
	for name, route := range map[string]string{
		"no route fits": "route conversation.* { respond 500 }",
		"the route that fits sets a variable and answers nothing":  "route ticket.* { vars seen yes }\nroute * { respond 500 }",
		"the route that fits has a matcher inside that never does": "route ticket.* {\n@never path /never\nrespond @never 500\n}",
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, setup{webhook: route, behind: "respond 500"})
			before := g.scrape()
			if answer := g.expect(200, signed(notification("ticket.created", "notif_lost"))); answer.body != "" {
				t.Errorf("the answer says %q, want nothing", answer.body)
			}
			if got := g.scrape().since(before).of("notifications_total"); len(got) != 1 || !strings.Contains(fmt.Sprint(got), `outcome="unrouted"`) {
				t.Errorf("counted %v, want 1 unrouted", got)
			}
			lines := g.warnings("notification is lost: no route answers it; add a route, such as route *")
			if len(lines) != 1 || lines[0].text("topic") != "ticket.created" || lines[0].text("id") != "notif_lost" || !strings.HasPrefix(lines[0].text("error"), "unrouted: no ") {
				t.Errorf("warnings %v, want one with the topic, the id and the reason", lines)
			}
		})
	}
}

func TestPureMiddlewarePassesTheAnswer(t *testing.T) {
	g := start(t, setup{
		webhook: "timeout 300ms",
		behind:  "header >X-Own 1\nhandle /hang { reverse_proxy " + newBackend(t, hang).address + " }\nhandle { respond \"short and stout\" 418 }",
	})
	answer := g.expect(http.StatusTeapot, good)
	if answer.body != "short and stout" || answer.header.Get("X-Own") != "1" {
		t.Errorf("answer %q with header %v, want the next handler's", answer.body, answer.header)
	}
	g.expect(504, good.to("/hang"))
	g.expect(401, message{body: body})
	g.expect(200, message{method: "HEAD"})
}

// Handlers behind, such as those for CGI, go by the header.
func TestChunkedBodyGetsAContentLength(t *testing.T) {
	g := start(t, setup{behind: "respond {header.Content-Length}"})
	m := good
	m.chunked = true
	if answer := g.expect(200, m); answer.body != fmt.Sprint(len(body)) {
		t.Errorf("the next handler sees Content-Length %q, want %d", answer.body, len(body))
	}
}

func TestAppRequestsPassTheAnswer(t *testing.T) {
	app := []byte(`{"workspace_id":"tulip4"}`)
	b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Retry-After", "9")
		w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"state":"UNHEALTHY","message":"no"}`))
	})
	g := start(t, setup{webhook: "route * { error 500 }\napp_requests { reverse_proxy " + b.address + " }"})
	before := g.scrape()

	answer := g.expect(403, signedApp(app).to("/health?x=1"))
	if answer.body != `{"state":"UNHEALTHY","message":"no"}` {
		t.Errorf("answer %q, want the app's own", answer.body)
	}
	for name, want := range map[string][]string{
		"Content-Type": {"application/json; charset=utf-8"}, "Retry-After": {"9"}, "Set-Cookie": {"a=1", "b=2"},
	} {
		if got := answer.header[name]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	got := b.only(t)
	if !bytes.Equal(got.body, app) || got.uri != "/health?x=1" || got.header.Get(bodyHeader) != bodySignature(app, secret) {
		t.Errorf("the app got %q for %s, want the request as it was", got.body, got.uri)
	}
	if n := g.scrape().since(before).of("notifications_total"); len(n) != 0 {
		t.Errorf("counted %v, though it is no notification", n)
	}
}

// timeout bounds the reading of the body and the backends of notifications. An app
// may take longer: no answer of ours could stand in for its own.
func TestAppRequestsAreWaitedFor(t *testing.T) {
	b := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(700 * time.Millisecond):
			w.WriteHeader(http.StatusAccepted)
		}
	})
	g := start(t, setup{webhook: "timeout 300ms\napp_requests { reverse_proxy " + b.address + " }"})
	g.expect(202, signedApp([]byte(`{"workspace_id":"tulip4"}`)))
}

func TestAppRequestsAreRefusedWithoutTheirBlock(t *testing.T) {
	b := newBackend(t, nil)
	g := start(t, setup{webhook: "route * to " + b.address, behind: "reverse_proxy " + b.address})
	g.expect(401, signedApp(body))
	b.wantCount(t, 0)
}

// A signature counts only in the header of its scheme.
func TestSignatureOfTheOtherSchemeIsRefused(t *testing.T) {
	g := start(t, setup{webhook: "route * { respond 200 }\napp_requests { respond 200 }"})
	g.expect(401, message{body: body}.with(hubHeader, "sha1="+bodySignature(body, secret)))
	g.expect(401, message{body: body}.with(hubHeader, "sha1="+bodySignature(body, secret)[:40]))
	g.expect(401, message{body: body}.with(bodyHeader, hubSignature(body, secret)))
	g.expect(401, message{body: body}.with(bodyHeader, hubSignature(body, secret)[len("sha1="):]+strings.Repeat("0", 24)))
	g.expect(200, good)
	g.expect(200, signedApp(body))
}

// handlerJSON returns the JSON of the one intercom_webhook in an adapted config.
func handlerJSON(t *testing.T, config any) map[string]any {
	t.Helper()
	switch v := config.(type) {
	case map[string]any:
		if v["handler"] == "intercom_webhook" {
			return v
		}
		for _, inner := range v {
			if found := handlerJSON(t, inner); found != nil {
				return found
			}
		}
	case []any:
		for _, inner := range v {
			if found := handlerJSON(t, inner); found != nil {
				return found
			}
		}
	}
	return nil
}

const fullCaddyfile = `max_size 2KB
	timeout 2s
	allow static 192.0.2.0/24
	route conversation.* ticket.* as talk { respond 201 }
	route contact.* { respond 410 }
	app_requests { respond app 203 }
	queue fake`

const fullJSON = `{
	"handler": "intercom_webhook",
	"client_secrets": ["first-secret", "` + secret + `"],
	"allow": [
		{"source": "static", "ranges": ["127.0.0.1"]},
		{"source": "static", "ranges": ["192.0.2.0/24"]}
	],
	"max_size": 2000,
	"timeout": 2000000000,
	"routes": [
		{
			"lane": "talk",
			"match": [{"intercom_topic": ["conversation.*", "ticket.*"]}],
			"handle": [{"handler": "subroute", "routes": [{"handle": [{"handler": "static_response", "status_code": 201}]}]}]
		},
		{
			"match": [{"intercom_topic": ["contact.*"]}],
			"handle": [{"handler": "subroute", "routes": [{"handle": [{"handler": "static_response", "status_code": 410}]}]}]
		}
	],
	"app_requests": [{"handle": [{"handler": "static_response", "status_code": 203, "body": "app"}]}],
	"queue": {"engine": "fake"}
}`

func TestJSONFormEqualsCaddyfileForm(t *testing.T) {
	// startWith runs the Caddyfile's config after the handler in it was changed.
	startWith := func(t *testing.T, change func(handler map[string]any)) *gateway {
		t.Helper()
		g := newGateway(t)
		adapted, err := g.adapt(setup{secrets: "first-secret " + secret, webhook: fullCaddyfile})
		if err != nil {
			t.Fatal(err)
		}
		var config any
		if err := json.Unmarshal(adapted, &config); err != nil {
			t.Fatal(err)
		}
		change(handlerJSON(t, config))
		changed, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.run(changed); err != nil {
			t.Fatal(err)
		}
		return g
	}

	t.Run("in its text and in what it does", func(t *testing.T) {
		g := startWith(t, func(handler map[string]any) {
			var want map[string]any
			if err := json.Unmarshal([]byte(fullJSON), &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(handler, want) {
				got, _ := json.MarshalIndent(handler, "", "\t")
				t.Fatalf("the Caddyfile became\n%s\nwant\n%s", got, fullJSON)
			}
			delete(handler, "queue") // so that the routes show
		})
		g.expect(200, good)
		g.expect(200, good.with(hubHeader, hubSignature(body, "first-secret")))
		g.expect(502, signed(notification("contact.created", "notif_1")))
		g.expectTooLarge(signed(make([]byte, 2001)))
		g.expect(203, signedApp(body))
	})

	t.Run("in its defaults", func(t *testing.T) {
		g := startWith(t, func(handler map[string]any) {
			for key := range handler {
				if key != "handler" && key != "client_secrets" && key != "allow" {
					delete(handler, key)
				}
			}
		})
		g.expect(200, good)
		g.expect(401, signedApp(body))
		g.expectTooLarge(signed(make([]byte, 4<<20+1)))
		g.expect(400, signed(make([]byte, 4<<20)))
	})
}
