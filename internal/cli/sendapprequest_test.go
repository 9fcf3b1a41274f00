package cli

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestSendAppRequest(t *testing.T) {
	e := newEndpoint(t, answering(200, `{"canvas":{"content":{"components":[]}}}`))
	stdout, code, err := send(t, "app-request", "submit", e.URL+"/hook")
	if err != nil || code != exitFine {
		t.Fatalf("code %d, error %v", code, err)
	}
	r := e.one(t)
	mac := hmac.New(sha256.New, []byte(testSendSecret))
	mac.Write(r.body)
	if got := r.Header.Get("X-Body-Signature"); got != fmt.Sprintf("%x", mac.Sum(nil)) {
		t.Errorf("the signature is %q", got)
	}
	if r.Header["X-Hub-Signature"] != nil {
		t.Error("it has the signature of a notification, too")
	}
	if !strings.Contains(string(r.body), `"current_canvas":{`) {
		t.Errorf("the body is %s", r.body)
	}
	if !strings.HasPrefix(stdout, "200 OK in ") || !strings.HasSuffix(stdout, "bytes sent, submit\n{\n  \"canvas\": {\n    \"content\": {\n      \"components\": []\n    }\n  }\n}\n") {
		t.Errorf("stdout = %q", stdout)
	}
}

func TestSendAppRequestFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		args   []string
		code   int
		want   string // in the error
	}{
		{"refused", answering(401, ""), []string{"health-check"}, exitFailed, "answered 401 Unauthorized"},
		{"no JSON", answering(200, "OK"), []string{"health-check"}, exitFailed, "the answer to health-check is not JSON"},
		{"no JSON after an uninstall", answering(200, ""), []string{"uninstall"}, exitFine, ""},
		{"an unknown kind", nil, []string{"initialise"}, exitUsage, `app request "initialise" is not known: the kinds are health-check, initialize, submit and uninstall; did you mean initialize?`},
		{"a kind is missing", nil, nil, exitUsage, "got 1 argument: expecting"},
		{"a body that is not there", nil, []string{"submit", "--body", "does/not/exist"}, exitUsage, "reading the body"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEndpoint(t, tt.answer)
			_, code, err := send(t, append(append([]string{"app-request"}, tt.args...), e.URL)...)
			if code != tt.code || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("code %d, error %v", code, err)
			}
		})
	}
}
