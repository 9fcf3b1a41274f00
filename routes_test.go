package intercomwebhook

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestUnreachableRoutesAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, routes string
		want         string // in the error; none if empty
	}{
		{"behind all topics", `[{"match":[{"intercom_topic":["*"]}]},{"match":[{"intercom_topic":["user.*"]}]}]`, "route 1 can never be reached: earlier routes take all its topics (* covers user.*)"},
		{"behind a wider pattern", `[{"match":[{"intercom_topic":["a.*"]}]},{"match":[{"intercom_topic":["a.*.c"]}]}]`, "route 1 can never be reached"},
		{"behind the same pattern", `[{"match":[{"intercom_topic":["a.*.c"]}]},{"match":[{"intercom_topic":["a.*.c"]}]}]`, "route 1 can never be reached"},
		{"behind several routes", `[{"match":[{"intercom_topic":["a.*"]}]},{"match":[{"intercom_topic":["b"]}]},{"match":[{"intercom_topic":["b","a.b"]}]}]`, "route 2 can never be reached"},
		{"behind a route without matchers", `[{},{"match":[{"intercom_topic":["a"]}]}]`, "route 1 can never be reached: earlier routes take all its topics (* covers a)"},
		{"behind a route with an empty matcher set", `[{"match":[{}]},{}]`, "route 1 can never be reached"},
		{"behind all topics, with another matcher", `[{"match":[{"intercom_topic":["*"]}]},{"match":[{"path":["/eu"]}]}]`, "route 1 can never be reached"},
		{"behind a wider pattern, with another matcher, too", `[{"match":[{"intercom_topic":["a.*"]}]},{"match":[{"intercom_topic":["a.b"],"path":["/eu"]}]}]`, "route 1 can never be reached"},
		{"behind one of several matcher sets", `[{"match":[{"path":["/eu"]},{"intercom_topic":["a.*"]}]},{"match":[{"intercom_topic":["a.b"]}]}]`, "route 1 can never be reached"},
		{"ping again", `[{"match":[{"intercom_topic":["ping"]}]},{"match":[{"intercom_topic":["ping"]}]}]`, "route 1 can never be reached"},

		{"behind all topics of its workspace", `[{"match":[{"intercom_topic":["*"],"intercom_workspace":["x"]}]},{"match":[{"intercom_topic":["a"],"intercom_workspace":["x"]}]}]`, "route 1 can never be reached: earlier routes take all its topics (* for x covers a for x)"},
		{"behind all workspaces", `[{"match":[{"intercom_topic":["a.*"]}]},{"match":[{"intercom_topic":["a.b"],"intercom_workspace":["x","y"]}]}]`, "(a.* covers a.b for x, a.* covers a.b for y)"},
		{"behind routes for each of its workspaces", `[{"match":[{"intercom_workspace":["x"]}]},{"match":[{"intercom_topic":["a.*"],"intercom_workspace":["y","z"]}]},{"match":[{"intercom_topic":["a.b"],"intercom_workspace":["x","y"]}]}]`, "route 2 can never be reached"},

		{"one of the workspaces is left", `[{"match":[{"intercom_workspace":["x"]}]},{"match":[{"intercom_topic":["a"],"intercom_workspace":["x","y"]}]}]`, ""},
		{"all other workspaces are left", `[{"match":[{"intercom_topic":["a"],"intercom_workspace":["x","y"]}]},{"match":[{"intercom_topic":["a"]}]}]`, ""},
		{"one of the pairs is left", `[{"match":[{"intercom_topic":["a"],"intercom_workspace":["x"]},{"intercom_topic":["b"],"intercom_workspace":["y"]}]},{"match":[{"intercom_topic":["a","b"],"intercom_workspace":["x","y"]}]}]`, ""},
		{"the earlier route asks for more than the workspace", `[{"match":[{"intercom_workspace":["x"],"path":["/eu"]}]},{"match":[{"intercom_workspace":["x"]}]}]`, ""},
		{"ping behind all topics of its workspace", `[{"match":[{"intercom_workspace":["x"]}]},{"match":[{"intercom_topic":["ping"],"intercom_workspace":["x"]}]}]`, ""},
		{"the default comes last", `[{"match":[{"intercom_topic":["a.*"]}]},{"match":[{"intercom_topic":["*"]}]},{"match":[{"intercom_topic":["ping"]}]}]`, ""},
		{"ping behind a route without matchers", `[{},{"match":[{"intercom_topic":["ping"]}]}]`, ""},
		{"one of the topics is left", `[{"match":[{"intercom_topic":["a.*"]}]},{"match":[{"intercom_topic":["a.b","b"]}]}]`, ""},
		{"one of the matcher sets is left", `[{"match":[{"intercom_topic":["a.*"]}]},{"match":[{"intercom_topic":["a.b"]},{"path":["/eu"]}]}]`, ""},
		{"a narrower pattern comes first", `[{"match":[{"intercom_topic":["a.*.c"]}]},{"match":[{"intercom_topic":["a.*"]}]}]`, ""},
		{"a pattern is within another of the same route", `[{"match":[{"intercom_topic":["a.*","a.b"]}]}]`, ""},
		{"the earlier route asks for more than the topic", `[{"match":[{"intercom_topic":["*"],"path":["/eu"]}]},{"match":[{"intercom_topic":["*"]}]}]`, ""},
		{"the topic is all that the earlier route does not ask for", `[{"match":[{"path":["/eu"]}]},{"match":[{"intercom_topic":["a"]}]}]`, ""},
		{"the earlier route has its topic negated", `[{"match":[{"not":[{"intercom_topic":["a.*"]}]}]},{"match":[{"intercom_topic":["a.b"]}]}]`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var routes []Route
			if err := json.Unmarshal([]byte(c.routes), &routes); err != nil {
				t.Fatal(err)
			}
			ctx, err := caddy.ProvisionContext(&caddy.Config{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = provisionRoutes(ctx, routes, make(laneSet))
			switch {
			case c.want == "" && err != nil:
				t.Errorf("error is %v, want none", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error is %v, want %s", err, c.want)
			}
		})
	}
}
