package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// hostile is what a stranger may write into a name, an error or an answer: it sets a title, rings,
// goes back to the start of the line, begins a line of its own, clears the screen with a C1
// control character, and turns what follows around.
const hostile = "x\x1b]0;title\a\r\nINJECTED\u009b2J\u202e\u2066\x7f\u2028\t"

// wantPrintable wants text to have nothing but text in it, and no line that a stranger began.
func wantPrintable(t *testing.T, what, text string) {
	t.Helper()
	if at := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && unprintable(r) }); at >= 0 {
		t.Errorf("%s has %q: %q", what, text[at:at+1], text)
	}
	if strings.Contains(text, "\nINJECTED") {
		t.Errorf("%s has a line of a stranger: %q", what, text)
	}
}

// Everything that comes from elsewhere is printed so that a terminal takes no part of it for a
// command: names, errors, answers, in the output, in notes and in errors, as text and as JSON.
func TestWhatStrangersWroteIsPrintedSafely(t *testing.T) {
	t.Setenv(secretEnv, testSendSecret)
	quoted, _ := json.Marshal(hostile)
	fill := strings.NewReplacer("@", string(quoted)).Replace
	a := newFakeAdmin(t)
	a.lanes = []string{fill(`{"endpoint":@,"lane":@,"kind":@,"state":"down","deliveries":{"dead":1}}`), fill(`{"endpoint":"b","lane":@,"state":@}`)}
	delivery := fill(`"id":1,"notification":@,"number":1,"topic":@,"workspace":@,"endpoint":@,"lane":@,"state":@,"reason":@,"upstream":@,"error":@,"status":502`)
	a.deliveries = []string{"{" + delivery + "}"}
	a.answers["GET notifications/1"] = []string{"{" + delivery + fill(`,"history":[{"instance":@,"upstream":@,"error":@,"answer":@}],`+
		`"request":{"method":@,"uri":@,"proto":@,"host":@,"remote_addr":@,"header":{@:[@]},"body":"{\"a\":\"\u009b\",\"b\":\"\\u001b\"}"}}`)}
	a.answers["POST deliveries/erase"] = []string{fill(`{"done":1,"total":1,"note":@}`)}
	a.answers["POST deliveries/drop"] = []string{`{"done":1,"total":2}`, fill(`{"error":@,"cursor":@,"done":1,"total":2}`)}
	a.answers["POST lanes/crm/pause"] = a.lanes
	a.answers["GET route"] = []string{fill(`{"endpoint":@,"server":@,"lane":@,"copies":[@],"passed":[{"lane":@,"why":@}]}`)}
	refusing := newEndpoint(t, answering(http.StatusServiceUnavailable, fill(`{"error":@}`)))
	refusingAdmin := refusing.Listener.Addr().String()
	strange := newEndpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(connection, "HTTP/1.1 302 \x1b[2J\u009b\r\nLocation: \x1b[2J\u202e\r\nWWW-Authenticate: \x1b[2J\u202e\r\n\r\n\x1b[2J\u202e\a")
		connection.Close()
	})
	for _, command := range [][]string{
		{"queue", "status"}, {"queue", "status", "--check"}, {"queue", "list"}, {"queue", "show", "1", "--headers", "--body"},
		{"queue", "erase", "1", "--yes"}, {"queue", "erase", "1", "--dry-run"}, {"queue", "drop", "--state", "dead", "--yes"}, {"queue", "pause", "crm"},
		{"queue", "retry", hostile, "--yes"}, {"queue", "list", "--topic", hostile}, {"queue", "show", hostile}, {"topics", "--route", "ping"},
	} {
		for _, address := range []string{a.address, refusingAdmin, strange.Listener.Addr().String()} {
			for _, args := range [][]string{command, append(slices.Clone(command), "--json")} {
				wantPrintableRun(t, append(args, "--address", address)...)
			}
		}
	}
	for _, args := range [][]string{
		{"send", "ping", refusing.URL}, {"send", "ping", refusing.URL, "--json"}, {"send", "ping", strange.URL}, {"send", hostile, refusing.URL},
		{"send", "app-request", "initialize", refusing.URL}, {"send", "ping", "http://127.0.0.1/\x1b"}, {"send", "ping", refusing.URL, "-H", hostile},
		{"doctor", strange.URL, "--address", refusingAdmin}, {"doctor", strange.URL, "--json"}, {"doctor", "--config", writeFile(t, hostile), "--adapter", "caddyfile"},
		{"doctor", "--config", hostile}, {"verify", hostile, "--signature", hostile}, {"verify", writeFile(t, hostile), "--signature", hostile},
		{"topics", hostile}, {"ip-ranges", hostile}, {"listen", "--topic", hostile}, {"listen", "--address", refusingAdmin}, {hostile}, {"queue", hostile},
	} {
		wantPrintableRun(t, args...)
	}
}

func wantPrintableRun(t *testing.T, args ...string) {
	t.Helper()
	out, notes, _, err := runCommand(t, strings.NewReader(""), args...)
	what := fmt.Sprintf("%q", args)
	wantPrintable(t, what+": output", out)
	wantPrintable(t, what+": notes", notes)
	if err != nil {
		wantPrintable(t, what+": error", err.Error())
	}
}

// An error of several has a line for each, whatever is in them.
func TestErrorsHaveTheLinesThatWereMeant(t *testing.T) {
	foreign := errors.New("a\nb")
	for want, err := range map[string]error{
		`a\nb`:                 foreign,
		"a\\nb\nc\nd":          errors.Join(foreign, errors.Join(errors.New("c"), errors.New("d"))),
		`x: a\nb, a\nb`:        fmt.Errorf("x: %w, %w", foreign, foreign),
		`x: a\nb\na\nb`:        fmt.Errorf("x: %w", errors.Join(foreign, foreign)),
		`\x1b\u009b\u202e\xff`: errors.New("\x1b\u009b\u202e\xff"),
	} {
		if got := errorText(err); got != want {
			t.Errorf("%q is printed as %q, want %q", err, got, want)
		}
	}
}
