package integration

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// about is a notification with an item, given as JSON.
func about(item, topic, id string) message {
	return signed(fmt.Appendf(nil, `{"app_id":"tulip4","data":{"item":%s},"id":%q,"topic":%q}`, item, id, topic))
}

// queues are the ways to run the tests of filters: without a queue, and with one in a folder.
var queues = map[string]func(dir string) string{
	"without a queue": func(string) string { return "" },
	"with a queue":    queueIn,
}

func TestFilters(t *testing.T) { testFilters(t, queues) }

// testFilters has conditions choose the route, and what is ignored goes to nobody but copies.
func testFilters(t *testing.T, queues map[string]func(dir string) string) {
	for name, queue := range queues {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			queue := queue(g.dir)
			vip, rest, copied := newBackend(t, nil), newBackend(t, nil), newBackend(t, nil)
			s := setup{admin: true, options: "debug", webhook: "ignore conversation.* where data.item.author.id=42\nignore ticket.*" +
				"\nroute conversation.* where data.item.tags.*.name=vip data.item.state!=closed as vip to " + vip.address + " {\nheader_up X-Name \"<{http.intercom_webhook.field.data.item.name}>\"\n}" +
				"\nroute * as rest to " + rest.address +
				"\napp_requests {\n@refund intercom_field component_id=refund\nrespond @refund refund\nrespond other\n}"}
			if queue != "" {
				s.webhook += "\ncopy ticket.created as copied to " + copied.address + "\n" + queue
			}
			if err := g.load(s); err != nil {
				t.Fatal(err)
			}
			lines := g.tellingStream("")
			before := g.scrape()
			g.expect(http.StatusOK, about(`{"author":{"id":42},"tags":[{"name":"vip"}]}`, "conversation.user.created", newID()))
			if told := nextTold(t, lines); told.Outcome != "ignored" || told.Status != http.StatusOK {
				t.Errorf("the stream tells %+v", told)
			}
			g.expect(http.StatusOK, about(`{}`, "ticket.created", newID()))
			g.expect(http.StatusOK, about(`{"tags":[{"name":"new"},{"name":"v\u0069p"}],"name":"{env.HOME} \ud83d\ude00"}`, "conversation.user.created", newID()))
			g.expect(http.StatusOK, about(`{"tags":[{"name":"vip"}],"state":"closed"}`, "conversation.user.created", newID()))
			g.expect(http.StatusBadRequest, about(`{"tags":[],"Tags":[{"name":"vip"}]}`, "conversation.user.created", newID()))
			eventually(t, "both routes get theirs", func() bool { return len(vip.all()) == 1 && len(rest.all()) == 1 })
			if got := vip.only(t).header["X-Name"]; !slices.Equal(got, []string{"<{env.HOME} 😀>"}) {
				t.Errorf("the header with a field is %q", got)
			}
			for body, want := range map[string]string{`{"component_id":"refund"}`: "refund", `{"component_id":"x"}`: "other", `[1]`: "other"} {
				if got := g.expect(http.StatusOK, signedApp([]byte(body))).body; got != want {
					t.Errorf("the app request %s is answered %s, want %s", body, got, want)
				}
			}
			if queue != "" {
				eventually(t, "the copy of what is ignored", func() bool { return len(copied.all()) == 1 })
			}
			since := g.scrape().since(before)
			for metric, want := range map[string]float64{
				`notifications_total{outcome="ignored",topic="conversation.user.created"}`: 1,
				`notifications_total{outcome="ignored",topic="ticket.created"}`:            1,
				`refused_total{reason="envelope"}`:                                         1,
			} {
				if since[metric] != want {
					t.Errorf("%s grew by %v, want %v", metric, since[metric], want)
				}
			}
			told := g.logged(func(e entry) bool { return e.text("level") == "debug" && e.text("msg") == "notification is ignored" })
			if len(told) != 2 || strings.Contains(told[0].text("msg"), "vip") {
				t.Errorf("the log has %v", told)
			}
		})
	}
}
