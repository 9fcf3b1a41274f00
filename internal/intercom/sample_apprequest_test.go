package intercom

import (
	"encoding/json"
	"io/fs"
	"testing"
)

func TestAppRequests(t *testing.T) {
	want := map[string][]string{
		"health-check": {"workspace_id"},
		"initialize":   {"workspace_id", "admin", "context", "contact"},
		"submit":       {"workspace_id", "admin", "context", "contact", "component_id", "input_values", "current_canvas"},
		"uninstall":    {"app_id"},
	}
	for _, kind := range AppRequestKinds() {
		body, err := NewAppRequest(kind)
		if err != nil {
			t.Fatal(err)
		}
		var keys map[string]json.RawMessage
		if err := json.Unmarshal(body, &keys); err != nil {
			t.Fatalf("%s is not a JSON object: %v", kind, err)
		}
		for _, key := range want[kind] {
			if _, present := keys[key]; !present {
				t.Errorf("%s has no %s", kind, key)
			}
		}
		if _, present := keys["topic"]; present {
			t.Errorf("%s has a topic, so it would be a notification", kind)
		}
		delete(want, kind)
	}
	if len(want) > 0 {
		t.Errorf("kinds are missing: %v", want)
	}
	if _, err := NewAppRequest("configure-not"); err == nil {
		t.Error("an unknown kind is no error")
	}
	if files, _ := fs.Glob(appSamples, "samples/app_requests/*.json"); len(files) != len(AppRequestKinds()) {
		t.Errorf("there are %d samples for %d kinds", len(files), len(AppRequestKinds()))
	}
}
