package cli

import (
	"encoding/json"
	"strings"
	"testing"
)

// expand writes routes of a site in JSON: W is an intercom_webhook with routes, M one without, and
// the others are handlers, or routes with a matcher.
var expand = strings.NewReplacer(
	"W", `{"handler":"intercom_webhook","routes":[{"handle":[]}]}`,
	"M", `{"handler":"intercom_webhook"}`,
	"404", `{"handler":"static_response","status_code":404}`,
	"200", `{"handler":"static_response","status_code":"200"}`,
	"EMPTY", `{"handler":"static_response","body":"hello"}`,
	"ABORT", `{"handler":"static_response","abort":true}`,
	"PROXY", `{"handler":"reverse_proxy"}`,
	"HEADERS", `{"handler":"headers"}`,
	"INVOKE", `{"handler":"invoke","name":"hook"}`,
	"NOT_PATH", `"match":[{"not":[{"path":["/hook"]}]}]`,
	"NOT_IP", `"match":[{"not":[{"remote_ip":{}}]}]`,
	"PATH", `"match":[{"path":["/hook"]}]`,
	"HOST", `"match":[{"host":["a.example","b.example"]}],"terminal":true`,
	"SUB", `{"handler":"subroute","routes":`,
).Replace

func TestDoctorMissesAFallback(t *testing.T) {
	const a, port = "a.example, b.example", ":8080"
	for routes, open := range map[string]string{
		`[{PATH,"handle":[W]}]`:                                            port,
		`[{PATH,"handle":[W]},{"handle":[404]}]`:                           "",
		`[{PATH,"handle":[W]},{"handle":[200]}]`:                           port,
		`[{PATH,"handle":[W]},{"handle":[EMPTY]}]`:                         port,
		`[{PATH,"handle":[W]},{"handle":[HEADERS,ABORT]}]`:                 "",
		`[{PATH,"handle":[W]},{"handle":[HEADERS]}]`:                       port,
		`[{PATH,"handle":[W]},{"handle":[PROXY]}]`:                         "",
		`[{PATH,"handle":[W]},{PATH,"handle":[404]}]`:                      port,
		`[{PATH,"handle":[W]},{NOT_PATH,"handle":[404]}]`:                  "",
		`[{PATH,"handle":[W]},{NOT_IP,"handle":[404]}]`:                    port,
		`[{"handle":[W]}]`:                                                 "",
		`[{"handle":[M]}]`:                                                 port,
		`[{"handle":[M,PROXY]}]`:                                           "",
		`[{"handle":[PROXY]}]`:                                             "", // of no concern
		`[{HOST,"handle":[SUB[{PATH,"handle":[W]}]}]}]`:                    a,
		`[{HOST,"handle":[SUB[{PATH,"handle":[W]}]}]},{"handle":[404]}]`:   a,
		`[{HOST,"handle":[SUB[{PATH,"handle":[W]},{"handle":[404]}]}]}]`:   "",
		`[{HOST,"handle":[SUB[{PATH,"handle":[SUB[{"handle":[W]}]}]}]}]}]`: a,
		`[{HOST,"handle":[SUB[{"handle":[SUB[{PATH,"handle":[W]}]}]},{"handle":[SUB[{"handle":[404]}]}]}]}]}]`: "",
		`[{HOST,"handle":[SUB[{"handle":[INVOKE]}]}]}]`:                                                        a,
		`[{HOST,"handle":[SUB[{"handle":[INVOKE]},{"handle":[404]}]}]}]`:                                       "",
	} {
		config := `{"apps":{"http":{"servers":{"s":{"listen":[":8080"],"named_routes":{"hook":{"handle":[SUB[{PATH,"handle":[W]}]}]}},"routes":` + routes + `}}}}}`
		if config = expand(config); !json.Valid([]byte(config)) {
			t.Fatalf("%s: %s", routes, config)
		}
		var found findings
		checkFallbacks(&found, []byte(config))
		switch {
		case open == "" && len(found) > 0:
			t.Errorf("%s: found %+v", routes, found)
		case open != "":
			found.want(t, levelWarning, "fallback", "no directive of the site "+open+" refuses other paths")
		}
	}
}

// An intercom_webhook is found wherever a config has it.
func TestHandlersAreFoundWhereverTheyAre(t *testing.T) {
	for _, config := range []string{
		`{"apps":{"http":{"servers":{"s":{"routes":[{"handle":[W]}]}}}}}`,
		`{"apps":{"http":{"servers":{"s":{"named_routes":{"hook":{"handle":[SUB[{"handle":[W]}]}]}}}}}}}`,
		`{"apps":{"http":{"servers":{"s":{"errors":{"routes":[{"handle":[W]}]}}}}}}`,
		`{"apps":{"http":{"servers":{"s":{"routes":[{"handle":[{"handler":"reverse_proxy","handle_response":[{"routes":[{"handle":[W]}]}]}]}]}}}}}`,
		`{"apps":{"other":{"anything":{"it":[{"calls":[W]}]}}}}`,
	} {
		if handlers, err := handlersIn([]byte(expand(config))); err != nil || len(handlers) != 1 {
			t.Errorf("%s: found %d (%v)", config, len(handlers), err)
		}
	}
}
