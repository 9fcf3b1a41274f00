package integration

import (
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
)

// earlierJob is a notification as the version before stored it, through River.
type earlierJob struct {
	Topic      string         `json:"topic"`
	Endpoint   string         `json:"endpoint"`
	AppID      string         `json:"app_id"`
	ID         string         `json:"id"`
	ReceivedAt time.Time      `json:"received_at"`
	Request    map[string]any `json:"request"`
	Body       string         `json:"body"`
}

// Kind implements river.JobArgs.
func (earlierJob) Kind() string { return "intercom_notification" }

func newEarlierJob(id string) earlierJob {
	body := notification(topic, id)
	return earlierJob{
		Topic: topic, Endpoint: "intercom", AppID: "tulip4", ID: id, ReceivedAt: time.Now().UTC(), Body: string(body),
		Request: map[string]any{
			"method": "POST", "uri": "/intercom", "proto": "HTTP/1.1", "host": "hooks.example.com", "remote_addr": "127.0.0.1:4711",
			"header": map[string][]string{hubHeader: {hubSignature(body, secret)}, "Content-Type": {"application/json"}},
		},
	}
}

// A file of the version before, which was River's own worker, is taken over with all
// that is in it.
func TestQueueTakesOverTheFileOfTheVersionBefore(t *testing.T) {
	p, b := newProcess(t), newTally(t, 0)
	db, err := sql.Open("sqlite", "file:"+p.store+"?_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	driver := riversqlite.New(db)
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := migrator.Migrate(t.Context(), rivermigrate.DirectionUp, nil); err != nil {
		t.Fatal(err)
	}
	client, err := river.NewClient(driver, &river.Config{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	const process = `'["2e8a6d0c-59e8-4f16-8f7e-6f1d1a8c2f7b"]'`
	const failure = `'[{"at":"2026-11-24T12:00:00Z","attempt":1,"error":"status 503","trace":""}]'`
	states := map[string]string{ // what each row was made by the worker of the version before
		"available": "state = 'available'",
		"running":   "state = 'running', attempt = 1, attempted_at = datetime('now', '-1 minutes'), attempted_by = jsonb(" + process + ")",
		"retryable": "state = 'retryable', attempt = 1, attempted_at = datetime('now', '-1 minutes'), scheduled_at = datetime('now', '-10 seconds'), " +
			"attempted_by = jsonb(" + process + "), errors = jsonb(" + failure + ")",
		"snoozed": "state = 'scheduled', attempt = 0, attempted_at = datetime('now', '-1 minutes'), scheduled_at = datetime('now', '+1 hours'), " +
			`attempted_by = jsonb(` + process + `), metadata = jsonb('{"snoozes":1}')`,
		"completed": "state = 'completed', attempt = 1, attempted_at = datetime('now', '-1 minutes'), finalized_at = datetime('now', '-1 minutes'), attempted_by = jsonb(" + process + ")",
	}
	var unfinished, finished []string
	for state, set := range states {
		for range 3 {
			id := newID()
			inserted, err := client.Insert(t.Context(), newEarlierJob(id), &river.InsertOpts{Queue: "conversation"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(fmt.Sprintf("UPDATE river_job SET %s WHERE id = %d", set, inserted.Job.ID)); err != nil {
				t.Fatalf("%s: %v", state, err)
			}
			if state == "completed" {
				finished = append(finished, id)
			} else {
				unfinished = append(unfinished, id)
			}
		}
	}
	if _, err := db.Exec("PRAGMA application_id = 1231255409"); err != nil { // "Icwq"
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	p.start(p.queued("route conversation.* to "+b.address, ""))
	wantAll(t, unfinished, b)
	p.idle()
	wantNoneTwice(t, b)
	for _, id := range finished {
		if b.count(id) > 0 {
			t.Errorf("%s was delivered again", id)
		}
	}
	p.wantMetric(`queue_jobs{lane="conversation",state="completed"}`, float64(len(unfinished)+len(finished)))
}
