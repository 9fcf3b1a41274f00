package cli

import (
	"strings"
	"testing"
)

func TestSetFields(t *testing.T) {
	const body = `{"z":1,"data":{"item":{"id":"7","state":"open","count":1,"none":null,"tags":[{"name":"a"}],"text":"<é>"}},"a":{}}`
	for _, tc := range []struct{ change, old, new string }{
		{"data.item.state=closed", `"state":"open"`, `"state":"closed"`},
		{"data.item.id=42", `"id":"7"`, `"id":"42"`},
		{"data.item.count=1.50", `"count":1`, `"count":1.50`},
		{"data.item.count=some & more", `"count":1`, `"count":"some & more"`},
		{"data.item.none=true", `"none":null`, `"none":true`},
		{"data.item.none.deeper=x", `"none":null`, `"none":{"deeper":"x"}`},
		{"data.item.tags.0.name=vip", `"name":"a"`, `"name":"vip"`},
		{"data.item.tags.1.name=vip", `[{"name":"a"}]`, `[{"name":"a"},{"name":"vip"}]`},
		{"data.item.author.id=42", `"text":"<é>"`, `"text":"<é>","author":{"id":42}`},
		{"data.item.state=", `"open"`, `""`},
		{"data.item.state=a=b", `"open"`, `"a=b"`},
		{`data.item.none=[{"x":1}]`, `"none":null`, `"none":[{"x":1}]`},
		{"new=null", `"a":{}`, `"a":{},"new":null`},
	} {
		got, err := setFields([]byte(body), []string{tc.change})
		if want := strings.Replace(body, tc.old, tc.new, 1); err != nil || string(got) != want {
			t.Errorf("%s: error %v, got %s, want %s", tc.change, err, got, want)
		}
	}
	for change, want := range map[string]string{
		"data.item.state": "has no value", "=x": "the field is missing", "data..state=x": "empty segment", "data.item.tags.*.name=x": "in place of *",
		"data.item.tags.7.name=x": "no place in an array of 1", "data.item.state.deeper=x": "no object",
	} {
		if _, err := setFields([]byte(body), []string{change}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", change, err, want)
		}
	}
}

func TestSendChangesTheSampleBeforeItIsSigned(t *testing.T) {
	e := newEndpoint(t, nil)
	stdout, code, err := send(t, "conversation.admin.closed", e.URL, "--set", "data.item.state=snoozed", "--set", "id=notif_mine", "--workspace", "rose5")
	if err != nil || code != exitFine || !strings.Contains(stdout, "notif_mine") {
		t.Fatalf("code %d, error %v, %s", code, err, stdout)
	}
	r := e.one(t)
	for _, want := range []string{`"state":"snoozed"`, `"app_id":"rose5"`, `"id":"notif_mine"`} {
		if !strings.Contains(string(r.body), want) {
			t.Errorf("%s is not in %s", want, r.body)
		}
	}
	if !r.signedBy(testSendSecret) {
		t.Error("it is not signed as it was sent")
	}
	for want, args := range map[string][]string{
		"leave out --set":  {"--body", writeFile(t, "{}"), e.URL, "--set", "a=b"},
		"has no value":     {"ping", e.URL, "--set", "topic"},
		"cannot be in a p": {"ping", e.URL, "--set", "a b=c"},
	} {
		if _, code, err := send(t, args...); code != exitUsage || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: code %d, error %v", args, code, err)
		}
	}
}
