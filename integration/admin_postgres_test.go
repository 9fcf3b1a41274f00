//go:build postgres

package integration

import (
	"strings"
	"testing"
)

func TestPostgresAdminAPI(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	o, ids := operate(t, func(*process) string { return "queue postgres " + db.url() + " {\nmax_attempts 1\n}" })
	tryAdminAPI(t, o, ids)

	last := o.wantChange("/deliveries/erase?workspace=tulip4&notification="+ids[1], 2)
	for _, want := range []string{"--vacuum", "replicas", "backups"} {
		if note, _ := last["note"].(string); !strings.Contains(note, want) {
			t.Errorf("the note does not mention %s: %s", want, note)
		}
	}
	if got := db.text("SELECT count(*)::text FROM intercom_webhook.notification WHERE notification_id = '" + ids[1] + "'"); got != "0" {
		t.Errorf("%s rows are left", got)
	}
}

func TestPostgresAdminAPIOfTwoCaddys(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	hanging := newBackend(t, hang)
	s := db.queued("route * as talk to "+hanging.address, "workers 1")
	one, two := startPgProcess(t, s), startPgProcess(t, s)

	id := one.post(topic)
	one.awaitListed("state=delivering", id)
	within(t, longPatience, "the other Caddy has opened its queue, too", func() bool {
		status, _ := two.adminAsk("GET", "/lanes")
		return status == 200
	})
	if lane := two.adminLines("POST", "/lanes/talk/pause")[0]; lane["state"] != "paused" {
		t.Errorf("the lane is %v", lane)
	}
	within(t, longPatience, "the other Caddy has paused the lane, too", func() bool {
		return one.adminLines("GET", "/lanes")[0]["state"] == "paused"
	})
	waiting := two.post(topic)
	two.wantListed("state=waiting", waiting)
	two.wantChange("/deliveries/erase?workspace=tulip4", 2) // also what the other one delivers
	one.wantListed("")
}
