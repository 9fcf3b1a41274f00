//go:build postgres

package integration

import (
	"net/http"
	"strings"
	"testing"
)

func TestExampleOfSeveralCaddys(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	e := startExample(t, "postgres", map[string]string{"DATABASE_URL": db.url()})
	e.wantRouted(byTopic)
	e.wantOnlyIntercomBehindTheProxy()
	e.wantStatus("/ready", http.StatusOK)
}

func TestExampleForProduction(t *testing.T) {
	db := newPgDatabase(t, pgShared)
	e := startExample(t, "production", map[string]string{"database-url": db.url(), "ops-password-hash": passwordHash})
	e.wantRouted(map[string]string{"contact.user.created": "crm", "ticket.created": "support", "job.completed": "archive"})
	e.wantOnlyIntercomBehindTheProxy()
	e.wantStatus("/ready", http.StatusNotFound) // from outside
	e.wantStatus("/queue", http.StatusUnauthorized)
	for path, want := range map[string]string{"/ready": "ready", "/live": "", "/metrics": "caddy_intercom_webhook_queue_deliveries"} {
		response, err := http.Get("http://127.0.0.1:" + e.others[":9090"] + path)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := readReply(response)
		if err != nil {
			t.Fatal(err)
		}
		if answer.status != http.StatusOK || !strings.Contains(answer.body, want) {
			t.Errorf("%s: answer %d %.200q, want 200 and %q", path, answer.status, answer.body, want)
		}
	}
}
