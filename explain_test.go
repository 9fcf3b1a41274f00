package intercomwebhook

import (
	"reflect"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
)

func TestExplainSaysWhereANotificationGoesAndWhyNotElsewhere(t *testing.T) {
	h := provisioned(t, `[
		{"match":[{"intercom_topic":["a.*"],"intercom_workspace":["tulip4"]}],"lane":"tulip"},
		{"match":[{"intercom_topic":["b"]},{"intercom_topic":["a.b"],"path":["/eu"]}],"lane":"eu"},
		{"match":[{"intercom_topic":["a.*","c"]}],"lane":"rest"},
		{"match":[{"intercom_topic":["*"]}],"lane":"all"}
	]`)
	h.router.copies = withCopies(t, `[{"match":[{"intercom_topic":["a.b"]}],"sample":1},{"match":[{"intercom_topic":["ping"]}]}]`).router.copies
	h.router.label = func(lane string) string { return "second|" + lane }
	a := &handlersApp{handlers: []appHandler{{router: h.router}}}
	const others = "topic and workspace fit, but it has other matchers, which decide by more than these"
	for _, tc := range []struct {
		topic, workspace string
		want             adminapi.Route
	}{
		{"a.b", "tulip4", adminapi.Route{Lane: "tulip", Copies: []string{"copy-a-b"}, Passed: []adminapi.Passed{
			{Lane: "copy-ping", Why: "the topic fits none of its patterns: ping"},
		}}},
		{"a.b", "rose5", adminapi.Route{Lane: "rest", Copies: []string{"copy-a-b"}, Passed: []adminapi.Passed{
			{Lane: "tulip", Why: "the workspace is none of its: tulip4"},
			{Lane: "eu", Why: others},
			{Lane: "copy-ping", Why: "the topic fits none of its patterns: ping"},
		}}},
		{"x", "", adminapi.Route{Lane: "all", Copies: []string{}, Passed: []adminapi.Passed{
			{Lane: "tulip", Why: "the topic fits none of its patterns: a.*"},
			{Lane: "eu", Why: "the topic fits none of its patterns: b"},
			{Lane: "rest", Why: "the topic fits none of its patterns: a.* c"},
			{Lane: "copy-a-b", Why: "the topic fits none of its patterns: a.b"},
			{Lane: "copy-ping", Why: "the topic fits none of its patterns: ping"},
		}}},
		{"ping", "tulip4", adminapi.Route{Lane: "", Copies: []string{"copy-ping"}, Passed: []adminapi.Passed{
			{Lane: "tulip", Why: "only a topic pattern that names ping fits a ping"},
			{Lane: "eu", Why: "only a topic pattern that names ping fits a ping"},
			{Lane: "rest", Why: "only a topic pattern that names ping fits a ping"},
			{Lane: "all", Why: "only a topic pattern that names ping fits a ping"},
			{Lane: "copy-a-b", Why: "only a topic pattern that names ping fits a ping"},
		}}},
	} {
		tc.want.Endpoint = "second"
		if got := a.explain(tc.topic, tc.workspace); len(got) != 1 || !reflect.DeepEqual(got[0], tc.want) {
			t.Errorf("%s of %s: got %+v, want %+v", tc.topic, tc.workspace, got, tc.want)
		}
	}
}
