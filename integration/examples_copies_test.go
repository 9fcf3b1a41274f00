package integration

import (
	"bytes"
	"net/http"
	"testing"
)

func TestExampleOfAPublicApp(t *testing.T) {
	e := startExample(t, "public-app", nil)
	e.wantRouted(byTopic)
	ofEnterprise := bytes.Replace(notification(topic, newID()), []byte("tulip4"), []byte("ecahpwf5"), 1)
	e.expect(http.StatusOK, e.from(signed(ofEnterprise), ""))
	within(t, longPatience, "the notification of a workspace reaches its backend", func() bool { return e.received("enterprise") == 1 })
	if got := e.received("support"); got != 2 { // those of wantRouted
		t.Errorf("the backend of all other workspaces got %d notifications, want 2", got)
	}
	e.expect(http.StatusOK, e.from(signedApp([]byte(`{"component_id":"submit"}`)), ""))
	if got := e.received("canvas"); got != 1 {
		t.Errorf("the backend of app requests got %d, want 1", got)
	}
}

func TestExampleWithAStagingCopy(t *testing.T) {
	const stagingSecret = "of-the-staging-app"
	e := startExample(t, "staging-copy", map[string]string{"STAGING_CLIENT_SECRET": stagingSecret})
	e.wantRouted(map[string]string{"ticket.created": "support", "job.completed": "archive"})
	sent := 0
	within(t, longPatience, "one of ten notifications is copied", func() bool {
		sent++
		e.expect(http.StatusOK, e.from(signed(notification(topic, newID())), ""))
		return e.received("staging") > 0
	})
	copied := e.backends["staging"].all()[0]
	if got, want := copied.header.Get(hubHeader), hubSignature(copied.body, stagingSecret); got != want {
		t.Errorf("the copy is signed with %s, want %s", got, want)
	}
	within(t, longPatience, "production gets all", func() bool { return e.received("support") == sent+1 })
}
