//go:build postgres

package jobdb

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
)

// What River's client and its UI do to jobs is what the worker finds.
func TestPostgresRiverClient(t *testing.T) {
	p := newPgTest(t)
	client, err := river.NewClient(riverpgxv5.New(p.pool), &river.Config{Schema: p.schema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	check := func(_ *rivertype.JobRow, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	t.Run("reads, with what each attempt left", func(t *testing.T) {
		p := p.empty(t)
		id := p.stored("talk", `{"n": 1}`)
		job := p.one("talk")
		p.finish(Outcome{ID: id, Token: job.Token, State: StateDiscarded, Error: []byte(`{"at": "2026-11-24T00:00:00Z", "attempt": 1, "error": "502", "trace": "", "upstream": "10.0.0.1"}`)})
		row, err := client.JobGet(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if row.State != rivertype.JobStateDiscarded || row.Attempt != 1 || len(row.Errors) != 1 || row.Errors[0].Error != "502" || len(row.AttemptedBy) != 1 || row.FinalizedAt == nil {
			t.Errorf("River reads %+v", row)
		}
	})
	t.Run("retries, which starts the age anew", func(t *testing.T) {
		for _, attempted := range []bool{true, false} {
			p := p.empty(t)
			id := p.stored("talk", `{}`)
			state := "cancelled"
			if attempted {
				job := p.one("talk")
				p.finish(Outcome{ID: id, Token: job.Token, State: StateDiscarded})
				state = "discarded"
			} else {
				check(client.JobCancel(ctx, id))
			}
			if got := p.text("SELECT state::text FROM {s}river_job"); got != state {
				t.Errorf("it is %s, want %s", got, state)
			}
			p.run("UPDATE {s}river_job SET created_at = now() - interval '10 days', scheduled_at = now() - interval '10 days'")
			check(client.JobRetry(ctx, id))
			job := p.one("talk")
			if job.Age.Minutes() > 1 {
				t.Errorf("attempted before: %v: the age is %v", attempted, job.Age)
			}
			if own, err := p.OwnRunning(ctx); err != nil || len(own) != 1 || own[0].CancelRequested {
				t.Errorf("attempted before: %v: own is %v (%v)", attempted, own, err)
			}
		}
	})
	t.Run("cancels what runs, also if it ends before this is seen", func(t *testing.T) {
		for _, state := range []State{StateAvailable, StateRetryable} {
			p := p.empty(t)
			id := p.stored("talk", `{}`)
			job := p.one("talk")
			check(client.JobCancel(ctx, id))
			if own, err := p.OwnRunning(ctx); err != nil || len(own) != 1 || !own[0].CancelRequested {
				t.Errorf("own is %v (%v)", own, err)
			}
			p.finish(Outcome{ID: id, Token: job.Token, State: state})
			if got := p.text("SELECT state::text FROM {s}river_job WHERE id = $1 AND finalized_at IS NOT NULL", id); got != "cancelled" {
				t.Errorf("ended as %s, it is %s", state, got)
			}
			if jobs, _ := p.claim(Claim{Queue: "talk"}); len(jobs) != 0 {
				t.Errorf("ended as %s, it was claimed again", state)
			}
		}
	})
	t.Run("cancels and deletes what waits", func(t *testing.T) {
		p := p.empty(t)
		check(client.JobCancel(ctx, p.stored("talk", `{}`)))
		check(client.JobDelete(ctx, p.stored("talk", `{}`)))
		if jobs, _ := p.claim(Claim{Queue: "talk"}); len(jobs) != 0 {
			t.Errorf("claimed %v", jobs)
		}
	})
	t.Run("inserts", func(t *testing.T) {
		p := p.empty(t)
		if _, err := client.Insert(ctx, riverArgs{N: 7}, &river.InsertOpts{Queue: "talk"}); err != nil {
			t.Fatal(err)
		}
		if job := p.one("talk"); string(job.Args) != `{"n": 7}` || job.Attempt != 1 || job.Age.Minutes() > 1 {
			t.Errorf("claimed %+v", job)
		}
	})
	t.Run("pauses", func(t *testing.T) {
		p := p.empty(t)
		if _, err := p.Queues(ctx, []string{"talk", "mail"}); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			do     func() error
			paused bool
		}{
			{func() error { return client.QueuePause(ctx, "talk", nil) }, true},
			{func() error { return client.QueueResume(ctx, "talk", nil) }, false},
		} {
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			paused, err := p.Queues(ctx, []string{"talk", "mail"})
			if err != nil || paused["talk"] != step.paused || paused["mail"] {
				t.Errorf("paused are %v (%v)", paused, err)
			}
		}
	})
}

type riverArgs struct {
	N int `json:"n"`
}

func (riverArgs) Kind() string { return "another" }

func TestPostgresUI(t *testing.T) {
	p := newPgTest(t)
	ui, err := p.UI(t.Context(), "/queue", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	id := p.stored("talk", `{}`)
	job := p.one("talk")
	p.finish(Outcome{ID: id, Token: job.Token, State: StateDiscarded})
	ask := func(method, path, body string) string {
		t.Helper()
		r := httptest.NewRequest(method, "/queue/api"+path, strings.NewReader(body))
		w := httptest.NewRecorder()
		ui.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Errorf("%s %s: %d: %s", method, path, w.Code, w.Body)
		}
		return w.Body.String()
	}
	if got := ask(http.MethodGet, "/jobs?state=discarded&limit=5", ""); !strings.Contains(got, "conversation.user.created") {
		t.Errorf("dead letters are %s", got)
	}
	ask(http.MethodPost, "/jobs/retry", `{"ids": ["`+p.text("SELECT id::text FROM {s}river_job")+`"]}`)
	if job := p.one("talk"); job.ID != id || job.Attempt != 2 {
		t.Errorf("claimed %+v", job)
	}
}
